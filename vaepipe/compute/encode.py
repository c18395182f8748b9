"""The encoding worker: a range of row groups in, one file of latents out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from vaepipe import files
from vaepipe.compute.evaluate import device_of
from vaepipe.core import has_closed_form, rate
from vaepipe.data import schema, shards
from vaepipe.data.sources import Source
from vaepipe.datasets.base import Dataset
from vaepipe.evaluation.evidence import log_likelihood, over_draws, row_draws
from vaepipe.evaluation.moments import has_moments, moments
from vaepipe.registry import PartSpec
from vaepipe.training import bundle

DRAWS = 16
"""Samples behind a moment or a rate that has no closed form."""


@final
class Encoder:
    """Writes q(z | x) of the rows of a unit; built once for each worker.

    Args:
        common: `model` (folder of a bundle), `dataset` (a `PartSpec` as data), `sources` (split
            to `Source` as data), `keep` (columns that pass through), `samples`, `extras` (`elbo`,
            `log_lik`), `seed`, `batch_size`, `device`, `output`, `metadata` of the files.
    """

    def __init__(self, common: Mapping[str, Any]) -> None:
        """Load the model."""
        self.common = common
        self.device = device_of(common["device"])
        self.model = bundle.load(Path(common["model"]), self.device).model
        self.dataset: Dataset = PartSpec.from_dict(common["dataset"]).build()
        self.sources = {k: Source.from_dict(v) for k, v in common["sources"].items()}
        self.output = Path(common["output"])

    def __call__(self, unit: Mapping[str, Any]) -> dict[str, Any]:
        """Write the unit's file, then its record; the record is what a rerun trusts."""
        path = self.output / unit["part"]
        rows = 0
        with files.whole(path) as draft:
            writer = None
            for table in self._tables(unit):
                writer = writer or pq.ParquetWriter(
                    draft, table.schema, **schema.write_options(table.schema)
                )
                writer.write_table(table, row_group_size=shards.ROWS_PER_FILE)
                rows += table.num_rows
            if writer is not None:
                writer.close()
        record = {"name": unit["part"], "rows": rows, "sha256": files.sha256(path)}
        files.write_json(self.output / "_records" / f"{unit['part']}.json", record)
        return record

    def _tables(self, unit: Mapping[str, Any]) -> Iterator[pa.Table]:
        """One row group of output from each row group of input."""
        source, size = self.sources[unit["split"]], self.common["batch_size"]
        for group in unit["groups"]:
            ids, x, kept = source.read(group, self.common["keep"])
            parts = [
                self._encode(ids[i : i + size], x[i : i + size], kept.slice(i, size), unit["split"])
                for i in range(0, len(ids), size)
            ]
            yield pa.concat_tables(parts).combine_chunks()

    @torch.inference_mode()
    def _encode(self, ids: np.ndarray, x: np.ndarray, kept: pa.Table, split: str) -> pa.Table:
        stored = torch.tensor(x, device=self.device)
        view = self.dataset.frozen(stored, torch.tensor(ids, device=self.device))
        columns = {"id": pa.array(ids), "split": pa.array([split] * len(ids))}
        columns |= {name: kept.column(name) for name in self.common["keep"]}
        columns |= self._latents(view, ids.tolist())
        fields = [pa.field(n, c.type, nullable=n not in self._filled) for n, c in columns.items()]
        metadata = {k.encode(): str(v).encode() for k, v in self.common["metadata"].items()}
        return pa.table(columns, schema=pa.schema(fields, metadata=metadata))

    def _latents(self, x: Tensor, ids: Sequence[int]) -> dict[str, pa.Array]:
        h = self.model.inference.features(x)
        q, p = self.model.inference.head(h), self.model.p_z().z
        z = self._draws(h, ids, closed=has_moments(q) and has_closed_form(q, p))
        mean, scale = moments(q, z)
        r = over_draws(rate(q, p, mean[None] if z is None else z), 1)
        columns = {"mean": _vectors(mean), "scale": _vectors(scale), "rate": _column(r)}
        if z is not None and self.common["extras"]:
            log_lik = log_likelihood(self.model, x, z).mean(0)
            values = {"elbo": log_lik - r, "log_lik": log_lik}
            columns |= {name: _column(values[name]) for name in self.common["extras"]}
        if z is not None:
            samples = range(self.common["samples"])
            columns |= {f"sample_{i}": _vectors(z[i]) for i in samples}
        return columns

    def _draws(self, h: Tensor, ids: Sequence[int], *, closed: bool) -> Tensor | None:
        """Samples, where something that was asked for needs them."""
        wanted = max(self.common["samples"], DRAWS if self.common["extras"] or not closed else 0)
        if not wanted:
            return None
        return row_draws(self.model, h, ids, wanted, self.common["seed"])

    @property
    def _filled(self) -> set[str]:
        """Columns without nulls."""
        samples = (f"sample_{i}" for i in range(self.common["samples"]))
        return {"id", "split", "mean", "scale", "rate", "elbo", "log_lik", *samples}


def _vectors(values: Tensor) -> pa.Array:
    return schema.to_vectors(values.float().cpu().numpy().reshape(len(values), -1))


def _column(values: Tensor) -> pa.Array:
    return pa.array(values.float().cpu().numpy().astype(np.float32))
