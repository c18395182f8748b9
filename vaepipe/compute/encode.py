"""The encoding worker: a range of groups of one input file in, one file of latents out."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.distributions import constraints

from vaepipe import files
from vaepipe.compute.evaluate import device_of, whole_floats
from vaepipe.compute.latents import Latents
from vaepipe.core import examples
from vaepipe.data import schema, shards
from vaepipe.data.overlap import Behind, Clock, ahead
from vaepipe.data.sources import Batch, Source, check_unchanged, refuse
from vaepipe.datasets.base import Dataset
from vaepipe.errors import BundleError, DataError, StorageError, VaepipeError
from vaepipe.registry import PartSpec
from vaepipe.training import bundle

RECORDS, BAD = "_records", "_bad"
GROUP_ROWS, GROUP_BYTES = 2**14, 2**26
"""The most rows, and bytes before compression, of an output row group: what a worker holds."""

PAGE_BYTES = 2**24
"""Bytes that go into a page at most: Arrow counts rows, 1024 of them unless they are wide."""

HELD = frozenset({"id", "split", "mean", "scale", "codes", "rate", "elbo", "log_lik", "sir"})
"""Names that columns of ours have; `sample_0` and the like besides."""

Fault = tuple[int, str]
"""A row's position in its file, and what is wrong with it."""


