"""The evaluation worker: one row group in, one part file out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vaepipe.data import shards
from vaepipe.data.sources import Source
from vaepipe.datasets.base import Dataset
from vaepipe.evaluation import Scores, score
from vaepipe.registry import PartSpec
from vaepipe.training import bundle

COLUMNS = ("elbo", "log_lik", "rate", "log_evidence", "log_evidence_se", "ess")


def device_of(name: str) -> torch.device:
    """`auto` is the GPU this worker was given, where there is one."""
    return torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    )


@final
class Evaluator:
    """Scores the rows of a unit; built once for each worker.

    Args:
        common: `model` (folder of a bundle), `dataset` (a `PartSpec` as data), `sources` (split
            to `Source` as data), `k`, `seed`, `batch_size`, `device`, and `parts`, the folder
            where part files go.
    """

    def __init__(self, common: Mapping[str, Any]) -> None:
        """Load the model."""
        self.device = device_of(common["device"])
        self.model = bundle.load(Path(common["model"]), self.device).model
        self.dataset: Dataset = PartSpec.from_dict(common["dataset"]).build()
        self.sources = {k: Source.from_dict(v) for k, v in common["sources"].items()}
        self.k, self.seed = int(common["k"]), int(common["seed"])
        self.batch_size, self.parts = int(common["batch_size"]), Path(common["parts"])

    def __call__(self, unit: Mapping[str, Any]) -> dict[str, Any]:
        """Write the unit's part; `rows` in the answer are for progress."""
        source = self.sources[unit["split"]]
        labels = [name for name in ("label",) if name in source.columns()]
        ids, x, kept = source.read(unit, labels)
        starts = range(0, len(ids), self.batch_size)
        scores = [
            self._score(ids[i : i + self.batch_size], x[i : i + self.batch_size]) for i in starts
        ]
        shards.write_table(self.parts / unit["part"], _table(ids, unit["split"], kept, scores))
        return {"part": unit["part"], "rows": len(ids)}

    def _score(self, ids: np.ndarray, x: np.ndarray) -> Scores:
        stored = torch.tensor(x, device=self.device)
        view = self.dataset.frozen(stored, torch.tensor(ids, device=self.device))
        return score(self.model, view, ids.tolist(), k=self.k, seed=self.seed)


def _table(ids: np.ndarray, split: str, kept: pa.Table, scores: list[Scores]) -> pa.Table:
    columns: dict[str, Any] = {"id": ids, "split": pa.array([split] * len(ids))}
    columns |= {name: kept.column(name) for name in kept.column_names}
    for name in COLUMNS:
        columns[name] = np.concatenate([_numpy(getattr(s, name)) for s in scores])
    sums = json.dumps(_sums(scores)).encode()
    return pa.table(columns).replace_schema_metadata({b"vaepipe.sums": sums})


def _numpy(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def _sums(scores: list[Scores]) -> dict[str, Any]:
    """What per-dimension statistics need of a unit, in the order of its rows."""
    means = np.concatenate([_numpy(s.mean) for s in scores])
    sums = {"n": len(means), "mean": means.sum(0).tolist(), "square": (means**2).sum(0).tolist()}
    rates = [_numpy(s.rate_per_dimension) for s in scores if s.rate_per_dimension is not None]
    if len(rates) == len(scores):
        sums["rate"] = np.concatenate(rates).sum(0).tolist()

    return sums
