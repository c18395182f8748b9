"""Likelihoods: p(x | z)."""
