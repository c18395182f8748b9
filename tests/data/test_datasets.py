"""Datasets and their views: what is written, what a model sees, what is refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vaepipe import files, registry
from vaepipe.core import DataSpec, Stream, row_uniform
from vaepipe.data import shards
from vaepipe.datasets.digits import Digits
from vaepipe.datasets.mnist import FILES, MNIST
from vaepipe.datasets.parquet import ParquetDataset
from vaepipe.datasets.splits import by_id
from vaepipe.errors import DataError
from vaepipe.pipeline.stages import data


def write(part, folder):
    folder.mkdir()
    manifest = data.write(part, folder)
    files.write_json(folder / "manifest.json", {**manifest, "kind": "data"})
    return manifest


def test_the_artifact_of_digits_is_portable_parquet_with_the_shape_in_the_field(tmp_path):
    manifest = write(registry.part("datasets", "digits"), tmp_path / "a")
    table = pq.read_table(tmp_path / "a" / "train" / "part-00000.parquet")
    assert table.schema.field("id").type == pa.int64()
    x = table.schema.field("x")
    assert x.type == pa.list_(pa.field("element", pa.uint8(), nullable=False), 64)
    assert x.metadata[b"shape"] == b"[1, 8, 8]"
    assert "label" in table.column_names
    assert sum(s["rows"] for s in manifest["splits"].values()) == 1797


def test_splits_of_digits_share_no_id_and_leave_none_out(tmp_path):
    write(registry.part("datasets", "digits"), tmp_path / "a")
    ids = [
        shards.open_split(tmp_path / "a", s).sample(9999)["id"].to_pylist()
        for s in ("train", "val", "test")
    ]
    assert sorted(i for split in ids for i in split) == list(range(1797))


def test_writing_twice_gives_the_same_digest(tmp_path):
    part = registry.part("datasets", "digits", {"binarize": "static", "seed": 3})
    assert write(part, tmp_path / "a")["digest"] == write(part, tmp_path / "b")["digest"]


def test_a_static_draw_is_stored_binary_and_depends_on_its_seed(tmp_path):
    digests = set()
    for seed in (0, 1):
        part = registry.part("datasets", "digits", {"binarize": "static", "seed": seed})
        digests.add(write(part, tmp_path / str(seed))["digest"])
        _, x = shards.open_split(tmp_path / str(seed), "test").take(
            shards.open_split(tmp_path / str(seed), "test").units
        )
        assert set(np.unique(x)) == {0, 1}
    assert len(digests) == 2


def test_a_dynamic_draw_has_the_grey_level_as_its_mean():
    dataset = Digits(binarize="dynamic")
    x = torch.full((20_000, 1, 1, 1), 5, dtype=torch.uint8)
    draws = dataset.frozen(x, torch.arange(20_000))
    se = (5 / 16 * 11 / 16 / 20_000) ** 0.5
    assert abs(draws.mean().item() - 5 / 16) < 4 * se


def test_the_frozen_draw_of_a_row_does_not_depend_on_its_neighbours():
    dataset = Digits(binarize="dynamic")
    x = torch.randint(0, 17, (10, 1, 8, 8), dtype=torch.uint8)
    ids = torch.arange(100, 110)
    whole = dataset.frozen(x, ids)
    assert torch.equal(whole[3:4], dataset.frozen(x[3:4], ids[3:4]))
    assert torch.equal(whole.flip(0), dataset.frozen(x.flip(0), ids.flip(0)))


@pytest.mark.parametrize(
    ("binarize", "support"),
    [
        ("dynamic", "boolean"),
        ("static", "boolean"),
        ("threshold", "boolean"),
        ("none", "unit_interval"),
    ],
)
def test_the_view_lies_in_the_support_it_declares(binarize, support, tmp_path):
    part = registry.part("datasets", "digits", {"binarize": binarize})
    write(part, tmp_path / "a")
    spec = shards.load_spec(tmp_path / "a")
    assert spec.support_name == support
    ids, x = shards.open_split(tmp_path / "a", "val").take(
        shards.open_split(tmp_path / "a", "val").units
    )
    view = part.build().frozen(torch.tensor(x), torch.tensor(ids))
    assert spec.support.check(view).all()
    assert spec.mean.shape == (1, 8, 8)


def test_missing_mnist_names_the_folder_the_files_and_the_alternative(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEPIPE_DATA", str(tmp_path))

    def refuse(self):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", refuse)
    with pytest.raises(DataError) as error:
        MNIST().prepare()
    text = str(error.value)
    assert str(tmp_path / "MNIST" / "raw") in text
    assert all(name in text for name in FILES)
    assert "digits" in text and "no network" in text
    assert error.value.exit_code == 2


def test_the_fractions_of_a_split_by_id_hold_and_do_not_move_when_rows_are_added():
    few = by_id(np.arange(1000), {"train": 0.7, "val": 0.2, "test": 0.1})
    many = by_id(np.arange(100_000), {"train": 0.7, "val": 0.2, "test": 0.1})
    for name, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        assert np.array_equal(few[name], many[name][:1000])
        se = (share * (1 - share) / 100_000) ** 0.5
        assert abs(many[name].mean() - share) < 4 * se


def parquet(tmp_path, x, **columns):
    table = pa.table({"x": x, **columns})
    pq.write_table(table, tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


COLUMNS = {
    "fixed": lambda v: pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), v.shape[1]),
    "variable": lambda v: pa.array(v.tolist()),
    "half": lambda v: pa.FixedSizeListArray.from_arrays(
        pa.array(v.ravel().astype(np.float16)), v.shape[1]
    ),
    "double": lambda v: pa.FixedSizeListArray.from_arrays(
        pa.array(v.ravel().astype(np.float64)), v.shape[1]
    ),
    "tensor": lambda v: pa.FixedShapeTensorArray.from_numpy_ndarray(
        np.ascontiguousarray(v.reshape(-1, 2, 2))
    ),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_any_vector_column_of_parquet_gives_the_same_examples(kind, tmp_path):
    v = np.arange(40, dtype=np.float32).reshape(10, 4)
    path = parquet(tmp_path, COLUMNS[kind](v), key=pa.array(range(100, 110)))
    dataset = ParquetDataset(path=path, support="real", id_column="key", splits={"all": 1.0})
    (batch,) = dataset.examples("all")
    assert batch.column("id").to_pylist() == list(range(100, 110))
    values = np.array(batch.column("x").to_pylist(), np.float32)
    assert np.array_equal(values, v)
    assert dataset.spec.shape == ((2, 2) if kind == "tensor" else (4,))


@pytest.mark.parametrize(
    ("x", "support", "words"),
    [
        ([[0.0, 0.5]], "boolean", ["boolean", "id 0", "0.5"]),
        ([[0.0, 1.5]], "unit_interval", ["unit_interval", "1.5"]),
        ([[0.0, float("nan")]], "real", ["real", "nan"]),
        ([[0.0, float("inf")]], "real", ["inf"]),
        ([[0.0, -1.0]], "integer", ["-1"]),
        ([[0.0, 1.0], [2.0]], "real", ["row 1", "2 values", "got 1"]),
        ([[0.0, None]], "real", ["row 0", "null among its values"]),
        ([None, [0.0, 1.0]], "real", ["row 0: null"]),
        ([["a", "b"]], "real", ["expected numbers", "string"]),
    ],
)
def test_rows_that_are_not_what_was_declared_are_refused_by_name(x, support, words, tmp_path):
    path = parquet(tmp_path, pa.array(x))
    dataset = ParquetDataset(path=path, support=support, splits={"all": 1.0})
    with pytest.raises(DataError) as error:
        list(dataset.examples("all"))
    assert all(word in str(error.value) for word in [*words, "rows.parquet"])


def test_ids_that_repeat_are_refused(tmp_path):
    path = parquet(tmp_path, pa.array([[0.0], [1.0]]), key=pa.array([5, 5]))
    dataset = ParquetDataset(path=path, support="real", id_column="key", splits={"all": 1.0})
    with pytest.raises(DataError, match="id 5 appears more than once"):
        list(dataset.examples("all"))


def test_a_missing_column_or_file_says_what_is_there(tmp_path):
    path = parquet(tmp_path, pa.array([[0.0], [1.0]]))
    with pytest.raises(DataError, match=r"no column 'y'.*Columns: x"):
        ParquetDataset(path=path, support="real", column="y").prepare()
    with pytest.raises(DataError, match="no Parquet files"):
        ParquetDataset(path=tmp_path / "none", support="real").prepare()


def test_bytes_in_the_unit_interval_are_divided_by_255(tmp_path):
    v = np.array([[0, 51], [255, 102]], np.uint8)
    path = parquet(tmp_path, COLUMNS["fixed"](v))
    dataset = ParquetDataset(path=path, support="unit_interval", splits={"all": 1.0})
    (batch,) = dataset.examples("all")
    x = torch.tensor(np.array(batch.column("x").to_pylist(), np.uint8))
    expected = torch.tensor([[0.0, 0.2], [1.0, 0.4]])
    assert torch.allclose(
        dataset.tensor(x, lambda: row_uniform(Stream(0), torch.arange(2), (2,))).float(), expected
    )


def test_a_specification_survives_json():
    spec = DataSpec.from_dict({"shape": [2, 3], "support": "real", "num_examples": 9})
    assert DataSpec.from_dict(spec.to_dict()) == spec
