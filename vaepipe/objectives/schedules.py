"""Weights as functions of the epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vaepipe.core import StepContext
from vaepipe.errors import UserError


@final
@dataclass(frozen=True, slots=True)
class Ramp:
    """A value that rises linearly from zero and stays, once or in cycles.

        value(e) = end min(1, (e - c length / share) / length),   c = the number of the cycle

    Linear warm-up: Bowman et al. (2016), section 3.1; cycles: Fu et al. (2019), eqs. 6 and 7,
    whose R is `share`. In the last cycle it stays for good.

    Args:
        end: the final value.
        length: epochs of one rise; 0 starts at the end.
        cycles: how many rises.
        share: of a cycle that the rise takes.

    Raises:
        UserError: several cycles without a length.

    Example:
        >>> ramp = Ramp(2.0, length=3, cycles=2, share=0.5)
        >>> [ramp.at(StepContext(0, e, 1)) for e in (0.0, 1.5, 5.0, 6.0, 7.5, 20.0)]
        [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]
    """

    end: float
    length: float = 0.0
    cycles: int = 1
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.cycles > 1 and not self.length:
            raise UserError(
                f"cycles: {self.cycles} of a weight that rises in 0 epochs never differ from the "
                "weight itself. Set warmup_epochs to the length of one rise, or cycles: 1."
            )

    def at(self, ctx: StepContext) -> float:
        """The value at this moment of training."""
        if not self.length:
            return self.end
        cycle = min(self.cycles - 1, ctx.epoch * self.share // self.length)
        return self.end * min(1.0, (ctx.epoch - cycle * self.length / self.share) / self.length)

    def ended(self, ctx: StepContext) -> bool:
        """Whether the value is final."""
        return ctx.epoch >= (self.cycles - 1) * self.length / self.share + self.length
