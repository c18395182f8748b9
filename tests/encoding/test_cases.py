"""Inputs from the field: data stage, encode, evaluate and reconstruct read the same rows, or none.

Each command is asked through the command line, with a model that nobody fitted.
"""

import datetime as dt
import json

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from untrained import rows_of, save_model, vaepipe

from vaepipe import files, registry
from vaepipe.compute.encode import BAD, Encoder
from vaepipe.data import schema
from vaepipe.errors import DataError
from vaepipe.pipeline.stages import data, encode

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 8)).astype(np.float32)
IDS = np.arange(60)
COMMANDS = ("encode", "evaluate", "reconstruct")
REAL = {"support": "real", "splits": {"all": 1.0}}


@pytest.fixture(scope="module")
def m8(tmp_path_factory):
    """A model of eight real numbers."""
    dataset = ("npy", {"path": "nowhere", "support": "real"})
    folder = tmp_path_factory.mktemp("m8") / "m"
    return save_model(folder, (8,), likelihood="gaussian", support="real", dataset=dataset)


@pytest.fixture(scope="module")
def mchw(tmp_path_factory):
    """A model of pictures, channels first."""
    dataset = ("npy", {"path": "nowhere", "support": "unit_interval"})
    options = {"likelihood": "gaussian", "support": "unit_interval", "dataset": dataset}
    return save_model(tmp_path_factory.mktemp("mchw") / "m", (3, 8, 8), **options)


def parquet(path, x=X, ids=IDS, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    vectors = x if isinstance(x, pa.Array) else schema.to_vectors(x)
    pq.write_table(pa.table({"id": ids, "x": vectors, **columns}), path)
    return path


def stage(folder, kind, **options):
    """A data artifact: its folder, and the rows of its only split."""
    folder.mkdir()
    manifest = data.write(registry.part("datasets", kind, options), folder)
    files.write_json(folder / "manifest.json", {**manifest, "kind": "data"})
    return folder, pq.read_table(folder / "all")


def command(capfd, name, model, source, output, *words):
    """Exit code, stdout and stderr."""
    where = {"evaluate": "--data"}.get(name, "--input")
    place = output.with_suffix(".parquet") if name == "reconstruct" else output
    more = ("--k", 2) if name == "evaluate" else ()
    options = ("--model", model, where, source, "--output", place, *more, *words)
    return vaepipe(capfd, name, *options)


def refused(capfd, model, source, output, *words):
    """What each command says when it refuses a source: exit code 2, a line, nothing written."""
    said = set()
    for name in COMMANDS:
        code, _, err = command(capfd, name, model, source, output / name, *words)
        assert code == 2 and "Traceback" not in err, (name, code, err)
        assert not list(output.rglob("part-*")) and not list(output.glob("*.parquet"))
        said.add(err.strip().splitlines()[-1].partition("vaepipe: ")[2])
    return said


def read_by_all(capfd, model, source, output, *words):
    """The latents, after every command has read the rows."""
    for name in COMMANDS:
        code, _, err = command(capfd, name, model, source, output / name, *words)
        assert code == 0, (name, err)
    code, out, _ = vaepipe(capfd, "latents", "verify", output / "encode")
    assert code == 0, out
    return rows_of(output / "encode")


def test_channels_last_are_not_channels_first(mchw, tmp_path, capfd):
    chw = RNG.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    hwc = np.ascontiguousarray(chw.transpose(0, 2, 3, 1))
    np.save(tmp_path / "hwc.npy", hwc)
    for said in refused(capfd, mchw, tmp_path / "hwc.npy", tmp_path / "out"):
        assert "shape (3, 8, 8)" in said and "(8, 8, 3)" in said and "transpose" in said
    options = {"support": "unit_interval", "shape": [3, 8, 8], "splits": {"all": 1.0}}
    with pytest.raises(DataError, match=r"\(3, 8, 8\).*\(8, 8, 3\)"):
        stage(tmp_path / "d", "npy", path=str(tmp_path / "hwc.npy"), **options)
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(hwc)
    path = parquet(tmp_path / "hwc.parquet", tensor, IDS[:20])
    for said in refused(capfd, mchw, path, tmp_path / "out"):
        assert "shape (3, 8, 8)" in said and "(8, 8, 3)" in said
    with pytest.raises(DataError, match=r"\(3, 8, 8\).*\(8, 8, 3\)"):
        stage(tmp_path / "e", "parquet", path=str(path), **options)


def test_every_harmless_layout_gives_the_same_latents(mchw, tmp_path, capfd):
    """Flat rows, an axis of length 1, Fortran order, a tensor in another order, an artifact."""
    chw = RNG.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "chw.npy", chw)
    np.save(tmp_path / "flat.npy", chw.reshape(20, -1))
    np.save(tmp_path / "axis.npy", chw[:, None])
    np.save(tmp_path / "fortran.npy", np.asfortranarray(chw))
    hwc = np.ascontiguousarray(chw.transpose(0, 2, 3, 1))
    kind = pa.fixed_shape_tensor(pa.uint8(), [8, 8, 3], permutation=[2, 0, 1])
    stored = pa.FixedSizeListArray.from_arrays(pa.array(hwc.ravel()), 192)
    permuted = pa.ExtensionArray.from_storage(kind, stored)
    parquet(tmp_path / "permuted.parquet", permuted, IDS[:20])
    options = {"support": "unit_interval", "splits": {"all": 1.0}}
    made, table = stage(
        tmp_path / "d", "parquet", path=str(tmp_path / "permuted.parquet"), **options
    )
    assert np.array_equal(schema.from_vectors(table["x"], (3, 8, 8)), chw)
    names = ["chw.npy", "flat.npy", "axis.npy", "fortran.npy", "permuted.parquet"]
    sources = [*(tmp_path / name for name in names), made, made / "all" / "part-00000.parquet"]
    for number, source in enumerate(sources):
        out = tmp_path / f"out{number}"
        assert command(capfd, "encode", mchw, source, out)[0] == 0, source
        assert rows_of(out)["mean"].equals(rows_of(tmp_path / "out0")["mean"]), source


