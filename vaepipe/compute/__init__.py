"""compute of vaepipe."""
