"""Posteriors over discrete latents: bits, and one-hot codes."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.distributions import Bernoulli, Independent, OneHotCategorical

from vaepipe.core import Cap, Family, Shape, categories


@final
class BernoulliFamily(Family):
    """q(z | x) = prod_d Bernoulli(z_d; sigmoid(h_d)): independent bits.

        log q(z | x) = sum_d z_d h_d - softplus(h_d),   z_d in {0, 1}

    Draws carry no gradient: train with `vimco`, `reinforce`, `rws` or `wake_sleep`, or take the
    relaxation `binary_concrete`. The prior that belongs to it is `bernoulli`, and the KL to it is
    exact.

    Args:
        latent_shape: shape of z.

    Example:
        >>> import torch
        >>> q = BernoulliFamily((3,))(torch.zeros(5, 3))
        >>> q.batch_shape, q.event_shape, q.mean[0].tolist()
        (torch.Size([5]), torch.Size([3]), [0.5, 0.5, 0.5])
    """

    provides = Cap.SAMPLE | Cap.DENSITY

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.feature_shape = tuple(latent_shape)

    def forward(self, h: Tensor) -> Independent:
        """q(z | h) for features `h` `[*batch, *latent]`, the log odds of every bit."""
        bits = Bernoulli(logits=h, validate_args=False)
        return Independent(bits, len(self.feature_shape), validate_args=False)


@final
class CategoricalFamily(Family):
    """q(z | x) = prod_i Categorical(z_i; softmax(h_i)): independent one-hot codes.

        log q(z | x) = sum_i sum_k z_ik log softmax(h_i)_k,   z_i one of K unit vectors

    Draws carry no gradient: train with `vimco`, `reinforce`, `rws` or `wake_sleep`, or take the
    relaxation `concrete`. The prior that belongs to it is `categorical`, and the KL to it is exact;
    log K for every code that q is certain of, if that prior is uniform.

    Args:
        latent_shape: `[n, K]` for n codes of K categories each, or `[K]` for one.

    Raises:
        CompatibilityError: fewer than two categories.

    Example:
        >>> import torch
        >>> q = CategoricalFamily((4, 3))(torch.zeros(5, 4, 3))
        >>> q.batch_shape, q.event_shape, q.sample()[0].sum().item()
        (torch.Size([5]), torch.Size([4, 3]), 4.0)
    """

    provides = Cap.SAMPLE | Cap.DENSITY

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.feature_shape = categories(latent_shape)

    def forward(self, h: Tensor) -> Independent:
        """q(z | h) for features `h` `[*batch, *latent]`, unnormalised log probabilities."""
        codes = OneHotCategorical(logits=h, validate_args=False)
        return Independent(codes, len(self.feature_shape) - 1, validate_args=False)
