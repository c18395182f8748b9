"""vaepipe: a distributed batch pipeline for variational autoencoders.

Importing this package loads neither torch nor ray nor mlflow; the public names live in
`vaepipe.core`, `vaepipe.testing` and `vaepipe.pipeline`.
"""

__version__ = "0.1.0"
