"""Components that keep every promise, one for each group."""
