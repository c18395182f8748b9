"""What contracts share: how a question is asked, and the ones that every module answers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, StudentT

from vaepipe.core import seeded
from vaepipe.testing.statistics import assert_mean


class Contract:
    """Questions are its methods named `test_…`; each stands alone, from the same seed."""

    draws: ClassVar[int] = 20_000
    """Monte-Carlo draws behind a statistical question."""

    def setup_method(self) -> None:
        """Seed torch before a question; pytest calls this by itself."""
        torch.manual_seed(0)


def questions(contract: type[Contract]) -> tuple[str, ...]:
    """The names of a contract's questions, in alphabetical order."""
    return tuple(name for name in sorted(dir(contract)) if name.startswith("test_"))


def ask(contract: Contract, question: str) -> None:
    """Put one question; torch's generators are as before afterwards.

    Raises:
        AssertionError: the promise is broken.
    """
    with seeded(0):
        contract.setup_method()
        getattr(contract, question)()


def assert_same_after_state_dict(
    make: Callable[[], nn.Module], read: Callable[..., Tensor]
) -> None:
    """A second module that loads the first one's state gives the same numbers; so does a pickle."""
    first, second = shaken(make()), make()
    second.load_state_dict(first.state_dict())
    expected = read(first)
    for name, twin in {
        "state dict": second,
        "deep copy": copy.deepcopy(first),
        "pickle": pickle.loads(pickle.dumps(first)),
    }.items():
        assert torch.equal(read(twin), expected), f"{name}: other numbers after a round trip"


def shaken(module: nn.Module) -> nn.Module:
    """The module with every parameter moved a little, so that it is no longer at its start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def assert_all_trained(module: nn.Module, value: Tensor) -> None:
    """Every parameter that asks for a gradient gets a finite one from `value`."""
    value.sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} gets no gradient"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"


def assert_normalised(d: Distribution, n: int) -> None:
    """The total mass of `d`, of batch shape `[]`, is one.

    A density is integrated by importance sampling from a wide Student t around the draws of `d`;
    a mass is summed over the values that draws visit.
    """
    if is_discrete(d):
        visited = d.sample((n,)).flatten(1).unique(dim=0).reshape(-1, *d.event_shape)
        total = d.log_prob(visited).exp().sum().item()
        assert 1 - 1e-2 < total < 1 + 1e-6, f"the masses add up to {total}"
        return
    cover = _cover(d.sample((1000,)))
    z = cover.sample((n,))
    inside = _check(d, z)
    ratio = torch.zeros(n)
    ratio[inside] = (d.log_prob(z[inside]) - cover.log_prob(z[inside])).exp()
    assert_mean(ratio, 1.0, "the integral of the density")


def is_discrete(d: Distribution) -> bool:
    """Does `d` have masses, and not a density?"""
    return bool(d.support is not None and d.support.is_discrete)


def assert_inside(d: Distribution, draws: Tensor) -> None:
    """Draws lie in the support of the distribution that made them."""
    assert _check(d, draws).all(), f"draws outside the support {d.support}"


def scalar_heads(h: Tensor, n: int) -> Tensor:
    """`n` copies of features `h` as independent leaves, so that gradients come one per draw."""
    return h.expand(n, *h.shape).clone().requires_grad_()


def assert_score_is_centred(draws: Callable[[Any], Distribution], h: Tensor, n: int) -> None:
    """E[d log p(x) / dh] = 0 for x ~ p: the sampler and the density are of one distribution."""
    leaves = scalar_heads(h, n)
    d = draws(leaves)
    d.log_prob(d.sample()).sum().backward()
    assert leaves.grad is not None, "log_prob gives the features no gradient"
    assert_mean(leaves.grad, 0.0, "the mean score")


def batches(event: Sequence[int]) -> list[tuple[int, ...]]:
    """Shapes with no, one, two leading dimensions."""
    return [(*lead, *event) for lead in ((), (5,), (4, 5))]


def _check(d: Distribution, values: Tensor) -> Tensor:
    """`[n]`: which values lie in the support (a constraint may look at single numbers)."""
    assert d.support is not None, "a distribution without a support"
    return d.support.check(values).reshape(len(values), -1).all(-1)


def _cover(draws: Tensor) -> Distribution:
    scale = 2 * draws.std(0) + 1e-3
    return Independent(StudentT(3.0, draws.mean(0), scale), draws.ndim - 1)
