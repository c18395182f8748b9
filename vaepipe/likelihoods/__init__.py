"""likelihoods of vaepipe."""
