"""Networks: features from examples or latents."""