@final
class Encoder:
    """Writes q(z | x) of the rows of a unit; built once for each worker.

    One thread reads ahead, this one computes, one writes behind; a few batches wait between them,
    so memory does not grow with the rows. What a unit's file holds depends on the unit and on
    `common` alone: any number of workers and any history of restarts gives the same bytes.

    Args:
        common: `model` (folder of a bundle), `dataset` (a `PartSpec` as data), `sources` (split
            to `Source` as data), `keep` (columns that pass through), `batch_size`, `on_bad_row`
            (`fail` or `quarantine`), `device`, `output`, `metadata` of the files, and what
            `Latents` reads. A record names the `plan` that its part was made for.

    Raises:
        BundleError: the folder holds another model than the one that was planned for.
    """

    def __init__(self, common: Mapping[str, Any]) -> None:
        """Load the model."""
        self.common = common
        self.device = device_of(common["device"])
        loaded = bundle.load(Path(common["model"]), self.device)
        _check_model(loaded, common["metadata"])
        self.spec = loaded.data
        self.latents = Latents(loaded.model, common)
        self.dataset: Dataset = PartSpec.from_dict(common["dataset"]).build()
        self.sources = {k: Source.from_dict(v) for k, v in common["sources"].items()}
        self.output = Path(common["output"])

    def __call__(self, unit: Mapping[str, Any]) -> dict[str, Any]:
        """Write the unit's file, then its record; the record is what a rerun trusts.

        Where bad rows are set aside, an input file that cannot be read is told (`error`) and not
        raised, so that the other files are still done.

        Raises:
            DataError: the input changed since the plan was made, or a row of it cannot be read.
            StorageError: the output cannot be written.
        """
        try:
            with whole_floats():
                return self._work(unit)
        except DataError as error:
            if self.common["on_bad_row"] == "fail":
                raise
            return {"error": str(error), "bad": 0}

    def _work(self, unit: Mapping[str, Any]) -> dict[str, Any]:
        clock, faults, begin = Clock(), list[Fault](), time.perf_counter()
        check_unchanged(unit)
        try:
            rows = self._write(unit, clock, faults)
            check_unchanged(unit)
            _check_complete(unit, rows + len(faults))
            record = self._record(unit, rows, faults)
        except VaepipeError:
            raise
        except OSError as error:
            raise StorageError(
                f"{self.output / unit['part']} cannot be written: {error}"
            ) from error
        seconds = {**asdict(clock), "wall": time.perf_counter() - begin}
        told = {name: record[name] for name in ("bad", "bytes")}
        return {"rows": unit["rows"], "seconds": seconds, "peak_mb": peak_mb(), **told}

    def batch(self, unit: Mapping[str, Any], number: int, *, clean: bool) -> tuple[int, pa.Table]:
        """One of a unit's batches as its file has it, and the rows that stand before.

        Where no row was set aside (`clean`) these are counted without encoding them.
        """
        check_unchanged(unit)
        before = 0
        for i, batch in enumerate(self._batches(unit)):
            if i == number:
                return before, self._encode(batch, unit, [])
            before += len(batch.ids) if clean else len(self._encode(batch, unit, []))
        raise DataError(f"{unit['path']}: no batch {number} in {unit['part']}.")

    def _write(self, unit: Mapping[str, Any], clock: Clock, faults: list[Fault]) -> int:
        """Encode the rows as they stream; how many were written."""
        path = self.output / unit["part"]
        with files.whole(path) as draft, _Sink(draft) as sink, Behind(sink.put, clock) as behind:
            for batch in ahead(self._batches(unit), clock):
                begin = time.perf_counter()
                table = self._encode(batch, unit, faults)
                clock.compute += time.perf_counter() - begin
                behind.put(table)
            if not behind.taken:
                behind.put(self._nothing(unit["split"]))
        return sink.rows

    def _batches(self, unit: Mapping[str, Any]) -> Iterator[Batch]:
        source, groups = self.sources[unit["split"]], range(unit["first"], unit["last"] + 1)
        keep, size = self.common["keep"], self.common["batch_size"]
        return source.stream(unit["path"], groups, unit["start"], keep, size, unit["row"])

    @torch.inference_mode()
    def _encode(self, batch: Batch, unit: Mapping[str, Any], faults: list[Fault]) -> pa.Table:
        """A batch's rows with their latents; the faulty ones are told, and left out."""
        if not len(batch.ids):
            self._refuse(unit, batch.bad, faults)
            return self._nothing(unit["split"])
        ids = batch.ids
        view = self.dataset.frozen(self._sent(torch.tensor(batch.x)), self._sent(torch.tensor(ids)))
        inside = self._inside(view)
        self._refuse(unit, [*batch.bad, *_outside(batch, ~inside, self.spec.support_name)], faults)
        kept = batch.kept
        if not inside.any():
            return self._nothing(unit["split"])
        if not inside.all():
            view, kept, ids = view[inside], kept.filter(pa.array(inside)), ids[inside]
        return self._table(view, ids, kept, unit["split"])

    def _refuse(self, unit: Mapping[str, Any], found: list[Fault], faults: list[Fault]) -> None:
        """Note the faulty rows, or end the work."""
        if found and self.common["on_bad_row"] == "fail":
            refuse(unit["path"], found, "--on-bad-row quarantine sets such rows aside")
        faults += found

    def _sent(self, values: Tensor) -> Tensor:
        """On the device; from pinned memory a copy does not hold this thread up."""
        if self.device.type != "cuda":
            return values.to(self.device)
        return values.pin_memory().to(self.device, non_blocking=True)

    def _inside(self, view: Tensor) -> np.ndarray:
        """`[n]`: which examples lie in the support that the model was fitted on."""
        flat, support = view.flatten(1), self.spec.support
        if isinstance(support, type(constraints.unit_interval)):  # ten times as fast as `check`
            low, high = torch.aminmax(flat)  # most batches have nothing to look for row by row
            if low >= support.lower_bound and high <= support.upper_bound:
                return np.ones(len(flat), bool)
            inside = (flat.amin(1) >= support.lower_bound) & (flat.amax(1) <= support.upper_bound)
        else:
            inside = support.check(view).flatten(1).all(1)
        if self.spec.levels is not None:
            inside &= flat.amax(1) < self.spec.levels
        return inside.cpu().numpy()

    def _table(self, view: Tensor, ids: np.ndarray, kept: pa.Table, split: str) -> pa.Table:
        columns = {"id": pa.array(ids), "split": pa.array([split] * len(ids), pa.string())}
        columns |= {name: _plain(kept.column(name)) for name in self.common["keep"]}
        columns |= (latents := self.latents.columns(view, ids))
        filled = {"id", "split", *latents}
        fields = [pa.field(n, c.type, nullable=n not in filled) for n, c in columns.items()]
        metadata = {k.encode(): str(v).encode() for k, v in self.common["metadata"].items()}
        return pa.table(columns, schema=pa.schema(fields, metadata=metadata))

    def _nothing(self, split: str) -> pa.Table:
        """No rows, with the columns that rows would have."""
        source = self.sources[split]
        types = source.schema(self.common["keep"])
        kept = pa.table([pa.nulls(1, kind) for kind in types.types], schema=types)
        with torch.inference_mode():
            view = examples(self.spec, 1).to(self.device)
            return self._table(view, np.zeros(1, source.id_type), kept, split).slice(0, 0)

    def _record(self, unit: Mapping[str, Any], rows: int, faults: list[Fault]) -> dict[str, Any]:
        """Set aside what is faulty; then say that the part is done."""
        path = self.output / unit["part"]
        if faults:
            self._set_aside(unit, faults)
        record = {
            "name": unit["part"],
            "rows": rows,
            "bad": len(faults),
            "bytes": path.stat().st_size,
            "sha256": files.sha256(path),
            "plan": self.common["plan"],
        }
        files.write_json(self.output / RECORDS / f"{unit['part']}.json", record)
        return record

    def _set_aside(self, unit: Mapping[str, Any], faults: list[Fault]) -> None:
        (self.output / BAD).mkdir(exist_ok=True)
        rows, reasons = zip(*sorted(faults), strict=True)
        columns = {
            "file": pa.array([unit["path"]] * len(rows)),
            "row": pa.array(rows, pa.int64()),
            "reason": pa.array(reasons),
        }
        shards.write_table(self.output / BAD / unit["part"], pa.table(columns))


