"""Is a distribution what it says: does its mass add up to one, do its draws follow its density?

Masses are added up where they can be listed. A density is integrated by importance sampling from
a wide Student t, over the whole line: `biject_to` maps the line to the support, so that intervals,
half-lines and simplices need no special treatment.
"""

from __future__ import annotations

import itertools
from math import prod
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, StudentT, biject_to, constraints
from torch.distributions.transforms import Transform

from vaepipe.core import LogSimplex
from vaepipe.testing.statistics import LIMIT, assert_mean, assert_same_mean, judge, note

ENUMERABLE = 5000
"""Values that are added up one by one; more are sampled."""
_WAVES = 8
_WIDER = 1.4
"""The scale of the cover, in standard deviations of what it covers."""
_ENOUGH = 25
"""Draws that a value must expect before its frequency is compared with its mass."""


def is_discrete(d: Distribution) -> bool:
    """Does `d` have masses, and not a density?"""
    return bool(d.support is not None and d.support.is_discrete)


def all_values(d: Distribution, levels: int | None = None) -> Tensor | None:
    """Every value `[n, *event]` of a discrete distribution; None if there are too many.

    Args:
        d: of any batch shape.
        levels: how many values an integer without an end has.

    Example:
        >>> from torch.distributions import Bernoulli
        >>> all_values(Independent(Bernoulli(torch.zeros(2)), 1)).shape
        torch.Size([4, 2])
    """
    single = _single_values(_innermost(d.support), d.event_shape, levels)
    if single is None:
        return None
    count = prod(d.event_shape) // prod(single.shape[1:])
    if len(single) ** count > ENUMERABLE:
        return None
    rows = [torch.cat(r) for r in itertools.product(single.reshape(len(single), -1), repeat=count)]
    return torch.stack(rows).reshape(-1, *d.event_shape)


def assert_normalised(d: Distribution, n: int, levels: int | None = None) -> None:
    """The total mass of `d`, of batch shape `[]`, is one.

    Masses are added up, exactly where the values can be listed; elsewhere over the values that `n`
    draws visit, and what is missing must be how often `n` others go elsewhere. A density is
    integrated by importance sampling.

    Raises:
        AssertionError: it is not one.
    """
    if not is_discrete(d):
        assert_mean(_weights(d, n)[1], 1.0, "the integral of the density")
        return
    values = all_values(d, levels)
    if values is None:
        assert_visited_masses(d, n)
        return
    total = d.log_prob(values).exp().sum().item()
    note(f"the masses add up to {total:.9f}")
    assert abs(total - 1) < _rounding(values), f"the masses add up to {total:.6g}"


def assert_draws_follow(d: Distribution, n: int, levels: int | None = None) -> None:
    """`d.sample` and `d.log_prob`, of batch shape `[]`, are of one distribution.

    Frequencies against masses; or means of waves cos(w u), sin(w u) over draws against the same
    means under the density, u being the draw on the line.

    Raises:
        AssertionError: they are not.
    """
    draws = d.sample((n,))
    if is_discrete(d):
        assert_frequencies(d, draws, levels)
        return
    line = _line(d)
    u, weights = _weights(d, n)
    own = _inverse(line, draws).flatten(1)
    waves = torch.randn(u.shape[1], _WAVES) / _spread(own).unsqueeze(-1)
    expected = weights.unsqueeze(-1) * _features(u, waves)
    assert_same_mean(_features(own, waves), expected, "draws against the density")


def assert_inside(d: Distribution, draws: Tensor) -> None:
    """Draws lie in the support of the distribution that made them.

    Raises:
        AssertionError: some do not.
    """
    assert d.support is not None, "a distribution without a support"
    assert d.support.check(draws).all(), f"draws outside the support {d.support}"


def _weights(d: Distribution, n: int) -> tuple[Tensor, Tensor]:
    """Points on the line `[n, size]` from a cover of `d`, and density over cover there `[n]`."""
    line = _line(d)
    u = _inverse(line, d.sample((4000,)))
    centre, scale = u.flatten(1).median(0).values, _WIDER * _spread(u.flatten(1))
    shape = u.shape[1:]
    cover = Independent(StudentT(3.0, centre.reshape(shape), scale.reshape(shape)), len(shape))
    u = cover.sample((n,))
    z = torch.as_tensor(line(u))
    log_det = line.log_abs_det_jacobian(u, z).reshape(n, -1).sum(-1)
    weights = (d.log_prob(z) + log_det - cover.log_prob(u)).exp()
    return u.flatten(1), weights.nan_to_num(0.0)


