"""The training loop: one for every objective, and it never waits for the device in an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vaepipe.core import (
    Estimate,
    LatentModel,
    Objective,
    Part,
    Phase,
    StepContext,
    Stream,
    replayed,
    seeded,
)
from vaepipe.errors import CompatibilityError, TrainingError, VaepipeError
from vaepipe.training import optim
from vaepipe.training.average import Average
from vaepipe.training.parts import ONE, Parts, Ranks

BLOCK = 256
"""Updates whose estimates are kept as separate tensors before they are averaged together."""

Forward = Callable[[int, Tensor, StepContext], Estimate]


@final
class Step(nn.Module):
    """A model and its objective as one module, whose forward pass is one whole phase.

    Data-parallel wrappers see every parameter that a phase touches, because the phase runs inside.

    Args:
        model: p(x, z) with q(z | x).
        objective: what training maximises.
    """

    def __init__(self, model: LatentModel, objective: Objective) -> None:
        """Parameters that no phase updates are frozen."""
        super().__init__()
        self.model, self.objective = model, objective
        self.phases = objective.phases()
        moved = {id(p) for phase in self.phases for p in self.moved(phase)}
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.requires_grad and id(parameter) in moved)

    def forward(self, index: int, x: Tensor, ctx: StepContext) -> Estimate:
        """A phase's estimate on examples `[batch, *shape]`; only `surrogate` has a gradient."""
        bound, surrogate, terms = self.phases[index].estimate(self.model, x, ctx)
        kept = {name: value.detach() for name, value in terms.items()}
        return Estimate(bound.detach(), surrogate, kept)

    def moved(self, phase: Phase) -> list[nn.Parameter]:
        """The trained parameters that a phase updates."""
        modules = {
            Part.INFERENCE: self.model.inference,
            Part.PRIOR: self.model.prior,
            Part.GENERATOR: self.model.generator,
            Part.OBJECTIVE: self.objective,
        }
        chosen = [m for part, m in modules.items() if part in phase.updates]
        unique = {id(p): p for m in chosen for p in m.parameters() if p.requires_grad}
        return list(unique.values())


@final
class Ledger:
    """Everything the phases estimated, on the device until somebody reads the means."""

    def __init__(self, phases: Sequence[Phase]) -> None:
        """Nothing is known yet."""
        self._recent: list[list[Estimate]] = [[] for _ in phases]
        self._tables: list[list[Tensor]] = [[] for _ in phases]
        self._names: list[tuple[str, ...]] = [()] * len(phases)

    def add(self, index: int, estimate: Estimate) -> None:
        """Keep an estimate of a phase; it costs nothing until many are averaged at once."""
        recent = self._recent[index]
        if recent and len(recent[0].bound) != len(estimate.bound):
            self._fold(index)
        recent.append(estimate)
        if len(recent) == BLOCK:
            self._fold(index)

    def read(self, reduce: Callable[[Tensor], Tensor]) -> list[tuple[tuple[str, ...], Tensor]]:
        """Return for each phase its columns' names and a table `[updates, columns]` on the host.

        The last columns are `bound`, `surrogate` and `examples`, the size of the update's batch.

        Args:
            reduce: the mean of a tensor over all ranks.
        """
        for index, recent in enumerate(self._recent):
            if recent:
                self._fold(index)
        tables = [reduce(torch.cat(blocks)).cpu() for blocks in self._tables]
        return list(zip(self._names, tables, strict=True))

    def _fold(self, index: int) -> None:
        """Add a row for each recent estimate, all of batches of one size."""
        recent, names = self._recent[index], tuple(self._recent[index][0].terms)
        columns = [torch.stack([e.terms[name] for e in recent]).double().mean(1) for name in names]
        columns.append(torch.stack([e.bound for e in recent]).double().mean(1))
        columns.append(torch.stack([e.surrogate for e in recent]).double())
        columns.append(torch.full_like(columns[-1], len(recent[0].bound)))
        self._tables[index].append(torch.stack(columns, 1))
        self._names[index] = (*names, "bound", "surrogate", "examples")
        recent.clear()


