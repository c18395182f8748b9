"""families of vaepipe."""
