"""datasets of vaepipe."""