def test_a_file_of_an_artifact_keeps_its_shape(m8, mchw, tmp_path, capfd):
    """Eight values of shape [2, 4] or [4, 2] are not the eight of a model of [8]."""
    np.save(tmp_path / "x.npy", X.reshape(60, 2, 4))
    made, _ = stage(tmp_path / "d", "npy", path=str(tmp_path / "x.npy"), **REAL)
    source = made / "all" / "part-00000.parquet"
    code, _, err = command(capfd, "encode", m8, source, tmp_path / "out")
    assert code == 2 and "(8,)" in err and "(2, 4)" in err


def test_files_of_different_layouts_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", X.reshape(60, 4, 2))
    np.save(tmp_path / "in" / "b.npy", X.reshape(60, 2, 4))
    with pytest.raises(DataError, match=r"b\.npy.*\(4, 2\).*\(2, 4\)"):
        stage(tmp_path / "d", "npy", path=str(tmp_path / "in"), **REAL)


def test_ids_beyond_int64_are_kept(m8, tmp_path, capfd):
    key = RNG.integers(2**63, 2**64, 60, dtype=np.uint64)
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"key": key, "v": schema.to_vectors(X)}), path)
    columns = ("--column", "v", "--id-column", "key")
    found = read_by_all(capfd, m8, path, tmp_path / "file", *columns)
    assert found["id"].to_pylist() == key.tolist()
    made, table = stage(
        tmp_path / "d", "parquet", path=str(path), column="v", id_column="key", **REAL
    )
    assert table["id"].to_pylist() == key.tolist()
    again = read_by_all(capfd, m8, made, tmp_path / "artifact")
    assert again["id"].equals(found["id"]) and again["mean"].equals(found["mean"])
    scores = pq.read_table(tmp_path / "artifact" / "evaluate" / "per_example.parquet")
    assert scores["id"].to_pylist() == key.tolist()
    one = tmp_path / "one.parquet"
    words = ("--model", m8, "--input", made, "--id", key[7], "--output", one)
    assert vaepipe(capfd, "reconstruct", *words)[0] == 0
    assert pq.read_table(one)["id"].to_pylist() == [key[7]]
    words = ("--model", m8, "--input", made, "--from", key[1], "--to", key[2], "--output", one)
    assert vaepipe(capfd, "interpolate", *words)[0] == 0


