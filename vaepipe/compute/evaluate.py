"""The evaluation worker: one row group in, one part file out; and what concerns whole splits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vaepipe import files
from vaepipe.compute import aggregate
from vaepipe.compute.latents import codes_of
from vaepipe.core import Purpose, examples, seeded, stream
from vaepipe.data import schema, shards
from vaepipe.data.sources import Source, check_unchanged
from vaepipe.datasets.base import Dataset
from vaepipe.errors import DataError
from vaepipe.evaluation import Annealing, Scores, ais, bdmc, gaps, joined, score
from vaepipe.evaluation.annealing import simulated
from vaepipe.evaluation.evidence import block_rows
from vaepipe.registry import PartSpec
from vaepipe.training import bundle

COLUMNS = ("elbo", "log_lik", "rate", "log_evidence", "log_evidence_se", "ess", "khat")
MORE = ("w_max", "recon_mse")
VERSION = 3
"""Of the columns and values of parts: parts of another version are made again."""
PATHS_AT_ONCE = 8
"""Examples whose annealed paths are followed together."""


def device_of(name: str) -> torch.device:
    """`auto` is the GPU this worker was given, where there is one."""
    return torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    )


@final
class Evaluator:
    """Scores the rows of a unit; built once for each worker.

    A unit's `kind` is `rows` (a row group), `aggregate` (a split as a whole) or `bdmc` (examples
    that the model made). What it writes depends on the unit and on `common` alone, to the last
    bit, and not on `batch_size`: rows are evaluated in blocks whose size follows from the model.

    Args:
        common: `model` (folder of a bundle), `dataset` (a `PartSpec` as data), `sources` (split
            to `Source` as data), `ks`, `proposal`, `refine_steps`, `gaps` and `ais` (their
            settings or None), `seed`, `batch_size`, `device`, and `parts`, the folder where part
            files go.
    """

    def __init__(self, common: Mapping[str, Any]) -> None:
        """Load the model."""
        self.common, self.device = common, device_of(common["device"])
        loaded = bundle.load(Path(common["model"]), self.device)
        self.model, self.lexicon, self.spec = loaded.model, loaded.lexicon, loaded.data
        self.dataset: Dataset = PartSpec.from_dict(common["dataset"]).build()
        self.sources = {k: Source.from_dict(v) for k, v in common["sources"].items()}
        self.seed, self.parts = int(common["seed"]), Path(common["parts"])
        with seeded(stream(self.seed, Purpose.PROBE)):
            self.discrete = self._codes(examples(self.spec, 1).to(self.device), 1) is not None

    def __call__(self, unit: Mapping[str, Any]) -> dict[str, Any]:
        """Write the unit's part; `rows` in the answer are for progress."""
        work = {"rows": self._rows, "aggregate": self._aggregate, "bdmc": self._bdmc}
        with whole_floats():
            work[unit["kind"]](unit)
        return {"part": unit["part"], "rows": unit["rows"]}

    def _rows(self, unit: Mapping[str, Any]) -> None:
        source = self.sources[unit["split"]]
        labels = [name for name in ("label",) if name in source.columns()]
        check_unchanged(unit)
        ids, x, kept = source.read(unit, labels)
        check_unchanged(unit)
        scores, codes = self._scores(unit["split"], ids, x)
        columns = _columns(ids, unit["split"], kept, scores)
        columns |= self._gaps(unit, ids, x, scores) | self._annealed(unit, ids, x)
        if self.lexicon is not None:
            columns["tokens"] = pa.array(self.lexicon.lengths(x), pa.int32())
        columns |= _vectors(scores, codes)
        about = {"closed": scores.closed, "device": self.device.type}
        sums = json.dumps({**_sums(scores), **about}).encode()
        table = pa.table(columns).replace_schema_metadata({b"vaepipe.sums": sums})
        shards.write_table(self.parts / unit["part"], table)

    def _scores(self, split: str, ids: np.ndarray, x: np.ndarray) -> tuple[Scores, Tensor | None]:
        """Of all rows of a unit, some at a time: whole blocks, as `score` itself would cut them.

        With them the codes `[n, m]`, where latents are discrete.
        """
        ks, view = self.common["ks"], self._view(split, ids[:1], x[:1])
        block = block_rows(self.model, view, ks[-1], self.common["proposal"])
        size = block * max(1, int(self.common["batch_size"]) // block)
        parts, codes = list[Scores](), list[Tensor | None]()
        for i in range(0, len(ids), size):
            some = ids[i : i + size]
            view = self._view(split, some, x[i : i + size])
            parts.append(self._score(view, some.tolist()))
            codes.append(self._codes(view, block) if self.discrete else None)
        scores = joined(parts)
        self._check_finite(split, ids, scores)
        return scores, _whole(codes)

    @torch.no_grad()
    def _codes(self, view: Tensor, block: int) -> Tensor | None:
        """The likeliest values of discrete latents `[n, m]`, a block at a time; else None."""
        return _whole([codes_of(self.model.inference(rows)) for rows in view.split(block)])

    def _score(self, view: Tensor, ids: Sequence[int], seed: int | None = None) -> Scores:
        options = {name: self.common[name] for name in ("proposal", "refine_steps")}
        seed = self.seed if seed is None else seed
        return score(self.model, view, ids, k=self.common["ks"], seed=seed, **options)

    def _view(self, split: str, ids: np.ndarray, x: np.ndarray) -> Tensor:
        """Examples as the model sees them.

        Raises:
            DataError: a value is not finite, or outside the support the model was fitted on.
        """
        stored = torch.tensor(x, device=self.device)
        view = self.dataset.frozen(stored, torch.tensor(ids, device=self.device))
        inside = self.spec.support.check(view) & view.isfinite()
        if self.spec.levels is not None:
            inside &= view < self.spec.levels
        bad = (~inside.reshape(len(view), -1).all(1)).nonzero().flatten().tolist()
        if bad:
            raise DataError(
                f"split '{split}', id {ids[bad[0]]}: expected finite values of support "
                f"'{self.spec.support_name}', as the model was fitted on; {len(bad)} of "
                f"{len(view)} rows looked at have others. Mend or remove them."
            )
        return view

    def _check_finite(self, split: str, ids: np.ndarray, scores: Scores) -> None:
        bad = ~(scores.log_evidence.isfinite() & scores.elbo.isfinite())
        if bad.any():
            at = int(bad.nonzero()[0])
            raise DataError(
                f"split '{split}', id {ids[at]}: log_evidence {scores.log_evidence[at].item()}, "
                f"elbo {scores.elbo[at].item()}. The model {self.common['model']} gives "
                f"{int(bad.sum())} of {len(ids)} rows no finite density; were they in the range "
                "of its training data, and did its training end well?"
            )

    def _some(self, unit: Mapping[str, Any], most: int) -> np.ndarray:
        """Which rows of a unit are among `most` evenly spaced ones of the split."""
        chosen = aggregate.spaced(unit["total"], most) - unit["first"]
        return chosen[(chosen >= 0) & (chosen < unit["rows"])]

    def _gaps(
        self, unit: Mapping[str, Any], ids: np.ndarray, x: np.ndarray, scores: Scores
    ) -> dict[str, pa.Array]:
        options = self.common["gaps"]
        if options is None:
            return {}
        at = self._some(unit, options["examples"])
        names = ("approx_gap", "amort_gap")
        if not len(at):
            return {name: pa.nulls(len(ids), pa.float64()) for name in names}
        view, rows = self._view(unit["split"], ids[at], x[at]), torch.from_numpy(at)
        found = gaps(
            self.model,
            view,
            ids[at].tolist(),
            log_evidence=scores.log_evidence[rows],
            elbo=scores.elbo[rows],
            steps=options["steps"],
            seed=self.seed,
        )
        for each in found:
            _refuse(unit["split"], ids[at], "the gaps", each)
        return {
            name: _scattered(len(ids), at, each) for name, each in zip(names, found, strict=True)
        }

    def _annealed(
        self, unit: Mapping[str, Any], ids: np.ndarray, x: np.ndarray
    ) -> dict[str, pa.Array]:
        options = self.common["ais"]
        if options is None:
            return {}
        at = self._some(unit, options["examples"])
        found = [torch.zeros(0, 2)]
        for i in range(0, len(at), PATHS_AT_ONCE):
            rows = at[i : i + PATHS_AT_ONCE]
            view = self._view(unit["split"], ids[rows], x[rows])
            numbers = ids[rows].tolist()
            got = ais(self.model, view, numbers, path=annealing(options), seed=self.seed)
            found.append(torch.stack(got, 1).cpu())
        values = torch.cat(found)
        _refuse(unit["split"], ids[at], "annealing", values[:, 0])
        names = ("log_evidence_ais", "log_evidence_ais_se")
        return {name: _scattered(len(ids), at, values[:, i]) for i, name in enumerate(names)}

    def _aggregate(self, unit: Mapping[str, Any]) -> None:
        ids, x, labels = self._spread(unit["split"], aggregate.NEIGHBOURS)
        view = self._view(unit["split"], ids, x)
        found = aggregate.lines(self.model, view, ids.tolist(), labels, self.seed)
        files.write_json(self.parts / unit["part"], [line._asdict() for line in found])

    def _spread(self, split: str, most: int) -> tuple[np.ndarray, np.ndarray, Sequence[Any] | None]:
        """Evenly spaced rows of a split: ids, stored values, labels if there are any."""
        source = self.sources[split]
        named = ["label"] if "label" in source.columns() else []
        units, found, first = source.units(), [], 0
        total = sum(unit["rows"] for unit in units)
        for unit in units:
            at = self._some({**unit, "total": total, "first": first}, most)
            first += unit["rows"]
            if len(at):
                ids, x, kept = source.read(unit, named)
                found.append((ids[at], x[at], kept.take(pa.array(at))))
        ids, x = (np.concatenate([part[i] for part in found]) for i in (0, 1))
        kept = pa.concat_tables([part[2] for part in found])
        known = named and kept.column("label").null_count == 0
        return ids, x, [str(v) for v in kept.column("label").to_pylist()] if known else None

    def _bdmc(self, unit: Mapping[str, Any]) -> None:
        first, n = unit["start"], unit["rows"]
        path = annealing(self.common["bdmc_path"])
        found = bdmc(self.model, n, path=path, seed=self.seed, first=first)
        ids = np.arange(first, first + n)
        _, x = simulated(self.model, ids.tolist(), self.seed)
        own = stream(self.seed, Purpose.SIMULATED_EVIDENCE).word
        evidence = self._score(x, ids.tolist(), own).log_evidence
        columns = {"id": ids, "log_evidence": _numpy(evidence)}
        columns |= {name: _numpy(each) for name, each in found._asdict().items()}
        for name in ("log_evidence", "lower", "upper"):
            _refuse("simulated", ids, name, torch.from_numpy(columns[name]))
        shards.write_table(self.parts / unit["part"], pa.table(columns))


@contextmanager
def whole_floats() -> Iterator[None]:
    """float32 with all its bits: a GPU's TF32 keeps ten of the fraction. Restored after."""
    places: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = False
        yield
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed


def _refuse(split: str, ids: np.ndarray, what: str, values: Tensor) -> None:
    """A bound that is no number is not left out of its mean.

    Raises:
        DataError: naming the row.
    """
    bad = (~values.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise DataError(
            f"split '{split}', id {ids[bad[0]]}: {what} gave {values[bad[0]].item()}, and no "
            f"finite number for {len(bad)} of {len(ids)} rows. Leave the measure out, or look at "
            "the model with `vaepipe plugins check`."
        )


def annealing(options: Mapping[str, Any]) -> Annealing:
    """The path that some settings describe."""
    return Annealing(options["temperatures"], options["chains"], options["leapfrog"])


def _columns(ids: np.ndarray, split: str, kept: pa.Table, scores: Scores) -> dict[str, Any]:
    columns: dict[str, Any] = {"id": ids, "split": pa.array([split] * len(ids))}
    columns |= {name: kept.column(name) for name in kept.column_names}
    columns |= {name: _column(getattr(scores, name)) for name in COLUMNS}
    if len(scores.at) > 1:
        columns |= {f"log_evidence_k{k}": _column(each) for k, each in scores.at.items()}
    return columns | {name: _column(getattr(scores, name)) for name in MORE}


def _vectors(scores: Scores, codes: Tensor | None) -> dict[str, pa.Array]:
    """What each example has in every latent dimension, named as in tables of latents.

    Fixed-size lists of float32. Where q or p does not factorise `rate_per_dim` is null, of type
    `list<float>`: readers of Parquet do not agree on what a null fixed-size list is.
    """
    rates, nothing = scores.rate_per_dimension, pa.list_(pa.float32())
    n = len(scores.mean)
    found = {"rate_per_dim": pa.nulls(n, nothing) if rates is None else _lists(rates)}
    if codes is not None:
        return found | {"codes": _lists(codes)}
    return found | {"mean": _lists(scores.mean), "scale": _lists(scores.scale)}


def _whole(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The parts as one; None where there are none."""
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found else None


def _lists(values: Tensor) -> pa.Array:
    return schema.to_vectors(values.float().cpu().numpy())


def _scattered(n: int, at: np.ndarray, values: Tensor) -> pa.Array:
    """Values of some of n rows; the others have none."""
    whole = np.full(n, np.nan)
    whole[at] = _numpy(values)
    return pa.array(whole, pa.float64(), from_pandas=True)


def _column(values: Tensor) -> pa.Array:
    """NaN, which says that there is no such number, is null."""
    return pa.array(_numpy(values), pa.float64(), from_pandas=True)


def _numpy(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def _sums(scores: Scores) -> dict[str, Any]:
    """What per-dimension statistics need of a unit."""
    means, noise = _numpy(scores.mean), _numpy(scores.mean_se) ** 2
    sums = {"n": len(means), "mean": means.sum(0).tolist(), "square": (means**2).sum(0).tolist()}
    sums["noise"] = noise.sum(0).tolist()
    if scores.rate_per_dimension is not None:
        sums["rate"] = _numpy(scores.rate_per_dimension).sum(0).tolist()
    return sums
