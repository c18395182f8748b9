"""Folders: every command reads the same files of them, each once, and tells which it does not."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from untrained import rows_of, save_model, vaepipe

from vaepipe import files, registry
from vaepipe.data import formats, schema
from vaepipe.errors import DataError
from vaepipe.pipeline.stages import data

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 4)).astype(np.float32)
ALL = {"all": 1.0}
COMMANDS = {"encode": "--input", "evaluate": "--data", "reconstruct": "--input"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A model of four real numbers."""
    dataset = ("npy", {"path": "nowhere", "support": "real"})
    folder = tmp_path_factory.mktemp("rows") / "m"
    return save_model(folder, (4,), likelihood="gaussian", support="real", dataset=dataset)


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    """A model of grey pictures."""
    return save_model(
        tmp_path_factory.mktemp("pictures") / "m",
        (1, 4, 4),
        likelihood="continuous_bernoulli",
        support="unit_interval",
        dataset=("image_folder", {"path": "nowhere", "mode": "L"}),
    )


def array(path, x=X):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # `np.save` would add an ending
        np.save(file, x)


def table(path, x=X, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"x": schema.to_vectors(x)}), path, **options)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (4, 4), np.uint8)).save(path)


WRITERS = {"npy": array, "parquet": table, "png": picture}
DATASETS = {"npy": "npy", "parquet": "parquet", "png": "image_folder"}


def command(capfd, name, model, source, output):
    """Exit code and stderr."""
    place = output.with_suffix(".parquet") if name == "reconstruct" else output
    more = ("--k", 2) if name == "evaluate" else ()
    words = ("--model", model, COMMANDS[name], source, "--output", place, *more)
    code, _, err = vaepipe(capfd, name, *words)
    return code, err


def stage(ending, source, folder):
    """What a data stage says, and the rows that it writes."""
    options = {"mode": "L"} if ending == "png" else {"support": "real"}
    part = registry.part(
        "datasets", DATASETS[ending], {"path": str(source), "splits": ALL, **options}
    )
    folder.mkdir()
    manifest = data.write(part, folder)
    files.write_json(folder / "manifest.json", {**manifest, "kind": "data"})
    return manifest, pq.read_table(folder / "all")


@pytest.fixture
def model(request, rows, painter):
    return painter if request.getfixturevalue("ending") == "png" else rows


@pytest.mark.parametrize("ending", WRITERS)
def test_capital_endings_are_the_same_endings(model, ending, tmp_path, capfd):
    for name in (f"a.{ending}", f"b.{ending.upper()}"):
        WRITERS[ending](tmp_path / "in" / name)
    code, err = command(capfd, "encode", model, tmp_path / "in", tmp_path / "both")
    assert code == 0 and "warning" not in err, err
    one = tmp_path / "in" / f"b.{ending.upper()}"
    _, stored = stage(ending, tmp_path / "in", tmp_path / "data")
    rows = rows_of(tmp_path / "both").num_rows
    assert stored.num_rows == rows == (2 if ending == "png" else 40)
    if ending != "png":
        code, err = command(capfd, "encode", model, one, tmp_path / "one")
        assert code == 0 and rows_of(tmp_path / "one").num_rows == 20, err


@pytest.mark.parametrize("ending", WRITERS)
def test_files_that_are_not_read_are_told_by_every_command(model, ending, tmp_path, capfd):
    """Nobody learns later that half of a folder was of another kind; hidden files are not meant."""
    source = tmp_path / "in"
    for name in ("a", "deep/b"):
        WRITERS[ending](source / f"{name}.{ending}")
    for name in ("c.csv", "deep/d.csv", "e.heic", ".hidden", "_SUCCESS"):
        (source / name).write_text("1,2\n")
    beside = ["_SUCCESS"] if ending == "png" else []
    counts = "2 .csv, 1 .heic" + (", 1 without an ending" if beside else "")
    names = ", ".join([*beside, "c.csv", "deep/d.csv", "e.heic"])
    told = f"{source}: {3 + len(beside)} files there are not read ({counts}): {names}."
    for name in COMMANDS:
        code, err = command(capfd, name, model, source, tmp_path / name)
        assert code == 0 and f"warning: {told}" in err, (name, err)
    assert json.loads((tmp_path / "encode/_manifest.json").read_text())["warnings"] == [told]
    manifest, stored = stage(ending, source, tmp_path / "data")
    assert manifest["warnings"] == [told]
    assert stored.num_rows == rows_of(tmp_path / "encode").num_rows


