"""objectives of vaepipe."""
