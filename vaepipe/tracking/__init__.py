"""tracking of vaepipe."""
