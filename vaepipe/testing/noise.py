"""A draw as a function of its noise, whatever code makes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints
from torch.overrides import TorchFunctionMode

from vaepipe.testing.contracts.base import NotAsked

_NORMAL = {"normal": 0, "normal_": 1, "randn": None, "randn_like": None}
_UNIFORM = {"uniform_": 1, "rand": None, "rand_like": None}
"""Functions that make noise, and which argument begins its two parameters, if they are given."""
_OTHER = ("bernoulli", "multinomial", "poisson", "binomial", "_standard_gamma", "exponential_")


class Fed(TorchFunctionMode):
    """Inside, Normal and uniform noise of torch is what it was fed.

    Args:
        noise: a vector; numbers are taken from its front. None draws them, and remembers.
    """

    def __init__(self, noise: Tensor | None = None) -> None:
        """Nothing is taken yet."""
        super().__init__()
        self.noise = noise
        self.taken: list[Tensor] = []
        self.log_density = torch.zeros(())
        self.foreign = False

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """What torch would give, with the noise replaced."""
        made = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        self.foreign |= name in _OTHER
        if name in _NORMAL:
            made = self._replaced(made)
            loc, scale = _parameters(_NORMAL[name], args, (0.0, 1.0))
            self.log_density = self.log_density + Normal(loc, scale).log_prob(made).sum()
        elif name in _UNIFORM:
            made = self._replaced(made)
            low, high = _parameters(_UNIFORM[name], args, (0.0, 1.0))
            self.log_density = self.log_density - made.numel() * math.log(high - low)
        return made

    def _replaced(self, made: Tensor) -> Tensor:
        if self.noise is not None:
            start = sum(each.numel() for each in self.taken)
            made = self.noise[start : start + made.numel()].reshape(made.shape)
        self.taken.append(made)
        return made


def _parameters(
    first: int | None, args: Sequence[Any], default: tuple[Any, Any]
) -> tuple[Any, Any]:
    if first is None or len(args) < first + 2:
        return default
    return args[first], args[first + 1]


def change_of_variables(make: Callable[[], Distribution], seed: int) -> tuple[Tensor, Tensor]:
    """A draw z `[*latent]` and its log density by autograd: log p(e) - log |det dz/de|.

    Raises:
        NotAsked: z has not as many numbers as its noise, or is not real.
    """
    q = make()
    support: Any = q.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support not in (constraints.real, constraints.real_vector):
        raise NotAsked(f"draws live on {support}; the integral of the density is asked")
    torch.manual_seed(seed)
    with Fed() as first:
        z = q.rsample().detach()
    if first.foreign or sum(each.numel() for each in first.taken) != z.numel():
        raise NotAsked("z has not one number of noise for each of its own; its integral is asked")
    e = torch.cat([each.detach().flatten() for each in first.taken])
    jacobian = torch.autograd.functional.jacobian(lambda v: _fed(make, v).flatten(), e)
    log_det = torch.linalg.slogdet(jacobian).logabsdet
    return z, first.log_density.detach() - log_det


def _fed(make: Callable[[], Distribution], noise: Tensor) -> Tensor:
    q = make()
    with Fed(noise):
        return q.rsample()