def test_ids_that_repeat_are_told(m8, tmp_path, capfd):
    """Files whose rows are numbered from 0 in each: their draws are the same, joins go wrong."""
    for name in "ab":
        parquet(tmp_path / "in" / f"{name}.parquet")
    told = "warning: 60 rows repeat an id of their split: rows of one id have the same random"
    for name in ("encode", "evaluate"):
        code, _, err = command(capfd, name, m8, tmp_path / "in", tmp_path / name)
        assert code == 0 and told in err, (name, err)
    (said,) = json.loads((tmp_path / "encode" / "_manifest.json").read_text())["warnings"]
    assert said in json.loads((tmp_path / "evaluate" / "manifest.json").read_text())["diagnosis"]
    code, out, _ = vaepipe(capfd, "latents", "verify", tmp_path / "encode")
    assert code == 1 and "60 rows repeat an id" in out
    numbered = pq.read_table(tmp_path / "in").rename_columns(["row", "x"])
    pq.write_table(numbered, tmp_path / "numbered.parquet")
    for name in ("encode", "evaluate"):
        source, output = tmp_path / "numbered.parquet", tmp_path / f"{name}-numbered"
        code, _, err = command(capfd, name, m8, source, output)
        assert code == 0 and "repeat" not in err


def test_dates_of_spark_keep_their_year(m8, tmp_path, capfd):
    days = [dt.datetime(9999, 12, 31), dt.datetime(1, 1, 1), dt.datetime(2024, 5, 1)] * 20
    table = pa.table(
        {"id": IDS, "x": schema.to_vectors(X), "to": pa.array(days, pa.timestamp("us"))}
    )
    path = tmp_path / "x.parquet"
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)
    assert read_by_all(capfd, m8, path, tmp_path / "out")["to"].to_pylist() == days
    _, made = stage(tmp_path / "d", "parquet", path=str(path), label_column="to", **REAL)
    assert made["label"].to_pylist() == days


def mark_delta(folder):
    (folder / "_delta_log").mkdir(parents=True)
    (folder / "_delta_log" / "00000000000000000000.json").write_text("{}")
    return folder


def mark_hudi(folder):
    (folder / ".hoodie").mkdir(parents=True)
    return folder


def mark_iceberg(folder):
    (folder / "metadata").mkdir(parents=True)
    (folder / "metadata" / "v1.metadata.json").write_text("{}")
    return folder / "data"


@pytest.mark.parametrize("partition", ["", "day=1/"])
@pytest.mark.parametrize(
    ("mark", "kind"), [(mark_delta, "Delta"), (mark_hudi, "Hudi"), (mark_iceberg, "Iceberg")]
)
def test_tables_with_a_log_are_refused(m8, tmp_path, capfd, mark, kind, partition):
    """However one points into them; rows that were deleted are still in the files."""
    table = tmp_path / "in" / "table"
    place = mark(table)
    path = parquet(place / f"{partition}part-0.parquet")
    others = parquet(tmp_path / "in" / "other" / "part-0.parquet")
    sources = [table, place, path.parent, path, path.parent / "*.parquet", tmp_path / "in"]
    sources += [tmp_path / "in" / "*" / "**", table.as_uri()]
    for source in sources:
        code, _, err = command(capfd, "encode", m8, source, tmp_path / "out")
        assert code == 2 and f"part of a {kind} table" in err and "Export" in err, (source, err)
    for said in refused(capfd, m8, table, tmp_path / "out"):
        assert f"part of a {kind} table" in said
    with pytest.raises(DataError, match=f"part of a {kind} table"):
        stage(tmp_path / "d", "parquet", path=str(table), **REAL)
    assert command(capfd, "encode", m8, others.parent, tmp_path / "other")[0] == 0


def test_partitions_of_hive_are_columns(m8, tmp_path, capfd):
    labels = pa.array(["a b", "c/d", None] * 20)
    table = pa.table({"id": IDS, "x": schema.to_vectors(X), "label": labels})
    table = table.append_column("year", pa.array([2024, 2025] * 30))
    by = {"partitioning": ["label", "year"], "partitioning_flavor": "hive"}
    ds.write_dataset(table, tmp_path / "in", format="parquet", **by)
    found = read_by_all(capfd, m8, tmp_path / "in", tmp_path / "out")
    order = np.argsort(found["id"].to_numpy())
    assert found["label"].take(pa.array(order)).to_pylist() == labels.to_pylist()
    assert found["year"].type == pa.int32() and set(found["year"].to_pylist()) == {2024, 2025}
    code, _, err = command(capfd, "encode", m8, tmp_path / "in", tmp_path / "o", "--keep", "lable")
    assert code == 2 and "Did you mean 'label'? Columns: label, year." in err
    one = tmp_path / "in" / "label=a%20b" / "year=2024"
    assert command(capfd, "encode", m8, one, tmp_path / "one", "--keep", "label")[0] == 0
    assert set(rows_of(tmp_path / "one")["label"].to_pylist()) == {"a b"}
    options = {"path": str(tmp_path / "in"), "id_column": "id", **REAL}
    _, made = stage(tmp_path / "d", "parquet", label_column="year", **options)
    assert made["label"].type == pa.int32() and made.num_rows == 60
    scores = pq.read_table(tmp_path / "out" / "evaluate" / "per_example.parquet")
    assert scores["label"].null_count == 20


