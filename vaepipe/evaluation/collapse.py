"""Does the decoder still listen to z?"""

from __future__ import annotations

from collections.abc import Mapping

LEAST_RATE = 0.1
"""Nats per example below which a code says next to nothing about its example."""
REMEDY = (
    "Raise the weight of the rate slowly (`objective: {type: elbo, warmup_epochs: …}`), leave "
    "some of it free (`free_bits`), or weaken the decoder (`word_dropout` of likelihood "
    "'sequence')."
)


def collapse(metrics: Mapping[str, float], split: str = "val") -> str | None:
    """What to tell of a posterior that ignores x, q(z | x) = p(z); None if it does not.

    It has collapsed if KL(q(z | x) || p(z)) < 0.1 nats per example, or if no latent dimension is
    active (Burda et al., 2016, section 5.2). The phenomenon and the remedies: Bowman et al.
    (2016), sections 3 and 3.1; free bits: Kingma et al. (2016).

    Args:
        metrics: `<split>/rate` in nats and `<split>/active_units`; what is missing is no sign.
        split: whose.

    Example:
        >>> collapse({"val/rate": 12.0, "val/active_units": 5.0}) is None
        True
        >>> collapse({"val/rate": 0.02, "val/active_units": 1.0})[:56]
        'posterior collapse: val/rate is 0.02 nats, below 0.1; th'
    """
    rate, signs = metrics.get(f"{split}/rate", LEAST_RATE), []
    if rate < LEAST_RATE:
        signs.append(f"{split}/rate is {rate:.2g} nats, below {LEAST_RATE}")
    if metrics.get(f"{split}/active_units") == 0:
        signs.append("no latent dimension is active")
    if not signs:
        return None
    return f"posterior collapse: {', and '.join(signs)}; the decoder ignores z. {REMEDY}"