@final
@dataclass(frozen=True)
class Fitter:
    """A fit in progress.

    Args:
        name: what people call it, for messages.
        step: the model and its objective.
        forward: `step`, or a data-parallel wrapper around it.
        optimizers: one for each phase.
        rate: the learning rate at a step.
        clip: largest norm of a phase's gradient; None leaves it as it is.
        steps: of one epoch.
        num_examples: size of the training split.
        noise: of an epoch on this rank.
        reduce: the mean of a tensor over all ranks.
        accumulate: parts of a batch that are computed one after the other.
        normalize: whether every parameter's gradient is divided by its norm, before it is clipped.
        average: an average of the weights that every step updates.
        ranks: the workers that share a batch in equal parts.
    """

    name: str
    step: Step
    forward: Forward
    optimizers: Sequence[Optimizer]
    rate: Callable[[int], float]
    clip: float | None
    steps: int
    num_examples: int
    noise: Callable[[int], Stream]
    reduce: Callable[[Tensor], Tensor]
    accumulate: int = 1
    normalize: bool = False
    average: Average | None = None
    ranks: Ranks = ONE

    def context(self, done: int) -> StepContext:
        """Where training stands after `done` steps."""
        return StepContext(done, done / self.steps, self.num_examples)

    def epoch(self, number: int, batches: Iterable[Tensor]) -> dict[str, float]:
        """Train on one pass over the data; means of the last phase's terms over its examples.

        Args:
            number: of the epoch, counted from 0.
            batches: examples `[batch, *shape]`, `steps` times.

        Raises:
            TrainingError: something was not finite.
        """
        ledger = Ledger(self.step.phases)
        self.step.train()
        with seeded(self.noise(number)):
            for done, x in enumerate(batches, start=number * self.steps):
                self._update(ledger, x, self.context(done))
        tables = ledger.read(self.reduce)
        self._check(number, tables)
        names, table = tables[-1]
        weights = table[:, -1:] / table[:, -1].max()
        means = ((weights * table).sum(0) / weights.sum()).tolist()
        return dict(zip(names[:-2], means[:-2], strict=True))

    def _update(self, ledger: Ledger, x: Tensor, ctx: StepContext) -> None:
        """Every phase on one batch."""
        lr = self.rate(ctx.step)
        for index, optimizer in enumerate(self.optimizers):
            for group in optimizer.param_groups:
                group["lr"] = lr
            for _ in range(self.step.phases[index].repeat):
                ledger.add(index, self._descend(index, optimizer, x, ctx))
        if self.average is not None:
            self.average.update(ctx.step)

    def _descend(self, index: int, optimizer: Optimizer, x: Tensor, ctx: StepContext) -> Estimate:
        """One update; the gradients of all parts of all ranks add up to that of the batch."""
        optimizer.zero_grad(set_to_none=True)
        pieces = x.chunk(self.accumulate)
        parts = Parts(self.ranks, [len(piece) for piece in pieces])
        if self.accumulate > 1 and self.step.objective.couples:
            self._survey(index, pieces, ctx, parts)
        estimates = []
        for piece, batch in zip(pieces, parts.batches(), strict=True):
            last = len(estimates) == len(pieces) - 1  # where ranks meet
            with nullcontext() if last else getattr(self.forward, "no_sync", nullcontext)():
                own = ctx._replace(batch=batch)
                estimates.append(self._differentiate(index, piece, own, len(piece) / len(x)))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if self.normalize:
            optim.normalise(parameters)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip)
        optimizer.step()
        return joined(estimates)

    @torch.no_grad()
    def _survey(self, index: int, pieces: Sequence[Tensor], ctx: StepContext, parts: Parts) -> None:
        """Ask every part which rows it has, on the random numbers of the pass that follows."""
        surveys = parts.survey()
        with replayed():
            for piece, batch in zip(pieces, surveys, strict=True):
                self._estimate(index, piece, ctx._replace(batch=batch))
        parts.hear(surveys)

    def _differentiate(self, index: int, x: Tensor, ctx: StepContext, share: float) -> Estimate:
        """Add a share of the gradient on some examples to what is there."""
        estimate = self._estimate(index, x, ctx)
        surrogate = share * estimate.surrogate
        surrogate.backward()
        return estimate._replace(surrogate=surrogate.detach())

    def _estimate(self, index: int, x: Tensor, ctx: StepContext) -> Estimate:
        """The estimate of a phase on some examples."""
        try:
            return self.forward(index, x, ctx)
        except ValueError as error:  # a distribution that refuses parameters that are not finite
            if isinstance(error, VaepipeError) or finite(self.step):
                raise
            raise self._diverged(ctx.step, "the parameters", "not finite") from error

    def _check(self, number: int, tables: list[tuple[tuple[str, ...], Tensor]]) -> None:
        first = number * self.steps
        found: list[tuple[int, str, float]] = []
        for phase, (names, table) in zip(self.step.phases, tables, strict=True):
            for row, column in table.isfinite().logical_not().nonzero()[:1].tolist():
                found.append((row // phase.repeat, names[column], table[row, column].item()))
        if found:
            row, term, value = min(found)
            raise self._diverged(first + row, f"'{term}'", f"{value}")
        if not finite(self.step):
            raise self._diverged(first + self.steps - 1, "the parameters", "not finite")

    def _diverged(self, step: int, what: str, value: str) -> TrainingError:
        epoch = step // self.steps
        first, last = epoch * self.steps, (epoch + 1) * self.steps - 1
        clip = "" if self.clip is None else f" below {self.clip:g}"
        return TrainingError(
            f"{self.name}: {what} became {value} at step {step} (epoch {epoch + 1}, steps {first} "
            f"to {last}), where the learning rate was {self.rate(step):.3g}. Checkpoints from "
            f"before are kept. Lower `optimizer.lr`, or set `optimizer.clip`{clip}."
        )


def fit(
    fitter: Fitter,
    epochs: range,
    batches: Callable[[int], Iterator[Tensor]],
    after: Callable[[int, dict[str, float]], bool],
) -> None:
    """Train for the epochs numbered so (from 0), until `after` says that it is enough.

    Args:
        fitter: the fit.
        epochs: which are left.
        batches: the examples of an epoch.
        after: told the number of finished epochs and the epoch's metrics; True ends the fit.
    """
    for number in epochs:
        if after(number + 1, fitter.epoch(number, batches(number))):
            return


def joined(parts: Sequence[Estimate]) -> Estimate:
    """The estimate of a batch from those of its parts, whose surrogates are shares of its own."""
    if len(parts) == 1:
        return parts[0]
    names = parts[0].terms
    return Estimate(
        torch.cat([part.bound for part in parts]),
        torch.stack([part.surrogate for part in parts]).sum(),
        {name: torch.cat([part.terms[name] for part in parts]) for name in names},
    )


def optimizers(step: Step, settings: Mapping[str, Any]) -> tuple[Optimizer, ...]:
    """An optimiser for each phase of an objective."""
    return tuple(optim.build(settings, step.moved(phase)) for phase in step.phases)


def require_examples(objective: Objective, examples: int) -> None:
    """Raise `CompatibilityError` unless a step has as many examples as the objective needs."""
    if examples < objective.smallest_batch:
        raise CompatibilityError(
            f"objective '{type(objective).__name__}' compares the examples of a batch with each "
            f"other (expected a step of at least {objective.smallest_batch}, got {examples}). "
            "Raise `batch_size`, or choose objective 'elbo'."
        )


def finite(module: nn.Module) -> bool:
    """Whether every parameter is finite."""
    return all(bool(p.isfinite().all()) for p in module.parameters())
