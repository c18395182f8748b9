"""Vector quantization for vaepipe: a code book, priors over its codes, and their objective."""
