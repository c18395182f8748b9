"""Statistical questions with measured standard errors instead of tolerances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

LIMIT = 4.5
"""Standard errors that a statistical question forgives: chance exceeds it once in 150,000 times."""

_figures: ContextVar[list[str] | None] = ContextVar("figures", default=None)


@contextmanager
def figures() -> Iterator[list[str]]:
    """Collects what is measured inside, for a report.

    Example:
        >>> with figures() as seen:
        ...     assert_mean(torch.tensor([1.0, 3.0]), 2.0, "the mean")
        >>> seen
        ['the mean: 0.0 standard errors']
    """
    seen: list[str] = []
    token = _figures.set(seen)
    try:
        yield seen
    finally:
        _figures.reset(token)


def note(figure: str) -> None:
    """Hand a measured figure to whoever collects them."""
    seen = _figures.get()
    if seen is not None:
        seen.append(figure)


def judge(worst: Tensor | float, what: str, limit: float = LIMIT) -> None:
    """Note a score, in standard errors, and hold it against the limit.

    Raises:
        AssertionError: it is larger, or not a number.
    """
    score = float(torch.as_tensor(worst).detach())
    note(f"{what}: {score:.1f} standard errors")
    assert score < limit, f"{what}: {score:.1f} standard errors away from what it should be"


def z_scores(draws: Tensor, expected: Tensor | float = 0.0) -> Tensor:
    """How many standard errors the mean of `draws` `[n, *shape]` is from `expected`: `[*shape]`.

    A quantity that does not vary and is right scores zero.

    Example:
        >>> z_scores(torch.tensor([1.0, 3.0]), 2.0).item()
        0.0
    """
    exact = draws.double()
    gap = exact.mean(0) - expected
    error = exact.std(0) / len(draws) ** 0.5
    return torch.where(gap.abs() <= _rounding(draws), 0.0, gap / error)


def assert_mean(draws: Tensor, expected: Tensor | float, what: str, limit: float = LIMIT) -> None:
    """The mean of independent `draws` `[n, *shape]` is `expected`, within `limit` standard errors.

    Raises:
        AssertionError: it is not; the message names the worst coordinate's score.
    """
    judge(z_scores(draws, expected).abs().max(), what, limit)


def assert_same_mean(one: Tensor, other: Tensor, what: str, limit: float = LIMIT) -> None:
    """Two independent sets of draws, `[n, *shape]` and `[m, *shape]`, have one mean.

    Raises:
        AssertionError: they do not.
    """
    a, b = one.double(), other.double()
    gap = a.mean(0) - b.mean(0)
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    scores = torch.where(gap.abs() <= _rounding(one), 0.0, gap / error).abs()
    judge(scores.max(), what, limit)


def gradients(surrogate: Callable[[], Tensor], parameters: list[Tensor], n: int) -> Tensor:
    """`n` independent draws of a surrogate's gradient, flattened: `[n, number of parameters]`."""
    draws = []
    for _ in range(n):
        parts = torch.autograd.grad(
            surrogate(), parameters, allow_unused=True, materialize_grads=True
        )
        draws.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(draws)


def _rounding(draws: Tensor) -> Tensor:
    """What arithmetic loses in numbers of this size and type, `[*shape]` of `[n, *shape]`."""
    share = max(1e-9, 4 * torch.finfo(draws.dtype).eps)
    return share * (1 + draws.double().abs().amax(0))
