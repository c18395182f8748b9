"""Normalizing flows: posteriors and priors for vaepipe."""
