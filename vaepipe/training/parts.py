"""A batch that several workers share and that each may compute in parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, distributed

from vaepipe.core.batch import WholeBatch
from vaepipe.errors import CompatibilityError


class Ranks(NamedTuple):
    """The workers that share a batch, each an equal part of it; torch's default process group."""

    size: int
    """How many there are."""
    rank: int
    """This worker's number."""

    def gather(self, mine: Tensor) -> Tensor:
        """Return the rows of all workers, rank by rank, given this worker's; constants."""
        if self.size == 1:
            return mine.detach()
        each = [torch.empty_like(mine.detach()) for _ in range(self.size)]
        distributed.all_gather(each, mine.detach().contiguous())
        return torch.cat(each)

    def total(self, mine: Tensor) -> Tensor:
        """Return the sum of a tensor over all workers; a constant."""
        total = mine.detach().clone()
        if self.size > 1:
            distributed.all_reduce(total)
        return total


ONE = Ranks(1, 0)
"""A single worker."""


@final
class Parts:
    """What the parts of one worker's share know of each other and of the other workers.

    Args:
        ranks: the workers.
        sizes: examples of each part of this worker's share, in order.
    """

    def __init__(self, ranks: Ranks, sizes: Sequence[int]) -> None:
        self.ranks, self.sizes = ranks, tuple(sizes)
        self.answers: list[Tensor] = []
        self.sums: list[Tensor] = []

    def survey(self) -> list[Survey]:
        """Return a batch per part, for a pass in which each part says which rows it has."""
        return [Survey(self.ranks.size * sum(self.sizes)) for _ in self.sizes]

    def hear(self, surveys: Sequence[Survey]) -> None:
        """Put together what the parts had, and what the other workers have."""
        calls = zip(*(survey.asked for survey in surveys), strict=True)
        self.answers = [self.ranks.gather(torch.cat(rows)) for rows in calls]

    def batches(self) -> list[PartOfBatch]:
        """Return a batch per part, for the pass with gradients."""
        return [PartOfBatch(self, number) for number in range(len(self.sizes))]


@final
class Survey(WholeBatch):
    """Keeps the rows that a part has, and repeats them until they are as many as the batch's."""

    def __init__(self, examples: int) -> None:
        self.examples = examples
        self.asked: list[Tensor] = []

    def rows(self, mine: Tensor) -> Tensor:
        """Keep them; what is made of the answer is not used."""
        self.asked.append(mine.detach())
        return mine[torch.arange(self.examples, device=mine.device) % len(mine)]

    def total(self, mine: Tensor) -> None:
        """Nothing is learned in this pass."""


@final
class PartOfBatch(WholeBatch):
    """One part of a batch, with what it asks for."""

    def __init__(self, parts: Parts, number: int) -> None:
        self.parts, self.number = parts, number
        self.begin = parts.ranks.rank * sum(parts.sizes) + sum(parts.sizes[:number])
        self.calls, self.sums = 0, 0

    def rows(self, mine: Tensor) -> Tensor:
        """Return all rows, those at hand with N / n times their gradient."""
        everything, n = self._answer(mine), len(mine)
        if len(everything) == n:
            return mine
        if mine.requires_grad:
            mine = mine.detach() + (len(everything) / n) * (mine - mine.detach())
        return torch.cat([everything[: self.begin], mine, everything[self.begin + n :]])

    def total(self, mine: Tensor) -> Tensor | None:
        """Return the sum over all parts and workers in the last part, else None."""
        sums, index = self.parts.sums, self.sums
        self.sums += 1
        if index == len(sums):
            sums.append(mine.detach().clone())
        else:
            sums[index] += mine.detach()
        last = self.number == len(self.parts.sizes) - 1
        return self.parts.ranks.total(sums[index]) if last else None

    def _answer(self, mine: Tensor) -> Tensor:
        """Rows of all workers: asked for now, or known from the first pass over the parts."""
        if len(self.parts.sizes) == 1 and not self.parts.answers:
            return self.parts.ranks.gather(mine)
        if self.calls == len(self.parts.answers):
            raise CompatibilityError(
                "an objective asks for the rows of the whole batch in a part of it and does not "
                "declare it: set `couples = True`."
            )
        self.calls += 1
        return self.parts.answers[self.calls - 1]
