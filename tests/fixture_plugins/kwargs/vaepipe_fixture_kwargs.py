"""Constructors that hide their options."""


class KwargsPrior:
    """Takes anything."""

    def __init__(self, latent_shape, data, **kwargs) -> None:
        self.options = kwargs


class BarePrior:
    """Does not say of which type its option is."""

    def __init__(self, latent_shape, data, *, scale=1.0) -> None:
        self.scale = scale
