"""evaluation of vaepipe."""
