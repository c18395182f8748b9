"""pipeline of vaepipe."""
