"""When to stop a trial: pure rules that remember what every trial reported after which epoch.

They decide; whoever runs the trials acts. The same rule serves trials in this process and trials
of Ray Tune, so that equal reports meet equal verdicts.
"""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, final

from vaepipe.errors import UserError, did_you_mean


class Policy(ABC):
    """Decides after each report whether a trial goes on; larger values are better."""

    @abstractmethod
    def stops(self, trial: int, epoch: int, value: float) -> bool:
        """Remember a report; whether the trial is to stop."""


@final
class Never(Policy):
    """Every trial runs to its end."""

    def stops(self, trial: int, epoch: int, value: float) -> bool:
        """No."""
        return False


@final
class Asha(Policy):
    """Asynchronous successive halving: few of the trials that reach a rung go beyond it.

    Rungs stand at grace · reduction^i epochs. A trial that reaches one goes on if it is among the
    best 1/reduction of those that reached it before, or the first.

    References:
        A System for Massively Parallel Hyperparameter Tuning (Li et al., 2020), algorithm 2, in
        the variant that stops trials instead of pausing them. https://arxiv.org/abs/1810.05934

    Args:
        grace: epochs that every trial gets.
        reduction: one of so many goes on.

    Example:
        >>> rule = Asha(grace=1, reduction=2)
        >>> [rule.stops(trial, 1, value) for trial, value in enumerate([3.0, 1.0, 4.0])]
        [False, True, False]
    """

    def __init__(self, grace: int, reduction: float) -> None:
        """Nobody has reached a rung yet."""
        self.grace, self.reduction = grace, reduction
        self._rungs: dict[int, dict[int, float]] = defaultdict(dict)

    def stops(self, trial: int, epoch: int, value: float) -> bool:
        """Whether the trial fails at the highest rung that it has newly reached."""
        if epoch < self.grace:
            return False
        rung = self._rungs[int(math.log(epoch / self.grace, self.reduction) + 1e-9)]
        if trial in rung:
            return False
        before = sorted(rung.values())
        rung[trial] = value
        return bool(before) and value < _quantile(before, 1 - 1 / self.reduction)


@final
class Median(Policy):
    """Stops a trial whose best value is below the median of the others' averages so far.

    References:
        Google Vizier: A Service for Black-Box Optimization (Golovin et al., 2017), section 3.2.1.
        https://doi.org/10.1145/3097983.3098043

    Args:
        grace: epochs that every trial gets.
        others: trials that must have come as far, before anything is stopped.

    Example:
        >>> rule = Median(grace=1, others=2)
        >>> [rule.stops(trial, 1, value) for trial, value in enumerate([3.0, 1.0, 4.0, 1.0])]
        [False, False, False, True]
    """

    def __init__(self, grace: int, others: int = 3) -> None:
        """No trial has reported yet."""
        self.grace, self.others = grace, others
        self._values: dict[int, dict[int, float]] = defaultdict(dict)

    def stops(self, trial: int, epoch: int, value: float) -> bool:
        """Whether the trial is worse than the median."""
        self._values[trial][epoch] = value
        averages = [
            statistics.fmean(v for e, v in values.items() if e <= epoch)
            for other, values in self._values.items()
            if other != trial and max(values) >= epoch
        ]
        if epoch < self.grace or len(averages) < self.others:
            return False
        return max(self._values[trial].values()) < statistics.median(averages)


def make(settings: Mapping[str, Any]) -> Policy:
    """The policy of a sweep's scheduler: `type` none, asha or median, with its options.

    Raises:
        UserError: there is no such scheduler.
    """
    kind, grace = settings["type"], int(settings.get("grace_epochs") or 1)
    makers = {
        "none": Never,
        "asha": lambda: Asha(grace, float(settings.get("reduction") or 3)),
        "median": lambda: Median(grace),
    }
    if kind not in makers:
        known = ", ".join(makers)
        raise UserError(f"unknown scheduler '{kind}'.{did_you_mean(kind, makers)} Known: {known}.")
    return makers[kind]()


def _quantile(ordered: list[float], fraction: float) -> float:
    """The value below which a fraction of the ordered values lies, by linear interpolation."""
    position = fraction * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