def test_partitions_that_are_not_all_integers_are_text(m8, tmp_path, capfd):
    for name in ("007", "b"):
        parquet(tmp_path / "in" / f"k={name}" / "x.parquet", X[:30], IDS[:30] + 30 * (name == "b"))
    assert command(capfd, "encode", m8, tmp_path / "in", tmp_path / "out")[0] == 0
    assert set(rows_of(tmp_path / "out")["k"].to_pylist()) == {"007", "b"}


LABELS = {
    "text": [
        pa.array(["a"] * 60),
        pa.array(["b"] * 60, pa.large_string()),
        pa.array(["c"] * 60).dictionary_encode(),
        pa.nulls(60),
    ],
    "integers": [pa.array([1] * 60, pa.int32()), pa.array([2**40] * 60), pa.nulls(60)],
    "numbers": [pa.array([1.5] * 60, pa.float32()), pa.array([0.1] * 60)],
    "lists": [
        pa.array([[1]] * 60, pa.list_(pa.field("item", pa.int64()))),
        pa.array([[2]] * 60, pa.list_(pa.field("element", pa.int32(), nullable=False))),
    ],
    "dates": [
        pa.array([dt.datetime(2024, 1, 1)] * 60, pa.timestamp("ms")),
        pa.array([dt.datetime(9999, 1, 1)] * 60, pa.timestamp("us")),
    ],
}


@pytest.mark.parametrize("kind", LABELS)
def test_a_column_of_several_types_is_one_column(m8, tmp_path, capfd, kind):
    for number, label in enumerate(LABELS[kind]):
        parquet(tmp_path / "in" / f"{number}.parquet", ids=IDS + 60 * number, label=label)
    expected = [value for label in LABELS[kind] for value in label.to_pylist()]
    found = read_by_all(capfd, m8, tmp_path / "in", tmp_path / "out")
    assert found["label"].to_pylist() == expected
    types = {
        pq.read_schema(p).field("label").type for p in (tmp_path / "out" / "encode").glob("part*")
    }
    assert len(types) == 1
    options = {"path": str(tmp_path / "in"), "label_column": "label", **REAL}
    _, made = stage(tmp_path / "d", "parquet", **options)
    assert made["label"].to_pylist() == expected


def test_what_is_no_table_is_told_at_once_and_before_anything_is_written(m8, tmp_path, capfd):
    parquet(tmp_path / "in" / "a.parquet", label=["a"] * 60, size=[1] * 60, fine=[1] * 60)
    parquet(tmp_path / "in" / "b.parquet", label=[1] * 60, size=[0.5] * 60, fine=[2] * 60)
    parquet(tmp_path / "in" / "c.parquet", label=[1] * 60, fine=[2] * 60)
    code, _, err = command(capfd, "encode", m8, tmp_path / "in", tmp_path / "out")
    assert code == 2 and not list((tmp_path / "out").glob("_plan*"))
    said = " ".join(err.split())
    assert "column 'label': the files disagree: string in" in said
    assert "int64 in" in said and "b.parquet (also" in said and "c.parquet)" in said
    assert "column 'size': the files disagree" in said and "no such column in" in said
    assert "'fine'" not in said
    assert command(capfd, "encode", m8, tmp_path / "in", tmp_path / "o", "--keep", "fine")[0] == 0
    for name in ("evaluate",):
        code, _, err = command(capfd, name, m8, tmp_path / "in", tmp_path / "e")
        assert code == 2 and "column 'label': the files disagree" in err
    with pytest.raises(DataError, match="column 'label': the files disagree"):
        stage(tmp_path / "d", "parquet", path=str(tmp_path / "in"), label_column="label", **REAL)


def test_examples_of_several_number_types_are_numbers(m8, tmp_path, capfd):
    for number, kind in enumerate((np.float32, np.float64, np.int32)):
        x = np.round(4 * X).astype(kind)
        parquet(tmp_path / "in" / f"{number}.parquet", x, IDS + 60 * number)
    found = read_by_all(capfd, m8, tmp_path / "in", tmp_path / "out")
    assert found["mean"].slice(0, 60).equals(found["mean"].slice(60, 60))
    _, made = stage(tmp_path / "d", "parquet", path=str(tmp_path / "in"), **REAL)
    assert made.num_rows == 180


