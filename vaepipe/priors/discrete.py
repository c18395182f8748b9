"""Priors over discrete latents and over their relaxations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, final

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Distribution,
    Independent,
    OneHotCategorical,
    constraints,
)
from torch.distributions.constraints import Constraint
from torch.nn.functional import softplus

from vaepipe.core import (
    BinaryConcrete,
    Concrete,
    Conditional,
    DataSpec,
    Prior,
    PriorDraw,
    Shape,
    categories,
)


@final
class BernoulliPrior(Prior):
    """p(z) = prod_d Bernoulli(z_d; sigmoid(a_d)): independent bits, fair unless learned.

    For the family `bernoulli`, with which its KL is exact. With `autoregressive` each bit depends
    on those before it, in row-major order, and objectives sample the KL:

        p(z) = prod_d Bernoulli(z_d; sigmoid(a_d + sum_{e < d} W_de z_e))

    The fully visible sigmoid belief network (Neal, 1992; Frey, 1998), which Gregor et al. (2014)
    take as the prior of stochastic bits. Densities take one pass, draws as many as there are bits.

    Args:
        latent_shape: shape of z.
        data: ignored.
        learned: whether the log odds a are parameters; they start at zero and stay there if not.
        autoregressive: whether there is a W; it starts at zero and is learned, and so is a.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> prior = BernoulliPrior((2,), DataSpec((4,), SUPPORTS["real"], 100))
        >>> prior(None).z.log_prob(torch.ones(2)).exp().item()
        0.25
    """

    logits: Tensor

    def __init__(
        self,
        latent_shape: Shape,
        data: DataSpec,
        *,
        learned: bool = False,
        autoregressive: bool = False,
    ) -> None:
        super().__init__()
        _zeros(self, tuple(latent_shape), learned or autoregressive)
        d = self.logits.numel()
        self.weight = nn.Parameter(torch.zeros(d * (d - 1) // 2)) if autoregressive else None

    def forward(self, inference: Conditional | None) -> PriorDraw:
        """The prior; `inference` is not looked at."""
        if self.weight is not None:
            return PriorDraw(AutoregressiveBits(self.logits, self.weight))
        bits = Bernoulli(logits=self.logits, validate_args=False)
        return PriorDraw(Independent(bits, self.logits.ndim, validate_args=False))


@final
class AutoregressiveBits(Distribution):
    """p(z) = prod_d Bernoulli(z_d; sigmoid(l_d)), l_d = a_d + sum_{e < d} W_de z_e.

    Args:
        logits: a, of the shape of z; bits are in row-major order.
        weight: W below its diagonal, row by row, `[d (d - 1) / 2]`.

    Example:
        >>> p = AutoregressiveBits(torch.zeros(2), torch.tensor([99.0]))  # z_1 = 1 makes z_2 = 1
        >>> [p.log_prob(torch.tensor(z)).exp().item() for z in ([0.0, 1.0], [1.0, 1.0])]
        [0.25, 0.5]
    """

    arg_constraints = {"logits": constraints.real}  # pyright: ignore[reportAssignmentType]
    has_rsample = False

    def __init__(self, logits: Tensor, weight: Tensor) -> None:
        self.logits = logits
        d = logits.numel()
        rows, columns = torch.tril_indices(d, d, -1, device=logits.device)
        self.weight = logits.new_zeros(d, d).index_put((rows, columns), weight)
        super().__init__(torch.Size(), logits.shape, validate_args=False)

    @property
    def support(self) -> Constraint:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Bits."""
        return constraints.independent(constraints.boolean, self.logits.ndim)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z) `[*lead]`, nats, for bits z `[*lead, *latent]`."""
        z = value.flatten(value.ndim - self.logits.ndim)
        log_odds = self.logits.flatten() + z @ self.weight.T
        return (z * log_odds - softplus(log_odds)).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # pyright: ignore
        """Bits `[*sample_shape, *latent]`, one after the other."""
        a, shape = self.logits.flatten(), torch.Size(sample_shape)
        z = a.new_zeros(*shape, len(a))
        for d in range(len(a)):
            log_odds = a[d] + z[..., :d] @ self.weight[d, :d]
            z[..., d] = torch.bernoulli(log_odds.sigmoid())
        return z.reshape(*shape, *self.logits.shape)


@final
class CategoricalPrior(Prior):
    """p(z) = prod_i Categorical(z_i; softmax(a_i)): independent one-hot codes, uniform or learned.

        uniform: log p(z) = -n log K

    For the family `categorical`, with which its KL is exact.

    Args:
        latent_shape: `[n, K]` for n codes of K categories each, or `[K]` for one.
        data: ignored.
        learned: whether the logits a are parameters; they start at zero and stay there if not.

    Raises:
        CompatibilityError: fewer than two categories.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> prior = CategoricalPrior((2, 4), DataSpec((4,), SUPPORTS["real"], 100))
        >>> round(prior(None).z.log_prob(torch.eye(4)[:2]).exp().item(), 4)
        0.0625
    """

    logits: Tensor

    def __init__(self, latent_shape: Shape, data: DataSpec, *, learned: bool = False) -> None:
        super().__init__()
        _zeros(self, categories(latent_shape), learned)

    def forward(self, inference: Conditional | None) -> PriorDraw:
        """The prior; `inference` is not looked at."""
        codes = OneHotCategorical(logits=self.logits, validate_args=False)
        return PriorDraw(Independent(codes, self.logits.ndim - 1, validate_args=False))


@final
class BinaryConcretePrior(Prior):
    """p(z) = prod_d BinaryConcrete(z_d; a_d, t): relaxed bits, kept as logits.

    Maddison, Mnih and Teh (2017), appendix C, who relax the prior at a temperature of its
    own. For the family `binary_concrete`. The KL has no closed form, so objectives sample it.

    Args:
        latent_shape: shape of z.
        data: ignored.
        temperature: t of the prior.
        learned: whether the log odds a are parameters; they start at zero and stay there if not.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> prior = BinaryConcretePrior((1,), DataSpec((4,), SUPPORTS["real"], 100))
        >>> prior(None).z.log_prob(torch.zeros(1)).exp().item()
        0.125
    """

    logits: Tensor

    def __init__(
        self,
        latent_shape: Shape,
        data: DataSpec,
        *,
        temperature: Annotated[float, Gt(0)] = 0.5,
        learned: bool = False,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        _zeros(self, tuple(latent_shape), learned)

    def forward(self, inference: Conditional | None) -> PriorDraw:
        """The prior; `inference` is not looked at."""
        bits = BinaryConcrete(self.logits, self.temperature)
        return PriorDraw(Independent(bits, self.logits.ndim, validate_args=False))


@final
class ConcretePrior(Prior):
    """p(z) = prod_i Concrete(z_i; a_i, t): relaxed one-hot codes, kept as logarithms.

    Maddison, Mnih and Teh (2017), appendix C, who relax the prior at a temperature of its own.
    For the family `concrete`. The KL has no closed form, so objectives sample it.

    Args:
        latent_shape: `[n, K]` for n codes of K categories each, or `[K]` for one.
        data: ignored.
        temperature: t of the prior.
        learned: whether the logits a are parameters; they start at zero and stay there if not.

    Raises:
        CompatibilityError: fewer than two categories.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> prior = ConcretePrior((4, 3), DataSpec((4,), SUPPORTS["real"], 100))
        >>> prior(None).z.sample((5,)).shape
        torch.Size([5, 4, 3])
    """

    logits: Tensor

    def __init__(
        self,
        latent_shape: Shape,
        data: DataSpec,
        *,
        temperature: Annotated[float, Gt(0)] = 0.5,
        learned: bool = False,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        _zeros(self, categories(latent_shape), learned)

    def forward(self, inference: Conditional | None) -> PriorDraw:
        """The prior; `inference` is not looked at."""
        codes = Concrete(self.logits, self.temperature)
        return PriorDraw(Independent(codes, self.logits.ndim - 1, validate_args=False))


def _zeros(prior: Prior, shape: Shape, learned: bool) -> None:
    """Logits of zero: parameters, or constants that need not be stored."""
    if learned:
        prior.logits = nn.Parameter(torch.zeros(shape))
    else:
        prior.register_buffer("logits", torch.zeros(shape), persistent=False)
