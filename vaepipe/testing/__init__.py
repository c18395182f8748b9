"""testing of vaepipe."""
