"""A prior whose name is taken."""


class OtherLaplacePrior:
    """Takes another option than the one whose name it has."""

    def __init__(self, latent_shape, data, *, rate: float = 2.0) -> None:
        self.rate = rate
