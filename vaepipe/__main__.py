"""`python -m vaepipe`."""

from vaepipe.cli import main

if __name__ == "__main__":
    main()