@final
class _Sink:
    """One Parquet file, whose row groups have as many rows whatever the batches were."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self._writer: pq.ParquetWriter | None = None
        self._held: list[pa.Table] = []
        self._group = 0

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is None:
            return
        try:
            if self._held and kind is None:
                self._flush(sum(table.num_rows for table in self._held))
        finally:
            self._writer.close()

    def put(self, table: pa.Table) -> None:
        """Keep a table until a row group is full."""
        if self._writer is None:
            self._open(table)
        self._held.append(table)
        self.rows += table.num_rows
        while (held := sum(each.num_rows for each in self._held)) >= self._group:
            self._flush(self._group)
        if sum(each.nbytes for each in self._held) >= GROUP_BYTES:  # rows grew longer
            self._flush(held)

    def _open(self, table: pa.Table) -> None:
        row = table.nbytes / max(1, table.num_rows)
        self._group = max(1, min(GROUP_ROWS, int(GROUP_BYTES / max(1.0, row))))
        options = schema.write_options(table.schema)
        together = max(1, min(1024, int(PAGE_BYTES / max(1.0, row))))
        self._writer = pq.ParquetWriter(
            self.path, table.schema, write_batch_size=together, **options
        )

    def _flush(self, rows: int) -> None:
        whole = pa.concat_tables(self._held)
        assert self._writer is not None
        self._writer.write_table(whole.slice(0, rows).combine_chunks(), row_group_size=self._group)
        rest = whole.slice(rows)
        self._held = [rest] if rest.num_rows else []


def _check_complete(unit: Mapping[str, Any], rows: int) -> None:
    """Every row that was planned was read.

    Raises:
        DataError: the file had fewer, or more.
    """
    if rows != unit["rows"]:
        raise DataError(
            f"{unit['path']}: row groups {unit['first']} to {unit['last']} gave {rows} rows, "
            f"planned were {unit['rows']}. Is somebody writing to it? Run again, or --overwrite."
        )


def _check_model(loaded: bundle.Bundle, metadata: Mapping[str, Any]) -> None:
    planned = metadata["vaepipe.model_digest"]
    if loaded.digest != planned:
        raise BundleError(
            f"{loaded.path} holds the model {loaded.digest[:12]}, planned was {planned[:12]}: it "
            "was replaced since the encoding began, or this node has another copy."
        )


def peak_mb() -> float:
    """The most memory that this process has held; `ru_maxrss` would count its parent's too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as readers without Arrow's extension types see it."""
    if isinstance(column.type, pa.BaseExtensionType):
        return pa.chunked_array([c.storage for c in column.chunks], column.type.storage_type)
    return column


def _outside(batch: Batch, wrong: np.ndarray, support: str) -> list[Fault]:
    """Positions of rows outside the support."""
    if not wrong.any():
        return []
    bad = {row for row, _ in batch.bad}
    places = [
        row for row in range(batch.start, batch.start + len(wrong) + len(bad)) if row not in bad
    ]
    return [(places[i], f"a value outside the support '{support}'") for i in np.flatnonzero(wrong)]
