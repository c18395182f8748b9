"""When to stop a trial: pure rules that remember what every trial reported after which epoch.

They decide; whoever runs the trials acts. The same rule serves trials in this process and trials
of Ray Tune, so that equal reports meet equal verdicts.

While an objective's weights still follow a schedule (KL annealing), the evidence says little about
where the trial ends. So a rule judges a trial only after it has had the epochs of grace with its
final weights, and never compares others with what it reported before.
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
    def stops(self, trial: int, epoch: int, value: float, warm: int | None = None) -> bool:
        """Remember a report, and return whether the trial is to stop.

        Args:
            trial: its number.
            epoch: finished epochs.
            value: of the metric then.
            warm: how many of these epochs had the objective's final weights; None: all.
        """


@final
class Never(Policy):
    """Every trial runs to its end."""

    def stops(self, trial: int, epoch: int, value: float, warm: int | None = None) -> bool:
        """Return False."""
        return False


@final
class Asha(Policy):
    """Asynchronous successive halving: few of the trials that reach a rung go beyond it.

    Rungs stand at grace · reduction^i epochs. A trial that reaches one goes on if it is among the
    best 1/reduction of those that reached it before, or the first. A trial that reaches a rung
    before it has had `grace` epochs with the final weights of its objective passes without being
    judged, and no other trial is compared with it there: values on a rung are of equal epochs.

    References:
        A System for Massively Parallel Hyperparameter Tuning (Li et al., 2020), algorithm 2, in
        the variant that stops trials instead of pausing them. https://arxiv.org/abs/1810.05934

    Args:
        grace: epochs that every trial gets, all with its objective's final weights.
        reduction: one of so many goes on.

    Example:
        >>> rule = Asha(grace=1, reduction=2)
        >>> [rule.stops(trial, 1, value) for trial, value in enumerate([3.0, 1.0, 4.0])]
        [False, True, False]
    """

    def __init__(self, grace: int, reduction: float) -> None:
        """Nobody has reached a rung yet."""
        self.grace, self.reduction = grace, reduction
        self._rungs: dict[int, dict[int, float | None]] = defaultdict(dict)

    def stops(self, trial: int, epoch: int, value: float, warm: int | None = None) -> bool:
        """Return whether the trial fails at the highest rung that it has newly reached."""
        if epoch < self.grace:
            return False
        rung = self._rungs[int(math.log(epoch / self.grace, self.reduction) + 1e-9)]
        if trial in rung:
            return False
        if warm is not None and warm < self.grace:
            rung[trial] = None
            return False
        before = sorted(other for other in rung.values() if other is not None)
        rung[trial] = value
        return bool(before) and value < _quantile(before, 1 - 1 / self.reduction)


@final
class Median(Policy):
    """Stops a trial whose best value is below the median of the others' averages so far.

    Only values count that a trial reported after an epoch with its objective's final weights.

    References:
        Google Vizier: A Service for Black-Box Optimization (Golovin et al., 2017), section 3.2.1.
        https://doi.org/10.1145/3097983.3098043

    Args:
        grace: epochs that every trial gets, all with its objective's final weights.
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

    def stops(self, trial: int, epoch: int, value: float, warm: int | None = None) -> bool:
        """Return whether the trial is worse than the median."""
        warm = epoch if warm is None else warm
        if not warm:
            return False
        self._values[trial][epoch] = value
        averages = [
            statistics.fmean(v for e, v in values.items() if e <= epoch)
            for other, values in self._values.items()
            if other != trial and max(values) >= epoch
        ]
        if warm < self.grace or len(averages) < self.others:
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
