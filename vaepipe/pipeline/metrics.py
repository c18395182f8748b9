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
    Metric("log_evidence", "max", "nats", "log p(x) by importance sampling, a lower bound"),
    Metric("elbo", "max", "nats", "E_q[log p(x, z) - log q(z | x)], at most log p(x)"),
    Metric("log_lik", "max", "nats", "E_q[log p(x | z)]: how well examples are reconstructed"),
    Metric("rate", "min", "nats", "KL(q(z | x) || p(z)): how much a code says about its example"),
    Metric("ess", "max", "samples", "effective number of importance samples"),
    Metric(
        "active_units", "max", "dimensions", "latent dimensions whose mean varies over examples"
    ),
    Metric("bound", "max", "nats", "the objective's own bound; not comparable across objectives"),
)

_EVALUATION = (
    Metric("bits_per_dim", "min", "bits", "-log_evidence / (D ln 2): of each value of an example"),
    Metric("perplexity", "min", "choices", "of a word of a sentence"),
    Metric("khat_above_07", "min", "share", "of examples whose weights have too heavy a tail"),
    Metric("mi", "max", "nats", "I_q(n; z): what a code says about which example it is of"),
    Metric("marginal_kl", "min", "nats", "KL(q(z) || p(z)), the aggregated-posterior gap"),
    Metric("total_correlation", "min", "nats", "how dependent the dimensions of codes are"),
    Metric("log_n", "max", "nats", "log of the number of examples of `mi`, its largest value"),
    Metric("approx_gap", "min", "nats", "what the best member of the family misses of log p(x)"),
    Metric("amort_gap", "min", "nats", "what the encoder loses against the best of its family"),
    Metric("log_evidence_ais", "max", "nats", "log p(x) by annealed importance sampling"),
    Metric("ais_lower", "max", "nats", "the same, a stochastic lower bound"),
    Metric("bdmc_lower", "max", "nats", "lower bound on simulated examples"),
    Metric("bdmc_upper", "min", "nats", "upper bound on simulated examples"),
    Metric("bdmc_log_evidence", "max", "nats", "log_evidence's estimator on simulated examples"),
    Metric("bdmc_gap", "min", "nats", "between both: how far off log_evidence_ais can be"),
    Metric("generalisation_gap", "min", "nats", "log evidence of the training split minus others"),
    Metric("knn_accuracy", "max", "share", "labels that a code's 15 nearest neighbours tell"),
    Metric("code_perplexity", "max", "codes", "entries of the code book that are in use"),
    Metric("collapsed", "min", "flag", "1 where the decoder ignores z"),
)

METRICS = {metric.name: metric for metric in (*_ALL, *_EVALUATION)}
"""Every metric by its name."""

SWEEPABLE = {f"val/{metric.name}": metric for metric in _ALL if metric.name not in ("bound", "ess")}
"""What a sweep can be decided by: what a validation reports, `val/log_evidence` first."""

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


def unit_of(name: str) -> str:
    """The unit of `<split>/<metric>`; nats where the metric is not known.

    Example:
        >>> unit_of("val/log_evidence"), unit_of("val/active_units")
        ('nats', 'dimensions')
    """
    metric = METRICS.get(name.partition("/")[2])
    return metric.unit if metric else "nats"


def direction(name: str) -> Literal["max", "min"]:
    """Which way a metric of a sweep is better.

    Raises:
        UserError: no fit reports such a metric.
    """
    return sweepable(name).mode