def test_files_of_the_kind_that_is_not_chosen_are_told(rows, tmp_path, capfd):
    table(tmp_path / "in" / "a.parquet")
    array(tmp_path / "in" / "b.npy")
    _, err = command(capfd, "encode", rows, tmp_path / "in", tmp_path / "latents")
    assert "1 file there is not read (1 .npy): b.npy." in err
    _, err = command(capfd, "encode", rows, tmp_path / "in" / "*.npy", tmp_path / "array")
    assert "warning" not in err and rows_of(tmp_path / "array").num_rows == 20


def test_many_files_that_are_not_read_are_counted():
    (said,) = formats.unread("data", [f"{n}.csv" for n in range(10, 30)])
    assert said.startswith("data: 20 files there are not read (20 .csv): 10.csv, 11.csv")
    assert said.endswith("17.csv and 12 more.")


def test_a_data_stage_and_encode_read_the_same_pictures(painter, tmp_path, capfd):
    """Folders behind links, names that begin with `_`; hidden files are read by neither."""
    source = tmp_path / "in"
    for name in ("a/0.png", "_b/1.png", "a/_2.JPG", "a/.3.png", ".c/4.png", "lots*[1].png"):
        picture(source / name)
    picture(tmp_path / "elsewhere" / "5.png")
    picture(tmp_path / "one.png")
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "a" / "6.png").symlink_to(tmp_path / "one.png")
    _, stored = stage("png", source, tmp_path / "data")
    code, err = command(capfd, "encode", painter, source, tmp_path / "files")
    assert code == 0, err
    code, err = command(capfd, "encode", painter, tmp_path / "data", tmp_path / "rows")
    assert code == 0, err
    by_path, by_file = (
        dict(zip(t[column].to_pylist(), t["mean"].to_pylist(), strict=True))
        for t, column in (
            (rows_of(tmp_path / "files"), "path"),
            (rows_of(tmp_path / "rows"), "file"),
        )
    )
    names = {"a/0.png", "_b/1.png", "a/_2.JPG", "a/6.png", "linked/5.png", "lots*[1].png"}
    assert set(by_path) == set(by_file) == names == set(stored["file"].to_pylist())
    assert all(np.allclose(by_path[name], by_file[name], atol=1e-6) for name in names)


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize(
    ("link", "target", "words"),
    [
        ("b", "gone", "a link to a file that is not there"),
        ("b", "a", "are the same file"),
        ("latest/", "deep", "are the same file"),
    ],
)
def test_links_to_nothing_or_to_another_row_are_refused(
    model, ending, tmp_path, capfd, link, target, words
):
    """Rows are not left out, nor counted twice."""
    source = tmp_path / "in"
    for name in ("a", "deep/c"):
        WRITERS[ending](source / f"{name}.{ending}")
    folder = link.endswith("/")
    place = source / (link if folder else f"{link}.{ending}")
    place.symlink_to(source / (target if folder else f"{target}.{ending}"))
    for name in COMMANDS:
        code, err = command(capfd, name, model, source, tmp_path / name)
        assert code == 2 and words in err and "Traceback" not in err, (name, err)
    with pytest.raises(DataError, match=words):
        stage(ending, source, tmp_path / "data")


@pytest.mark.parametrize("ending", WRITERS)
def test_a_link_to_a_folder_around_it_ends(model, ending, tmp_path, capfd):
    WRITERS[ending](tmp_path / "in" / "deep" / f"a.{ending}")
    (tmp_path / "in" / "deep" / "loop").symlink_to(tmp_path / "in")
    code, err = command(capfd, "encode", model, tmp_path / "in", tmp_path / "latents")
    assert code == 0, err
    assert rows_of(tmp_path / "latents").num_rows == (1 if ending == "png" else 20)


def test_a_glob_names_one_of_two_links(rows, tmp_path, capfd):
    table(tmp_path / "in" / "day-1" / "a.parquet")
    (tmp_path / "in" / "latest").symlink_to(tmp_path / "in" / "day-1")
    for place in ("day-*/*.parquet", "latest", "latest/*.parquet"):
        code, err = command(capfd, "encode", rows, tmp_path / "in" / place, tmp_path / place)
        assert code == 0 and rows_of(tmp_path / place).num_rows == 20, err


def test_a_page_that_its_checksum_contradicts_is_refused(rows, tmp_path, capfd):
    """A flipped bit moves a value, and every other check passes."""
    path = tmp_path / "x.parquet"
    table(path, compression="none", use_dictionary=False, write_page_checksum=True)
    found = bytearray(path.read_bytes())
    at = found.index(X[3].tobytes())
    found[at + 1] ^= 1
    path.write_bytes(found)
    for name in COMMANDS:
        code, err = command(capfd, name, rows, path, tmp_path / name)
        assert code == 2 and "CRC checksum" in err and "Traceback" not in err, (name, err)
    with pytest.raises(DataError, match="CRC checksum"):
        stage("parquet", path, tmp_path / "data")