def test_an_empty_first_file_is_no_obstacle(m8, tmp_path, capfd):
    """As Spark writes it; also where an empty table lost its types."""
    lists = pa.table({"id": IDS, "x": pa.array(X.tolist(), pa.list_(pa.float32()))})
    (tmp_path / "in").mkdir()
    pq.write_table(lists.slice(0, 0), tmp_path / "in" / "0.parquet")
    pq.write_table(pa.table({"id": pa.nulls(0), "x": pa.nulls(0)}), tmp_path / "in" / "1.parquet")
    pq.write_table(lists, tmp_path / "in" / "2.parquet")
    assert len(read_by_all(capfd, m8, tmp_path / "in", tmp_path / "out")) == 60
    _, made = stage(tmp_path / "d", "parquet", path=str(tmp_path / "in"), **REAL)
    assert made.num_rows == 60


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_files_without_any_row_are_refused(m8, tmp_path, capfd, kind):
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, X[:0])
    else:
        parquet(path, X[:0], IDS[:0])
    assert all("no rows" in said for said in refused(capfd, m8, path, tmp_path / "out"))
    with pytest.raises(DataError, match="no rows"):
        stage(tmp_path / "d", kind, path=str(path), **REAL)


def test_a_null_in_the_first_row_is_one_bad_row(m8, tmp_path, capfd):
    rows = pa.array([None, *X.tolist()[1:]], pa.list_(pa.float32()))
    path = parquet(tmp_path / "x.parquet", rows)
    assert all("row 0: null" in said for said in refused(capfd, m8, path, tmp_path / "out"))
    with pytest.raises(DataError, match=r"x\.parquet: row 0: null"):
        stage(tmp_path / "d", "parquet", path=str(path), **REAL)
    words = ("--on-bad-row", "quarantine")
    assert command(capfd, "encode", m8, path, tmp_path / "q", *words)[0] == 0
    assert rows_of(tmp_path / "q")["id"].to_pylist() == IDS[1:].tolist()
    assert pq.read_table(tmp_path / "q" / BAD)["row"].to_pylist() == [0]


@pytest.mark.parametrize("name", ["id", "x", "label"])
def test_two_columns_of_one_name_are_refused(m8, tmp_path, capfd, name):
    arrays = {"id": pa.array(IDS), "x": schema.to_vectors(X), "label": pa.array(["a"] * 60)}
    names = [*arrays, name]
    table = pa.Table.from_arrays([arrays[n] for n in names], names=names)
    pq.write_table(table, tmp_path / "x.parquet")
    commands = COMMANDS if name != "label" else ("encode", "evaluate")
    for word in commands:
        code, _, err = command(capfd, word, m8, tmp_path / "x.parquet", tmp_path / "out")
        assert code == 2 and f"two columns are called '{name}'" in err, err
    options = {"path": str(tmp_path / "x.parquet"), "id_column": "id", "label_column": "label"}
    with pytest.raises(DataError, match=f"two columns are called '{name}'"):
        stage(tmp_path / "d", "parquet", **options, **REAL)


BITS = RNG.random((60, 8)) < 0.3
STORED = {
    "bool list": lambda: pa.array(BITS.tolist(), pa.list_(pa.bool_())),
    "fixed bool list": lambda: pa.array(BITS.tolist(), pa.list_(pa.bool_(), 8)),
    "uint8": lambda: schema.to_vectors(BITS.astype(np.uint8)),
    "float": lambda: schema.to_vectors(BITS.astype(np.float32)),
}


@pytest.mark.parametrize("support", ["boolean", "unit_interval"])
@pytest.mark.parametrize("stored", STORED)
def test_bits_are_bits_in_every_command(tmp_path, capfd, stored, support):
    """0 and 1, and never 1/255, where no byte of the data is larger than 1."""
    path = parquet(tmp_path / "x.parquet", STORED[stored]())
    options = {"path": str(path), "support": support, "id_column": "id", "splits": {"all": 1.0}}
    made, _ = stage(tmp_path / "d", "parquet", **options)
    assert np.allclose(np.load(made / "mean.npy"), BITS.mean(0))
    part = json.loads((made / "manifest.json").read_text())["dataset"]
    bytes_ = stored != "float" and support == "unit_interval"
    assert part["options"].get("max_value") == (1 if bytes_ else None)
    model = save_model(
        tmp_path / "m", (8,), likelihood="bernoulli" if support == "boolean" else "gaussian",
        support=support, dataset=("parquet", part["options"]),
    )  # fmt: skip
    found = [read_by_all(capfd, model, s, tmp_path / f"o{i}") for i, s in enumerate((path, made))]
    floats = parquet(tmp_path / "floats.parquet", STORED["float"]())
    found.append(read_by_all(capfd, model, floats, tmp_path / "o2"))
    assert found[0]["mean"].equals(found[1]["mean"]) and found[0]["mean"].equals(found[2]["mean"])


