"""The metrics by which models are compared: which way is better, and in what unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vaepipe.errors import UserError
from vaepipe.wording import unknown


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Args:
        name: as it stands in tables and trackers, without the split.
        mode: "max" where more is better, "min" where less is.
        unit: of one value.
        about: what it says, in a sentence.
    """

    name: str
    mode: Literal["max", "min"]
    unit: str
    about: str


_ALL = (
    Metric(
        "log_evidence", "max", "nats", "log p(x) by importance sampling; any objective's models"
    ),
    Metric("elbo", "max", "nats", "E_q[log p(x, z) - log q(z | x)], at most log p(x)"),
    Metric("log_lik", "max", "nats", "E_q[log p(x | z)]: how well examples are reconstructed"),
    Metric("rate", "min", "nats", "KL(q(z | x) || p(z)): how much a code says about its example"),
    Metric("ess", "max", "samples", "effective number of importance samples"),
    Metric(
        "active_units", "max", "dimensions", "latent dimensions whose mean varies over examples"
    ),
    Metric("bound", "max", "nats", "the objective's own bound; not comparable across objectives"),
)

METRICS = {metric.name: metric for metric in _ALL}
"""Every metric by its name."""

SWEEPABLE = {
    f"{split}/{metric.name}": metric
    for metric in _ALL
    for split in (("train",) if metric.name == "bound" else ("val",))
}
"""What a sweep can be decided by: metrics as a fit reports them, `val/log_evidence` first."""

EVALUATED = tuple(name for name in METRICS if name != "bound")
"""What an evaluate stage reports for each split."""


def sweepable(name: str) -> Metric:
    """The metric of a sweep.

    Raises:
        UserError: no fit reports such a metric; the message offers the nearest.

    Example:
        >>> sweepable("val/log_evidence").mode
        'max'
    """
    if name not in SWEEPABLE:
        raise UserError(unknown("metric", name, tuple(SWEEPABLE)))
    return SWEEPABLE[name]


def direction(name: str) -> Literal["max", "min"]:
    """Which way a metric of a sweep is better.

    Raises:
        UserError: no fit reports such a metric.
    """
    return sweepable(name).mode
