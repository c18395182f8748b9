"""priors of vaepipe."""