def test_grey_levels_are_divided_by_255_and_bits_are_told_from_them(tmp_path, capfd):
    grey = RNG.integers(0, 256, (60, 8), dtype=np.uint8)
    path = parquet(tmp_path / "grey.parquet", grey)
    options = {"support": "unit_interval", "splits": {"all": 1.0}}
    made, _ = stage(tmp_path / "d", "parquet", path=str(path), **options)
    assert np.allclose(np.load(made / "mean.npy"), grey.mean(0) / 255)
    manifest = json.loads((made / "manifest.json").read_text())
    assert "max_value" not in manifest["dataset"]["options"]
    bits = ("parquet", {"path": "nowhere", "support": "unit_interval", "max_value": 1})
    model = save_model(
        tmp_path / "m", (8,), likelihood="gaussian", support="unit_interval", dataset=bits
    )
    code, _, err = command(capfd, "encode", model, path, tmp_path / "out")
    assert code == 2 and "outside the support 'unit_interval'" in err
    sixteen = parquet(tmp_path / "sixteen.parquet", grey // 16)
    made, _ = stage(tmp_path / "s", "parquet", path=str(sixteen), max_value=15, **options)
    assert np.allclose(np.load(made / "mean.npy"), (grey // 16).mean(0) / 15)
    with pytest.raises(DataError, match="bytes 0 … 7"):
        stage(tmp_path / "t", "parquet", path=str(sixteen), max_value=7, **options)


def test_bytes_for_a_model_of_other_numbers_are_warned_of(tmp_path, capfd):
    """0/1 bytes are grey levels to it, nearly black: nothing tells that they are bits."""
    bits = ("parquet", {"path": "nowhere", "support": "unit_interval"})
    made = {"likelihood": "gaussian", "support": "unit_interval", "dataset": bits}
    for stored, warned in (("float32", True), ("uint8", False)):
        model = save_model(tmp_path / stored, (8,), stored=stored, **made)
        for kind in ("uint8", "float"):
            path = parquet(tmp_path / f"{kind}.parquet", STORED[kind]())
            _, _, err = command(capfd, "encode", model, path, tmp_path / f"{stored}-{kind}")
            assert ("bytes are read as grey levels" in err) == (warned and kind == "uint8"), err


def test_bytes_and_other_numbers_are_not_mixed_in_the_unit_interval(tmp_path):
    parquet(tmp_path / "in" / "a.parquet", RNG.integers(0, 256, (60, 8), dtype=np.uint8))
    parquet(tmp_path / "in" / "b.parquet", RNG.random((60, 8), np.float32))
    options = {"support": "unit_interval", "splits": {"all": 1.0}}
    with pytest.raises(DataError, match=r"uint8 in .*a\.parquet, but float in .*b\.parquet"):
        stage(tmp_path / "d", "parquet", path=str(tmp_path / "in"), **options)


def test_masks_of_arrays_are_bits(tmp_path):
    mask = RNG.random((300, 1, 8, 8)) < 0.3
    for kind in (np.bool_, np.uint8, np.float32):
        path = tmp_path / f"{kind.__name__}.npy"
        np.save(path, mask.astype(kind))
        options = {"support": "unit_interval", "splits": {"all": 1.0}}
        made, _ = stage(tmp_path / kind.__name__, "npy", path=str(path), **options)
        assert np.allclose(np.load(made / "mean.npy"), mask.mean(0))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A table of features, its artifact, and a model that was fitted to it."""
    folder = tmp_path_factory.mktemp("tables")
    path = folder / "x.parquet"
    pq.write_table(pa.table({"id": IDS, **{f"f_{i}": X[:, i] for i in range(6)}}), path)
    made, table = stage(folder / "d", "parquet", path=str(path), column="f_*", **REAL)
    assert np.array_equal(schema.from_vectors(table["x"], (6,)), X[:, :6])
    manifest = json.loads((made / "manifest.json").read_text())
    options = manifest["dataset"]["options"]
    model = save_model(
        folder / "m", (6,), likelihood="gaussian", support="real", dataset=("parquet", options)
    )
    card = json.loads((model / "model.json").read_text())
    assert manifest["spec"]["names"] == [f"f_{i}" for i in range(6)]
    card["data"]["names"] = manifest["spec"]["names"]
    files.write_json(model / "model.json", card)
    return model, made


def test_columns_are_read_by_the_names_that_the_model_knows(tables, tmp_path, capfd):
    model, made = tables
    expected = read_by_all(capfd, model, made, tmp_path / "a")["mean"]
    turned = {f"f_{i}": X[:, i].astype(np.float64) for i in (3, 1, 5, 0, 2, 4)}
    table = {"id": IDS, "f_9": X[:, 0], **turned, "label": ["a"] * 60}
    pq.write_table(pa.table(table), tmp_path / "turned.parquet")
    found = read_by_all(capfd, model, tmp_path / "turned.parquet", tmp_path / "b")
    assert found["mean"].equals(expected) and "label" in found.column_names
    globbed = tmp_path / "c"
    words = ("--column", "f_*")
    assert command(capfd, "encode", model, tmp_path / "turned.parquet", globbed, *words)[0] == 0
    assert rows_of(globbed)["mean"].equals(expected)
    vectors = parquet(tmp_path / "vectors.parquet", X[:, :6])
    assert read_by_all(capfd, model, vectors, tmp_path / "v")["mean"].equals(expected)
    del table["f_3"]
    pq.write_table(pa.table(table), tmp_path / "less.parquet")
    for said in refused(capfd, model, tmp_path / "less.parquet", tmp_path / "out"):
        assert "no column 'f_3', which the model reads" in said


def test_an_artifact_of_other_columns_is_refused(tables, tmp_path, capfd):
    model, _ = tables
    pq.write_table(
        pa.table({f"f_{i}": X[:, i] for i in (1, 0, 2, 3, 4, 5)}), tmp_path / "x.parquet"
    )
    made, _ = stage(
        tmp_path / "d", "parquet", path=str(tmp_path / "x.parquet"), column="f_*", **REAL
    )
    for said in refused(capfd, model, made, tmp_path / "out"):
        assert "value 0 of an example is 'f_0' for the model and 'f_1' in the data" in said


def test_wide_columns_make_small_batches(m8, run, tmp_path, monkeypatch):
    """What is held is a few megabytes, whatever the rows are; results do not depend on it."""
    sizes, encoded = [], Encoder._encode

    def measured(self, batch, unit, faults):
        sizes.append(batch.kept.nbytes)
        return encoded(self, batch, unit, faults)

    monkeypatch.setattr(encode, "BATCH_BYTES", 2**18)
    monkeypatch.setattr(Encoder, "_encode", measured)
    blobs = [RNG.bytes(2**14) for _ in range(60)]
    source = parquet(tmp_path / "x.parquet", pdf=pa.array(blobs, pa.binary()))
    run.model = m8
    manifest = run(source, tmp_path / "out", batch_size=None)
    assert manifest["config"]["batch_size"] == 8 and max(sizes) <= 2**18 and len(sizes) == 8
    monkeypatch.setattr(encode, "BATCH_BYTES", 2**24)
    found, narrow = rows_of(tmp_path / "out"), tmp_path / "narrow"
    assert found["pdf"].to_pylist() == blobs
    assert run(source, narrow, batch_size=None, keep=[])["config"]["batch_size"] == 8192
    gap = np.abs(np.array(found["mean"].to_pylist()) - rows_of(narrow)["mean"].to_pylist())
    assert gap.max() < 1e-5


def test_thousands_of_flat_columns_are_cut_into_the_same_batches(tmp_path):
    """They are decoded several batches at a time."""
    from vaepipe.data import sources

    x = RNG.normal(size=(50, 5000)).astype(np.float32)
    columns = {f"g_{i}": pa.array(x[:, i]) for i in range(5000)}
    columns["g_7"] = pa.array([None if i in (3, 20) else float(i) for i in range(50)], pa.float32())
    pq.write_table(pa.table({**columns, "label": np.arange(50)}), tmp_path / "x.parquet")
    source = sources.of_files(str(tmp_path / "x.parquet"), (5000,), "g_*", None)
    batches = list(source.stream(source.files[0], range(1), 0, ["label"], 8, 0))
    assert [len(b.ids) + len(b.bad) for b in batches] == [8] * 6 + [2]
    assert [row for b in batches for row, _ in b.bad] == [3, 20]
    assert [b.start for b in batches] == list(range(0, 50, 8))
    rows = [i for i in range(50) if i not in (3, 20)]
    assert np.concatenate([b.ids for b in batches]).tolist() == rows
    assert [v for b in batches for v in b.kept["label"].to_pylist()] == rows
    seen = np.concatenate([b.x for b in batches])
    assert np.array_equal(np.delete(seen, 7, 1), np.delete(x[rows], 7, 1))


def test_columns_of_pictures_are_examples_of_a_data_stage(tmp_path):
    """PNG bytes, or structs as Hugging Face stores them, with a `shape`."""
    import io

    from PIL import Image

    grey = RNG.integers(0, 256, (20, 4, 6), dtype=np.uint8)

    def png(row):
        out = io.BytesIO()
        Image.fromarray(row).save(out, "PNG")
        return out.getvalue()

    encoded = [png(row) for row in grey]
    options = {"support": "unit_interval", "splits": {"all": 1.0}}
    for name, column in {
        "bytes": pa.array(encoded),
        "struct": pa.array([{"bytes": each, "path": None} for each in encoded]),
    }.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"image": column}), path)
        more = {"path": str(path), "column": "image", **options}
        made, table = stage(tmp_path / name, "parquet", shape=[1, 4, 6], **more)
        assert np.array_equal(schema.from_vectors(table["x"], (4, 6)), grey)
        assert np.allclose(np.load(made / "mean.npy")[0], grey.mean(0) / 255)
        with pytest.raises(DataError, match="give `shape`"):
            stage(tmp_path / f"{name}-2", "parquet", **more)


def test_a_dataset_whose_batches_differ_is_told_so(tmp_path):
    from vaepipe.data import shards

    batches = [
        schema.record(IDS[:2], X[:2], {"label": ["a", "b"]}),
        schema.record(IDS[2:4], X[2:4], {"label": [1, 2]}),
    ]
    with pytest.raises(DataError, match="'label': string in the first rows, int64 later"):
        shards.write_split(tmp_path / "s", batches)


def test_wide_columns_of_a_data_stage_are_held_a_part_at_a_time(tmp_path, monkeypatch):
    from vaepipe.data import shards

    monkeypatch.setattr(shards, "FILE_BYTES", 2 * 1024 * 5200)
    label = pa.array([RNG.bytes(5000) for _ in range(3000)], pa.binary())
    x = RNG.normal(size=(3000, 8)).astype(np.float32)
    path = parquet(tmp_path / "x.parquet", x, np.arange(3000), label=label)
    made, _ = stage(tmp_path / "d", "parquet", path=str(path), label_column="label", **REAL)
    rows = [
        f["rows"]
        for f in json.loads((made / "manifest.json").read_text())["splits"]["all"]["files"]
    ]
    assert rows == [2048, 952]


def test_a_plan_of_before_is_read(tmp_path):
    """It has no types that Arrow reads; those of the first file are taken."""
    from vaepipe.data import sources

    path = parquet(tmp_path / "x.parquet", label=["a"] * 60)
    source = sources.of_files(str(path), (8,), "x", None)
    plain = {n: v for n, v in source.to_dict().items() if n != "arrow"}
    assert sources.Source.from_dict(json.loads(json.dumps(plain))) == source


@pytest.mark.parametrize(
    ("columns", "words", "said"),
    [
        ({"x": pa.nulls(60)}, (), "expected numbers, got null"),
        ({"x": pa.array(range(60), pa.timestamp("us"))}, (), "expected numbers, got timestamp"),
        ({"x": pa.array([[]] * 60, pa.list_(pa.float32()))}, (), "expected 8 values, got 0"),
        ({"x": pa.array(X.reshape(60, 2, 4).tolist())}, (), "expected numbers, got list"),
        (
            {f"c{i}": X[:, i] for i in range(7)},
            ("--column", "c*"),
            "examples of 8 values expected, got 7 columns",
        ),
    ],
)
def test_columns_that_are_no_examples_are_told(m8, tmp_path, capfd, columns, words, said):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    for each in refused(capfd, m8, tmp_path / "x.parquet", tmp_path / "out", *words):
        assert said in each
    if "x" in columns:
        with pytest.raises(DataError, match=r"expected numbers|no rows with values"):
            stage(tmp_path / "d", "parquet", path=str(tmp_path / "x.parquet"), **REAL)
