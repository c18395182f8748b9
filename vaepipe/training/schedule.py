"""Schedules of objectives that a fit is too short for."""

from __future__ import annotations

from vaepipe.core import StepContext
from vaepipe.registry import PartSpec

ADVICE = "Shorten the schedule (`warmup_epochs`, `cycles`), or raise `epochs`."


def unfinished(objective: PartSpec, last: StepContext, epochs: int) -> str | None:
    """Return what to say of a schedule that has not ended at the last update; None if it has.

    Args:
        objective: with its options.
        last: where the last update of the fit begins.
        epochs: of the fit.

    Example:
        >>> from vaepipe import registry
        >>> objective = registry.part("objectives", "elbo", {"warmup_epochs": 20})
        >>> print(unfinished(objective, StepContext.last(10, 100, 25), epochs=10))
        the schedule of objective 'elbo' does not end within 10 epochs (beta is 0.487 at the last \
update)
    """
    built = objective.build()
    if built.warm(last):
        return None
    values = ", ".join(f"{name} is {value:.3g}" for name, value in built.scheduled(last).items())
    reached = f" ({values} at the last update)" if values else ""
    return (
        f"the schedule of objective '{objective.type}' does not end within {epochs} epochs{reached}"
    )
