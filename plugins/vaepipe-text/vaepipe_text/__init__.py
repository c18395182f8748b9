"""Sentences in vaepipe: a recurrent p(x | z)."""
