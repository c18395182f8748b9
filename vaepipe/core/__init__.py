"""core of vaepipe."""