def _inverse(line: Transform, z: Tensor) -> Tensor:
    back = line.inv
    assert back is not None, "a map to the support without an inverse"
    return torch.as_tensor(back(z))


def _spread(u: Tensor) -> Tensor:
    """Standard deviation `[size]` of the inner 98 % of `u` `[n, size]`: long tails do not count."""
    low, high = u.quantile(0.01, 0), u.quantile(0.99, 0)
    return u.clamp(low, high).std(0) + 1e-3


def _features(u: Tensor, waves: Tensor) -> Tensor:
    angle = u @ waves
    return torch.cat([angle.cos(), angle.sin()], -1)


def assert_visited_masses(d: Distribution, n: int) -> None:
    """The masses of what `n` draws visit, and how often `n` others go elsewhere, add up to one."""
    values, ids, _ = _visited(d, d.sample((2 * n,)))
    seen = torch.zeros(len(values), dtype=torch.bool).index_fill_(0, ids[:n], True)
    total = d.log_prob(values[seen]).exp().sum()
    unseen = (~seen[ids[n:]]).double().mean()
    error = (unseen.clamp(min=1 / n) * (1 - unseen).clamp(min=1 / n) / n).sqrt()
    judge((total - (1 - unseen)).abs() / error, "the masses of what draws visit")


def assert_frequencies(d: Distribution, draws: Tensor, levels: int | None = None) -> None:
    """How often values come among `draws` is what their masses say."""
    values, _, counts = _visited(d, draws)
    mass = d.log_prob(values).exp()
    assert (mass > 0).all(), "draws to which log_prob gives no mass"
    every = all_values(d, levels)
    if every is not None:
        missing = 1 - mass.sum()
        assert missing < 30 / len(draws), f"draws never visit a mass of {missing:.3g}"
    enough = mass * len(draws) > _ENOUGH
    gap = counts / len(draws) - mass
    error = (mass * (1 - mass) / len(draws)).sqrt() + 1e-9
    score = (gap / error).abs()[enough]
    judge(score.max() if len(score) else 0.0, "frequencies against masses", LIMIT + 0.5)


def _visited(d: Distribution, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values `[m, *event]`, which of them each draw is `[n]`, how often they came `[m]`."""
    flat = draws.reshape(len(draws), -1)
    values, ids, counts = flat.unique(dim=0, return_inverse=True, return_counts=True)
    return values.reshape(-1, *d.event_shape), ids, counts


def _innermost(support: Any) -> Any:
    """The constraint of one variable: without the marks of products and of mixtures."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


@final
class _LogSimplexLine(Transform):
    """The line to the log simplex: y = log softmax(u_1, …, u_{K-1}, 0).

    A density there is that of the log ratios u themselves, so the determinant is one.
    """

    domain, codomain, bijective = constraints.real_vector, LogSimplex(), True

    def _call(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 1)).log_softmax(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return y[..., :-1] - y[..., -1:]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])


def _line(d: Distribution) -> Transform:
    """The map from all real numbers to the support of `d`."""
    inner = _innermost(d.support)
    return _LogSimplexLine() if isinstance(inner, LogSimplex) else biject_to(inner)


def _single_values(support: Any, event: torch.Size, levels: int | None) -> Tensor | None:
    """The values `[m, *]` of one variable of an event."""
    if support is constraints.boolean:
        return torch.tensor([0.0, 1.0])
    if support is constraints.one_hot:
        return torch.eye(event[-1])
    if isinstance(support, constraints.integer_interval):
        return torch.arange(int(support.lower_bound), int(support.upper_bound) + 1.0)
    return torch.arange(float(levels)) if levels is not None else None


def _rounding(values: Tensor) -> float:
    return 1e-9 if values.dtype == torch.float64 else 1e-5
