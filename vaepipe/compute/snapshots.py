"""Where the posteriors of a few rows lie while a model is fitted: what a report animates."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import final

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vaepipe.core import Purpose, seeded, stream
from vaepipe.data import schema, shards
from vaepipe.evaluation.moments import sampled_moments
from vaepipe.training.loop import Step

FOLDER = "snapshots"
ROWS, FRAMES = 500, 16
VALUES = 2**16
"""Numbers in one file at most; latents so large that few rows fit are not kept."""
FEWEST = 50


def frames(epochs: int) -> list[int]:
    """The epochs that are kept, dense at first, when most moves; the last one is among them.

    Example:
        >>> frames(4), frames(100)[:6], frames(100)[-2:]
        ([1, 2, 3, 4], [1, 2, 3, 5, 6, 9], [74, 100])
    """
    return sorted({round(e) for e in np.geomspace(1, epochs, FRAMES)}) if epochs else []


def rows_kept(rows: int, latents: int) -> int:
    """How many of a split's rows fit into a snapshot; 0 where only a few of them would.

    Example:
        >>> rows_kept(10_000, 20), rows_kept(10_000, 2_000)
        (500, 0)
    """
    most = min(ROWS, rows, VALUES // max(1, latents))
    return most if most >= min(FEWEST, rows) else 0


@final
class Snapshots:
    """Writes `snapshots/epoch-00012.parquet`: `id`, `label` if there is one, `mean` = E q(z | x).

    Args:
        folder: of the fit.
        rows: of the val split, as many as `rows_kept` says.
        x: the same rows as the model sees them, `[n, *shape]`.
        epochs: how many the fit has.
        fresh: whether it starts from nothing, so that older files are of another fit.
    """

    def __init__(
        self, folder: Path, rows: pa.Table, x: Tensor, epochs: int, *, fresh: bool
    ) -> None:
        self.folder, self.x = folder / FOLDER, x
        self.rows = rows.select([name for name in ("id", "label") if name in rows.column_names])
        self.frames = frozenset(frames(epochs))
        if fresh:
            shutil.rmtree(self.folder, ignore_errors=True)

    @torch.no_grad()
    def take(self, epoch: int, step: Step) -> None:
        """Write what the posteriors are after an epoch, if it is one of those that are kept."""
        if epoch not in self.frames or not len(self.x):
            return
        training = step.model.training
        step.model.eval()
        with seeded(stream(0, Purpose.SNAPSHOTS)):
            mean = self._means(step)
        step.model.train(training)
        self._write(epoch, mean)

    def _means(self, step: Step) -> np.ndarray:
        q = step.model.inference.head(step.objective.features(step.model, self.x))
        return sampled_moments(q).mean.float().cpu().numpy()

    def _write(self, epoch: int, mean: np.ndarray) -> None:
        field = schema.vector_field("mean", pa.float32(), mean.shape[1:])
        table = self.rows.append_column(field, schema.to_vectors(mean))
        self.folder.mkdir(exist_ok=True)
        shards.write_table(self.folder / f"epoch-{epoch:05d}.parquet", table)
