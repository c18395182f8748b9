"""stages of vaepipe."""
