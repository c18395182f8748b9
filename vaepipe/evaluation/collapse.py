"""Does the decoder still listen to z?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vaepipe.evaluation.validation import ACTIVE

LEAST_RATE = 0.1
"""Nats per example below which a code says next to nothing about its example."""
REMEDY = (
    "Raise the weight of the rate slowly (`objective: {type: elbo, warmup_epochs: …}`), leave "
    "some of it free (`free_bits`), or weaken the decoder (`word_dropout` of likelihood "
    "'sequence')."
)

LEAST_SHARE = 0.1
"""Share of the codes that a batch could use below which a code book is hardly in use."""
BOOK_REMEDY = (
    "Lower `optimizer.lr`, let the book follow faster and revive more (`decay: 0.9`, `restart: "
    "0.2` of family 'vq'), or take a smaller book (`codes`) of shorter vectors (`latent_shape`)."
)
SAME_REMEDY = (
    "The weight of the rate is not the reason: lower `optimizer.lr`, or standardise the data. Of a "
    "code book it means that one code is in use: lower `decay`, raise `restart`."
)

IDLE_REMEDY = (
    "`free_bits` or `warmup_epochs` of objective 'elbo', a bound of more samples "
    "(`objective: {type: iwae, k: …}`), or a richer prior (`vamp`)."
)
NAMED = 8
"""Idle dimensions that are listed one by one."""


class Diagnosis(NamedTuple):
    """Sentences on a model's use of its latents, each with the remedy by name."""

    alarms: list[str]
    """What nobody wants."""
    notes: list[str]
    """What may be as it should."""


def collapse(metrics: Mapping[str, float], split: str = "val") -> str | None:
    """What to tell of a posterior that ignores x, q(z | x) = p(z); None if it does not.

    It has collapsed if KL(q(z | x) || p(z)) < 0.1 nats per example, or if no latent dimension is
    active (Burda et al., 2016, section 5.2). The phenomenon and the remedies: Bowman et al.
    (2016), sections 3 and 3.1; free bits: Kingma et al. (2016). A code book has collapsed if less
    than a tenth of the codes that a batch could use are in use, by their perplexity.

    Args:
        metrics: `<split>/rate` in nats and `<split>/active_units`; of code books
            `train/code_share` and `train/code_perplexity`; what is missing is no sign.
        split: whose.

    Example:
        >>> collapse({"val/rate": 12.0, "val/active_units": 5.0}) is None
        True
        >>> collapse({"val/rate": 0.02, "val/active_units": 1.0})[:56]
        'posterior collapse: val/rate is 0.02 nats, below 0.1; th'
    """
    if "train/code_share" in metrics:
        return _unused_book(metrics["train/code_share"], metrics["train/code_perplexity"])
    rate, signs = metrics.get(f"{split}/rate", LEAST_RATE), []
    if rate < LEAST_RATE:
        signs.append(f"{split}/rate is {rate:.2g} nats, below {LEAST_RATE}")
    if metrics.get(f"{split}/active_units") == 0:
        signs.append("no latent dimension is active")
    if not signs:
        return None
    remedy = REMEDY if rate < LEAST_RATE else SAME_REMEDY
    return f"posterior collapse: {', and '.join(signs)}; the decoder ignores z. {remedy}"


def _unused_book(share: float, perplexity: float) -> str | None:
    """What to say of a code book of which little is in use."""
    if share >= LEAST_SHARE:
        return None
    return (
        f"code book collapse: train/code_perplexity is {perplexity:.3g}, {share:.1%} of what a "
        f"batch could use (expected at least {LEAST_SHARE:.0%}). {BOOK_REMEDY}"
    )


def diagnose(
    rates: Sequence[float | None], variances: Sequence[float | None], split: str, rate: float
) -> Diagnosis:
    """Whether the latent dimensions are in use: a collapse is an alarm, idle ones are noted.

    Args:
        rates: mean rate of each dimension, nats; None where q or p does not factorise.
        variances: of the posterior means over the examples, of each dimension; None where it is
            not known, which is no sign.
        split: whose, for the text.
        rate: KL(q(z | x) || p(z)), nats per example.

    Example:
        >>> diagnose([3.0, 0.0, 2.5], [0.9, 0.0, 0.8], "test", 5.5).notes[0][:66]
        'test: 1 of 3 latent dimensions is not in use (dimension 1: 0.0000 '
    """
    idle = [d for d, v in enumerate(variances) if v is not None and v <= ACTIVE]
    active = float(len(variances) - len(idle))
    found = collapse({f"{split}/rate": rate, f"{split}/active_units": active}, split)
    if found is not None:
        return Diagnosis([found], [])
    return Diagnosis([], [_idle(rates, variances, split, idle)] if idle else [])


def _idle(
    rates: Sequence[float | None],
    variances: Sequence[float | None],
    split: str,
    idle: Sequence[int],
) -> str:
    each = [f"dimension {d}: {_worth(rates[d], variances[d])}" for d in idle[:NAMED]]
    more = f", and {len(idle) - NAMED} more" if len(idle) > NAMED else ""
    verb = "is" if len(idle) == 1 else "are"
    return (
        f"{split}: {len(idle)} of {len(rates)} latent dimensions {verb} not in use "
        f"({', '.join(each)}{more}). No harm where the others suffice: they cost nothing, and a "
        f"smaller `latent_shape` gives the same model. Where more should be in use: {IDLE_REMEDY}"
    )


def _worth(rate: float | None, variance: float | None) -> str:
    if rate is None:
        return f"variance of means {variance:.4f}"
    return f"{rate:.4f} nats"
