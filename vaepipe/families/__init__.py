"""Families: q(z | x)."""
