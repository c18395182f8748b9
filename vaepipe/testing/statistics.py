"""Statistical questions with measured standard errors instead of tolerances."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def z_scores(draws: Tensor, expected: Tensor | float = 0.0) -> Tensor:
    """How many standard errors the mean of `draws` `[n, *shape]` is from `expected`: `[*shape]`.

    A quantity that does not vary and is right scores zero.

    Example:
        >>> z_scores(torch.tensor([1.0, 3.0]), 2.0).item()
        0.0
    """
    gap = draws.mean(0) - expected
    error = draws.std(0) / len(draws) ** 0.5
    rounding = 1e-9 * (1 + draws.abs().amax(0))
    return torch.where(gap.abs() <= rounding, 0.0, gap / error)


def assert_mean(draws: Tensor, expected: Tensor | float, what: str, limit: float = 4.5) -> None:
    """The mean of independent `draws` `[n, *shape]` is `expected`, within `limit` standard errors.

    Raises:
        AssertionError: it is not; the message names the worst coordinate's score.
    """
    worst = z_scores(draws, expected).abs().max().item()
    assert worst < limit, f"{what}: {worst:.1f} standard errors away from what it should be"


def assert_same_mean(one: Tensor, other: Tensor, what: str, limit: float = 4.5) -> None:
    """Two independent sets of draws, `[n, *shape]` and `[m, *shape]`, have one mean.

    Raises:
        AssertionError: they do not.
    """
    gap = one.mean(0) - other.mean(0)
    error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
    rounding = 1e-9 * (1 + one.abs().amax(0))
    scores = torch.where(gap.abs() <= rounding, 0.0, gap / error).abs()
    assert scores.max() < limit, f"{what}: {scores.max():.1f} standard errors apart"


def gradients(surrogate: Callable[[], Tensor], parameters: list[Tensor], n: int) -> Tensor:
    """`n` independent draws of a surrogate's gradient, flattened: `[n, number of parameters]`."""
    draws = []
    for _ in range(n):
        parts = torch.autograd.grad(
            surrogate(), parameters, allow_unused=True, materialize_grads=True
        )
        draws.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(draws)
