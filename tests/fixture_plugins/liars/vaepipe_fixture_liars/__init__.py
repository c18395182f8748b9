"""Components that break one promise each; they differ from honest ones in a line."""
