"""Importance weights as they stream by: log mean, error, effective number, tail."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from vaepipe.evaluation.tail import pareto_k, tail_size


class LogMean(NamedTuple):
    """What k weights say of their mean; each `[*batch]`, float64."""

    value: Tensor
    """log (1/k) sum_i w_i, nats."""
    se: Tensor
    """Its standard error by the delta method, nats; NaN, which says unknown, from one weight. Too
    small where the weights have no finite variance: a Pareto shape above 1/2."""
    ess: Tensor
    """Effective number of the k samples, (sum w)^2 / sum w^2."""


@final
class Weights:
    """Weights `[c, *batch]` taken in part by part; what is held does not grow with their number.

        log sum_i w_i = log (exp a + exp b),   a, b: the same of two parts

    The sums of the first k of them are noted for each k of `ks`, so one pass gives a whole curve
    of nested estimates. Each is a mean of k weights, whatever the parts were.

    Args:
        ks: where estimates are wanted, ascending; the last one is the number of weights to come.

    Example:
        >>> weights = Weights([1, 4])
        >>> for part in (torch.tensor([[0.0]]), torch.tensor([[-1.0], [-1.0], [-1.0]])):
        ...     weights.add(part)
        >>> [round(each.value.item(), 4) for each in weights.at().values()]
        [0.0, -0.6426]
    """

    def __init__(self, ks: Sequence[int]) -> None:
        self.ks, self.count = tuple(ks), 0
        self._sums: tuple[Tensor, Tensor] | None = None
        self._noted: dict[int, LogMean] = {}
        self._largest: Tensor | None = None
        self._tail = tail_size(self.ks[-1]) + 1

    def add(self, log_w: Tensor) -> None:
        """Take in log weights `[c, *batch]`, nats."""
        log_w = log_w.double()
        begin = 0
        for k in [k for k in self.ks if self.count < k <= self.count + len(log_w)]:
            self._take(log_w[begin : begin + k - self.count])
            begin += k - self.count
            self.count = k
            self._noted[k] = self._now()
        if begin < len(log_w):
            self._take(log_w[begin:])
            self.count += len(log_w) - begin

    def at(self) -> Mapping[int, LogMean]:
        """The estimate of each k that was reached."""
        return self._noted

    def khat(self) -> Tensor:
        """Pareto shape of the tail of all weights, `[*batch]`; see `pareto_k`."""
        assert self._largest is not None
        return pareto_k(self._largest)

    def w_max(self) -> Tensor:
        """Largest of all weights as a share of their sum, max_i w_i / sum_j w_j, `[*batch]`."""
        assert self._largest is not None
        assert self._sums is not None
        return torch.exp(self._largest.amax(0) - self._sums[0]).clamp(max=1)

    def _take(self, log_w: Tensor) -> None:
        first, second = torch.logsumexp(log_w, 0), torch.logsumexp(2 * log_w, 0)
        if self._sums is not None:
            first = torch.logaddexp(self._sums[0], first)
            second = torch.logaddexp(self._sums[1], second)
        self._sums = first, second
        held = log_w if self._largest is None else torch.cat([self._largest, log_w])
        self._largest = held.topk(min(self._tail, len(held)), 0).values

    def _now(self) -> LogMean:
        assert self._sums is not None
        return _log_mean(*self._sums, self.count)


def summarise_weights(log_w: Tensor) -> LogMean:
    """Log mean, its standard error and the effective sample size of weights `[k, *batch]`.

    With w normalised to mean one, ess = k / mean(w^2) and, to first order,
    se(log mean w) = sqrt(1 / ess - 1 / k).
    """
    log_w = log_w.double()
    return _log_mean(torch.logsumexp(log_w, 0), torch.logsumexp(2 * log_w, 0), len(log_w))


def ladder(k: int | Iterable[int]) -> tuple[int, ...]:
    """The numbers of samples at which the evidence is wanted, ascending, each once.

    Raises:
        ValueError: none, or one that is not positive.

    Example:
        >>> ladder([50, 1, 5, 50]), ladder(1000)
        ((1, 5, 50), (1000,))
    """
    ks = (k,) if isinstance(k, int) else tuple(sorted(set(k)))
    if not ks or ks[0] < 1:
        raise ValueError(f"numbers of samples must be positive, got {ks}")
    return ks


def _log_mean(first: Tensor, second: Tensor, k: int) -> LogMean:
    ess = torch.exp(2 * first - second)
    se = (1 / ess - 1 / k).clamp(min=0).sqrt() if k > 1 else torch.full_like(ess, torch.nan)
    return LogMean(first - math.log(k), se, ess)
