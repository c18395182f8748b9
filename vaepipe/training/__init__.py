"""training of vaepipe."""
