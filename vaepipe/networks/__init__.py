"""networks of vaepipe."""
