"""Training batches: the same rows in the same order from memory or from the shards.

An epoch visits row groups in a random order, gathers them into windows and shuffles the rows of
a window; a split that fits one window is shuffled completely. The order depends on the seed, the
epoch and the data alone. Data within the memory budget are held on the device as stored and
indexed there; larger data stream through one window at a time.

An epoch of n rows takes ceil(n / batch size) steps of nearly equal size, so every row is seen.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vaepipe.core.streams import Stream
from vaepipe.data.shards import Split, Unit
from vaepipe.errors import DataError

WINDOW_BYTES = 256 * 2**20
MEMORY_BUDGET = 4 * 2**30

Batch = tuple[Tensor, Tensor]


class Batches:
    """Batches of a split for one rank.

    Every rank takes an equal share of each step. Steps differ by at most one example per rank, and
    the larger ones come first. Where the number of rows is not a multiple of the number of ranks,
    an epoch leaves out the rest, fewer rows than ranks; the shuffle decides which.

    Args:
        split: the examples.
        batch_size: the most examples of one optimiser step over all ranks together.
        order: the stream that decides it.
        rank: this worker's number; it takes its equal share of every batch.
        world_size: number of workers.
        device: where the batches are wanted.
        memory_budget: bytes up to which a split is held on the device.

    Raises:
        DataError: the split has fewer rows than workers, or the batch has fewer examples.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        order: Stream,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        memory_budget: int = MEMORY_BUDGET,
    ) -> None:
        """Read a split that fits; nothing is read of one that does not."""
        self.split, self.order, self.device = split, order, torch.device(device)
        self.rank, self.world_size = rank, world_size
        self.local = min(batch_size, split.num_rows) // world_size
        if self.local == 0:
            raise DataError(
                f"{split.folder} has {split.num_rows} rows and the batch size is {batch_size}: "
                f"too few for {world_size} workers."
            )
        self.rows = split.num_rows // world_size * world_size
        fits = split.num_rows * split.row_bytes <= memory_budget
        self._held = self._load(split.units) if fits else None

    @property
    def steps(self) -> int:
        """Optimiser steps of one epoch; equal on all ranks."""
        return -(-self.rows // (self.local * self.world_size))

    def epoch(self, number: int) -> Iterator[Batch]:
        """Ids `[batch]` and stored values `[batch, *shape]` of every step of an epoch."""
        rng = np.random.default_rng([self.order.word, number])
        windows = self._resident(rng) if self._held else self._streamed(rng)
        return self._steps(windows)

    def _steps(self, windows: Iterator[Batch]) -> Iterator[Batch]:
        """Cut windows into global batches and each into the share of this rank."""
        mine = slice(self.rank, None, self.world_size)
        least, larger = divmod(self.rows // self.world_size, self.steps)
        ids, x = next(windows)
        for step in range(self.steps):
            size = (least + (step < larger)) * self.world_size
            while len(ids) < size:
                more_ids, more_x = next(windows)
                ids, x = torch.cat([ids, more_ids]), torch.cat([x, more_x])
            yield ids[:size][mine], x[:size][mine]
            ids, x = ids[size:], x[size:]

    def _resident(self, rng: np.random.Generator) -> Iterator[Batch]:
        assert self._held is not None
        ids, x = self._held
        for units in self._windows(rng):
            rows = np.concatenate([np.arange(u.start, u.start + u.rows) for u in units])
            order = torch.from_numpy(rows[rng.permutation(len(rows))]).to(self.device)
            step = self.local * self.world_size
            for part in order.split(step * max(1, WINDOW_BYTES // 8 // (step * self._row))):
                yield ids[part], x[part]

    def _streamed(self, rng: np.random.Generator) -> Iterator[Batch]:
        for units in self._windows(rng):
            ids, x = self._load(units)
            order = torch.from_numpy(rng.permutation(len(ids))).to(self.device)
            yield ids[order], x[order]

    def _windows(self, rng: np.random.Generator) -> Iterator[list[Unit]]:
        units = self.split.units
        window: list[Unit] = []
        size = 0
        for index in rng.permutation(len(units)):
            window.append(units[index])
            size += units[index].rows * self._row
            if size >= WINDOW_BYTES:
                yield window
                window, size = [], 0
        if window:
            yield window

    def _load(self, units: list[Unit] | tuple[Unit, ...]) -> Batch:
        ids, x = self.split.take(units)
        return torch.tensor(ids, device=self.device), torch.tensor(x, device=self.device)

    @property
    def _row(self) -> int:
        return self.split.row_bytes
