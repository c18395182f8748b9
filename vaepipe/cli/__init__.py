"""cli of vaepipe."""
