"""What every dataset promises."""

from __future__ import annotations

import functools
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vaepipe import options
from vaepipe.core import DataSpec, Shape, Stream, seeded
from vaepipe.data.schema import from_vectors, shape_of
from vaepipe.datasets.base import Dataset
from vaepipe.errors import DataError, UserError
from vaepipe.testing import sources
from vaepipe.testing.contracts import base
from vaepipe.testing.contracts.base import Absent, NotAsked
from vaepipe.testing.statistics import note

_FEW = 200
"""Rows of each split whose values are looked at; ids are looked at in all."""


class DatasetContract(base.Contract):
    """Write `make`.

    A dataset that needs a source is asked with small files where it has an option `path`, else
    with what is on this machine; where there is nothing, only what needs no rows is asked.
    """

    group: ClassVar[str] = "datasets"

    @abstractmethod
    def make(self) -> Dataset:
        """A fresh dataset."""

    def build(self) -> Dataset:
        """A dataset, whether or not its source is there."""
        return self.make() if not self._missing_options() else self._with_path(Path("nowhere"))

    def first(self) -> Dataset:
        """As `make`."""
        return self.make()

    def test_splits_have_names(self) -> None:
        """At least one split; names are unique and can be names of folders."""
        with self.source() as dataset:
            names = dataset.splits
            assert names and len(set(names)) == len(names)
            assert all(name.isidentifier() for name in names), names

    def test_rows_are_as_declared(self) -> None:
        """`id` int64 and `x` uint8, float32 or float64 of the declared shape, in every batch."""
        with self.source() as dataset:
            for split in dataset.splits:
                for batch in dataset.examples(split):
                    self._assert_record(batch, dataset.spec.shape)

    def test_values_lie_in_the_declared_support(self) -> None:
        """What a model sees has the declared shape, support and levels, and is floating point."""
        with self.source() as dataset:
            spec = dataset.spec
            for split in dataset.splits:
                _, x = self._few(dataset, split)
                view = dataset.tensor(x, lambda x=x: torch.rand(x.shape))
                _assert_inside(view, spec, split)

    def test_ids_are_unique(self) -> None:
        """No two rows of a split have one id."""
        with self.source() as dataset:
            for split, ids in self._ids(dataset).items():
                assert len(np.unique(ids)) == len(ids), f"ids of split '{split}' repeat"

    def test_splits_are_disjoint(self) -> None:
        """No row is in two splits."""
        with self.source() as dataset:
            ids = self._ids(dataset)
            together = np.concatenate(list(ids.values()))
            unique = {split: np.unique(each) for split, each in ids.items()}
            expected = sum(len(each) for each in unique.values())
            assert len(np.unique(together)) == expected, "splits share ids"
            note(", ".join(f"{split} {len(each)}" for split, each in ids.items()))

    def test_reading_twice_gives_the_same_rows(self) -> None:
        """Rows, their order and their values do not depend on when they are read."""
        with self.source() as one, self.source() as two:
            for split in one.splits:
                np.random.seed(0)
                torch.manual_seed(0)
                first = self._few(one, split)
                torch.manual_seed(1)
                second = self._few(two, split)
                assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), split

    def test_the_frozen_view_does_not_depend_on_batches(self) -> None:
        """What evaluation sees of a row depends on its id, not on rows beside it or on seeds."""
        with self.source() as dataset:
            for split in dataset.splits:
                ids, x = self._few(dataset, split)
                whole = dataset.frozen(x, ids)
                pieces = [dataset.frozen(x[i : i + 7], ids[i : i + 7]) for i in range(0, len(x), 7)]
                assert torch.equal(whole, torch.cat(pieces)), "another view in other batches"
                order = torch.arange(len(x) - 1, -1, -1)
                assert torch.equal(dataset.frozen(x[order], ids[order]), whole[order])

    def test_its_only_noise_is_what_it_is_given(self) -> None:
        """`tensor` draws from `uniform` alone, so that a row's noise can be tied to its id."""
        with self.source() as dataset:
            _, x = self._few(dataset, dataset.splits[0])
            noise = torch.rand(x.shape)
            views = []
            for seed in (1, 2):
                with seeded(Stream(seed)):
                    views.append(dataset.tensor(x.clone(), lambda: noise))
            assert torch.equal(*views), "the view changes with torch's seed"

    def test_it_says_how_it_is_seen(self) -> None:
        """`describe` maps words to words."""
        with self.source() as dataset:
            for name, value in dataset.describe().items():
                assert isinstance(name, str) and isinstance(value, str), f"{name}: {value!r}"

    def test_a_missing_source_is_explained(self) -> None:
        """A source that is not there is a DataError that says what was expected where."""
        with tempfile.TemporaryDirectory() as empty:
            nowhere = Path(empty) / "nowhere"
            with sources.environment({"VAEPIPE_DATA": str(nowhere)}):
                try:
                    dataset = self._with_path(nowhere) if self._has_path else self.make()
                    dataset.prepare()
                    for split in dataset.splits:
                        next(iter(dataset.examples(split)), None)
                except DataError as error:
                    assert "nowhere" in str(error), f"it does not say where: {error}"
                    return
        raise NotAsked("its source is always there")

    @contextmanager
    def source(self) -> Iterator[Dataset]:
        """The dataset with a source that is there.

        Raises:
            Absent: this machine has none; the message says what was expected where.
        """
        with tempfile.TemporaryDirectory() as folder, sources.environment({}):
            yield self._ready(Path(folder))

    def _ready(self, folder: Path) -> Dataset:
        reasons = []
        for dataset in self._offers(folder):
            try:
                dataset.prepare()
                _ = dataset.spec, [next(iter(dataset.examples(s)), None) for s in dataset.splits]
            except UserError as error:
                reasons.append(str(error))
                continue
            return dataset
        raise Absent(f"its source is not here: {reasons[0] if reasons else 'give its options'}")

    def _offers(self, folder: Path) -> Iterator[Dataset]:
        if not self._missing_options():
            yield self.make()
        if self._has_path and not self._given.get("path"):
            yield from (self._with_path(path) for path in sources.write(folder))

    def _with_path(self, path: Path) -> Dataset:
        """The dataset with a path, and the plainest values of other options without a default."""
        assert self.part, "give `make` every option"
        plain = {"support": "real"}
        needed = {name: plain[name] for name in self._missing_options() if name in plain}
        return self.component(**{**needed, **self._given, "path": str(path)})

    @functools.cached_property
    def _given(self) -> Mapping[str, Any]:
        return dict(self.part.options) if self.part else {}

    @property
    def _has_path(self) -> bool:
        return bool(self.part) and "path" in options.schema(self.component).get("properties", {})

    def _missing_options(self) -> set[str]:
        required = options.schema(self.component).get("required", []) if self.part else []
        return set(required) - set(self._given)

    def _few(self, dataset: Dataset, split: str) -> tuple[Tensor, Tensor]:
        """Ids `[n]` and stored values `[n, *shape]` of the first rows of a split."""
        for batch in dataset.examples(split):
            rows = batch.slice(0, _FEW)
            x = from_vectors(rows.column("x"), shape_of(rows.schema.field("x")))
            return torch.from_numpy(rows.column("id").to_numpy().copy()), torch.from_numpy(x.copy())
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, *dataset.spec.shape)

    def _ids(self, dataset: Dataset) -> dict[str, np.ndarray]:
        return {
            split: np.concatenate(
                [np.zeros(0, np.int64)]
                + [batch.column("id").to_numpy() for batch in dataset.examples(split)]
            )
            for split in dataset.splits
        }

    @staticmethod
    def _assert_record(batch: pa.RecordBatch, shape: Shape) -> None:
        assert batch.schema.field("id").type in (pa.int64(), pa.uint64()), "`id` is not int64"
        assert not batch.column("id").null_count and not batch.column("x").null_count, "nulls"
        field = batch.schema.field("x")
        assert tuple(shape_of(field)) == tuple(shape), f"x of shape {shape_of(field)}"
        kinds = (pa.uint8(), pa.float32(), pa.float64())
        assert field.type.value_type in kinds, f"x of {field.type.value_type}"


def _assert_inside(view: Tensor, spec: DataSpec, split: str) -> None:
    assert tuple(view.shape[1:]) == tuple(spec.shape), f"{split}: a view {tuple(view.shape)}"
    assert view.dtype == torch.get_default_dtype(), f"{split}: a view of {view.dtype}"
    assert view.isfinite().all(), f"{split}: values that are not finite"
    assert spec.support.check(view).all(), f"{split}: values that are not {spec.support_name}"
    if spec.levels is not None:
        assert (view < spec.levels).all(), f"{split}: values of {spec.levels} or more"
