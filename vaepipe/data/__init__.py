"""data of vaepipe."""
