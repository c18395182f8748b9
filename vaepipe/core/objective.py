"""What an objective is: phases, each an estimate of a bound and of its gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn
from torch.distributions import Distribution

from vaepipe.core.batch import WholeBatch
from vaepipe.core.model import LatentModel
from vaepipe.core.prior import PriorDraw
from vaepipe.core.spec import Cap, Part


class StepContext(NamedTuple):
    """Where training stands."""

    step: int
    """Updates done so far."""
    epoch: float
    """Passes over the data so far; fractional within one."""
    num_examples: int
    """Size of the training split; it divides global terms."""
    batch: WholeBatch = WholeBatch()
    """The batch that the examples at hand belong to."""

    @classmethod
    def last(cls, epochs: int, num_examples: int, batch_size: int) -> StepContext:
        """Return where training stands before the last update of a fit.

        Example:
            >>> last = StepContext.last(2, num_examples=100, batch_size=25)
            >>> last.step, last.epoch
            (7, 1.75)
        """
        steps = max(1, -(-num_examples // batch_size))
        step = max(0, epochs * steps - 1)
        return cls(step, step / steps, num_examples)


class Estimate(NamedTuple):
    """One estimate: the number to report and the number to differentiate are two fields."""

    bound: Tensor
    """`[batch]`, nats, without gradient: the true bound."""
    surrogate: Tensor
    """`[]`: its gradient is the update's direction; its value means nothing."""
    terms: dict[str, Tensor]
    """Parts to report, each `[batch]` without gradient: `log_lik`, `rate` where they exist."""


EstimateFunction = Callable[[LatentModel, Tensor, StepContext], Estimate]


@dataclass(frozen=True, slots=True)
class Phase:
    """One kind of update: what it is called, which parameters it moves, how often in a row."""

    name: str
    updates: Part
    estimate: EstimateFunction
    repeat: int = 1


class Objective(nn.Module, ABC):
    """What training maximises. A module, because baselines and critics have parameters."""

    needs: ClassVar[Cap] = Cap.NONE
    """What it needs of q(z | x)."""
    trains: ClassVar[Part] = Part.MODEL | Part.OBJECTIVE
    """The parts that its phases update, all together; it declares which others it leaves alone."""
    smallest_batch: ClassVar[int] = 1
    """The fewest examples of a step from which it can be estimated."""
    couples: bool = False
    """Whether its estimates ask for the rows of the whole batch (`StepContext.batch`)."""

    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """The phases of one training step, in order."""

    def warm(self, ctx: StepContext) -> bool:
        """Return whether every schedule has reached its final value.

        No epoch counts as best before, `patience` does not begin, and no scheduler of a sweep
        judges the fit.
        """
        return True

    def scheduled(self, ctx: StepContext) -> dict[str, float]:
        """Return the values at this moment of the options that follow a schedule, by name."""
        return {}

    def features(self, model: LatentModel, x: Tensor) -> Tensor:
        """Features of the q(z | x) that the model is judged by, `[batch, *feature_shape]`."""
        return model.inference.features(x)

    def notes(self, q: Distribution, p: Distribution) -> dict[str, str]:
        """What it decides from the types of q(z | x) and p(z), for the record."""
        return {}


class JointObjective(Objective):
    """One phase that updates every part; authors write `estimate`."""

    @abstractmethod
    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for a batch `x` `[batch, *x]`."""

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `joint`."""
        return (Phase("joint", Part.MODEL | Part.OBJECTIVE, self.estimate),)


def log_terms(
    model: LatentModel, x: Tensor, z: Tensor, p: PriorDraw, q: Distribution
) -> tuple[Tensor, Tensor]:
    """log p(x | z) and log q(z | x) - log p(z), each `[k, batch]`, for draws z `[k, batch, *]`."""
    return model.generator(z).log_prob(x), q.log_prob(z) - p.z.log_prob(z)


def log_weights(model: LatentModel, x: Tensor, z: Tensor, p: PriorDraw, q: Distribution) -> Tensor:
    """Importance weights of draws from q(z | x).

        log w = log p(x | z) + log p(z) - log q(z | x)

    Args:
        model: supplies p(x | z).
        x: `[batch, *x]`.
        z: draws, `[k, batch, *latent]`.
        p: the prior.
        q: where z was drawn, or the same density with constants for parameters.

    Returns:
        `[k, batch]`, nats; global terms of the prior are not in it.
    """
    log_lik, rate = log_terms(model, x, z, p, q)
    return log_lik - rate
