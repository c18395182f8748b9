"""Relaxations of bits and of one-hot codes, in coordinates where no float can saturate.

A bit relaxed to s in (0, 1) is kept as its logit, a code relaxed to s in the simplex as log s: in
single precision s itself rounds to 0 or 1 where its density still changes by hundreds of nats.
Ratios of densities, hence bounds, are the same in either coordinates.
"""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Distribution, biject_to, constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform
from torch.nn.functional import pad, softplus

from vaepipe.core.spec import Shape

_TOLERANCE = 1e-4


@final
class LogSimplex(Constraint):
    """Vectors y with sum_k exp(y_k) = 1, in the last dimension."""

    is_discrete = False
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Which vectors of `value` `[*batch, K]` are logarithms of a point of the simplex."""
        return value.logsumexp(-1).abs() < _TOLERANCE

    def __repr__(self) -> str:
        return "LogSimplex()"


@final
class LogRatios(Transform):
    """w `[*batch, K - 1]` to y = log softmax(w, 0) `[*batch, K]`, so that w_k = y_k - y_K.

    The volume on the log simplex is that of w, hence the log determinant is zero.
    """

    domain = constraints.real_vector
    codomain = LogSimplex()
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogRatios)

    def forward_shape(self, shape: Shape) -> Shape:
        """One more in the last dimension."""
        return (*shape[:-1], shape[-1] + 1)

    def inverse_shape(self, shape: Shape) -> Shape:
        """One less in the last dimension."""
        return (*shape[:-1], shape[-1] - 1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zero, `[*batch]`."""
        return torch.zeros_like(x[..., 0])

    def _call(self, x: Tensor) -> Tensor:
        return pad(x, (0, 1)).log_softmax(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return y[..., :-1] - y[..., -1:]


@biject_to.register(LogSimplex)
@transform_to.register(LogSimplex)
def _to_log_simplex(constraint: LogSimplex) -> Transform:
    """What torch's registries give for the support of a `Concrete`."""
    return LogRatios()


@final
class BinaryConcrete(Distribution):
    """The logit y of a relaxed bit s = sigmoid(y), at one temperature t.

        y = (a + log u - log(1 - u)) / t,   u ~ U(0, 1)
        log p(y) = log t - |d| - 2 log(1 + exp(-|d|)),   d = a - t y

    Maddison, Mnih and Teh (2017), appendix B, before the sigmoid: a logistic variable of
    mean a / t and scale 1 / t. Draws and density have the temperature of the object, and no other.

    Args:
        logits: a, the log odds of s > 1/2, `[*batch]`.
        temperature: t.

    Example:
        >>> BinaryConcrete(torch.tensor([100.0]), 0.5).log_prob(torch.tensor([200.0])).exp().item()
        0.125
    """

    arg_constraints = {"logits": constraints.real}  # pyright: ignore[reportAssignmentType]
    support = constraints.real  # pyright: ignore[reportAssignmentType]
    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float) -> None:
        self.logits = logits
        self.temperature = temperature
        super().__init__(logits.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """E y = a / t, `[*batch]`."""
        return self.logits / self.temperature

    @property
    def variance(self) -> Tensor:
        """Var y = (pi / t)^2 / 3, `[*batch]`."""
        return torch.full_like(self.logits, (math.pi / self.temperature) ** 2 / 3)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> BinaryConcrete:
        """The same distribution for a larger batch."""
        return BinaryConcrete(self.logits.expand(batch_shape), self.temperature)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Logits y that carry gradients, `[*sample, *batch]`."""
        u = _uniform(self.logits, self._extended_shape(torch.Size(sample_shape)))
        return (self.logits + u.log() - torch.log1p(-u)) / self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(y), nats, for logits y that broadcast against `[*batch]`."""
        d = (self.logits - self.temperature * value).abs()
        return math.log(self.temperature) - d - 2 * softplus(-d)


@final
class Concrete(Distribution):
    """The logarithms y of a relaxed one-hot code s = exp(y), at one temperature t.

        y = log softmax((a + g) / t),   g_k ~ Gumbel(0, 1)
        log p(y) = log (K-1)! + (K-1) log t + sum_k b_k - K log sum_k exp b_k,   b = a - t y

    Maddison, Mnih and Teh (2017), definition 1 and appendix C.3; Jang, Gu and Poole (2017). The
    density is that of the K - 1 log ratios log s_k / s_K, whichever category stands for K; that of
    s on the simplex is larger by -sum_k y_k. For two categories y_1 - y_2 is a `BinaryConcrete`.

    Args:
        logits: a, unnormalised log probabilities, `[*batch, K]`.
        temperature: t.

    Example:
        >>> y = Concrete(torch.zeros(5, 3), 0.5).rsample((7,))
        >>> y.shape, bool(LogSimplex().check(y).all())
        (torch.Size([7, 5, 3]), True)
    """

    arg_constraints = {"logits": constraints.real_vector}  # pyright: ignore[reportAssignmentType]
    support = LogSimplex()  # pyright: ignore[reportAssignmentType]
    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float) -> None:
        self.logits = logits
        self.temperature = temperature
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Concrete:
        """The same distribution for a larger batch."""
        logits = self.logits.expand(*batch_shape, *self.event_shape)
        return Concrete(logits, self.temperature)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Points y of the log simplex that carry gradients, `[*sample, *batch, K]`."""
        u = _uniform(self.logits, self._extended_shape(torch.Size(sample_shape)))
        gumbel = -torch.log(-torch.log(u))
        return ((self.logits + gumbel) / self.temperature).log_softmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(y) `[*batch]`, nats, for y `[*batch, K]` that broadcasts against the logits."""
        k = self.logits.shape[-1]
        constant = math.lgamma(k) + (k - 1) * math.log(self.temperature)
        score = (self.logits - self.temperature * value).log_softmax(-1)
        return constant + score.sum(-1)


def _uniform(like: Tensor, shape: torch.Size) -> Tensor:
    """Uniform draws of the type of `like`, never 0 or 1, and as far from the one as the other."""
    edge = torch.finfo(like.dtype).eps / 2
    return torch.rand(shape, dtype=like.dtype, device=like.device).clamp(edge, 1 - edge)
