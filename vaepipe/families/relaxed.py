"""Continuous relaxations of discrete posteriors, whose draws carry gradients."""

from __future__ import annotations

from typing import Annotated, final

from annotated_types import Gt
from torch import Tensor
from torch.distributions import Independent

from vaepipe.core import BinaryConcrete, Cap, Concrete, Family, Shape, categories


@final
class BinaryConcreteFamily(Family):
    """q(z | x) = prod_d BinaryConcrete(z_d; h_d, t): bits relaxed to (0, 1), kept as logits.

        z_d = (h_d + log u - log(1 - u)) / t,   u ~ U(0, 1);   the decoder reads sigmoid(z)

    Maddison, Mnih and Teh (2017), appendix B; Jang, Gu and Poole (2017). As t
    falls, sigmoid(z) nears a bit that is 1 with probability sigmoid(h). The latent is the logit,
    because the bit itself rounds to 0 or 1 in single precision where its density still matters;
    bounds are the same for both. The prior that belongs to it is `binary_concrete`. The bound is of
    the relaxed model, not of the model with bits.

    Args:
        latent_shape: shape of z.
        temperature: t; draws and density have the same.

    Example:
        >>> import torch
        >>> head = BinaryConcreteFamily((3,), temperature=0.1)
        >>> z = head(torch.full((5, 3), 100.0)).rsample()
        >>> head.read(z).min().item()
        1.0
    """

    provides = Cap.SAMPLE | Cap.RSAMPLE | Cap.DENSITY

    def __init__(
        self, latent_shape: Shape, *, temperature: Annotated[float, Gt(0)] = 2 / 3
    ) -> None:
        super().__init__()
        self.feature_shape = tuple(latent_shape)
        self.temperature = temperature

    def forward(self, h: Tensor) -> Independent:
        """q(z | h) for features `h` `[*batch, *latent]`, the log odds of every relaxed bit."""
        bits = BinaryConcrete(h, self.temperature)
        return Independent(bits, len(self.feature_shape), validate_args=False)

    def read(self, z: Tensor) -> Tensor:
        """Relaxed bits in [0, 1], `[*batch, *latent]`."""
        return z.sigmoid()


@final
class ConcreteFamily(Family):
    """q(z | x) = prod_i Concrete(z_i; h_i, t): one-hot codes relaxed to the simplex, kept as logs.

        z_i = log softmax((h_i + g_i) / t),   g_ik ~ Gumbel(0, 1);   the decoder reads softmax(z)

    Maddison, Mnih and Teh (2017), definition 1; Jang, Gu and Poole (2017), section 2, who call it
    Gumbel-softmax. As t falls, softmax(z_i) nears a one-hot code that is k with probability
    softmax(h_i)_k. The latent is the logarithm, because the weights themselves round to zero in
    single precision where their density still matters; bounds are the same for both. The prior
    that belongs to it is `concrete`. The bound is of the relaxed model, not of that with codes.

    Args:
        latent_shape: `[n, K]` for n codes of K categories each, or `[K]` for one.
        temperature: t; draws and density have the same.

    Raises:
        CompatibilityError: fewer than two categories.

    Example:
        >>> import torch
        >>> head = ConcreteFamily((4, 3))
        >>> z = head(torch.zeros(5, 4, 3)).rsample()
        >>> torch.allclose(head.read(z).sum(-1), torch.ones(()))
        True
    """

    provides = Cap.SAMPLE | Cap.RSAMPLE | Cap.DENSITY

    def __init__(
        self, latent_shape: Shape, *, temperature: Annotated[float, Gt(0)] = 2 / 3
    ) -> None:
        super().__init__()
        self.feature_shape = categories(latent_shape)
        self.temperature = temperature

    def forward(self, h: Tensor) -> Independent:
        """q(z | h) for features `h` `[*batch, *latent]`, unnormalised log probabilities."""
        codes = Concrete(h, self.temperature)
        return Independent(codes, len(self.feature_shape) - 1, validate_args=False)

    def read(self, z: Tensor) -> Tensor:
        """Points of the simplex, `[*batch, *latent]`."""
        return z.softmax(-1)
