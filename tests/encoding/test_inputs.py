"""Whatever the rows are stored in, the same rows give the same latents."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from untrained import SHAPE, Run, images, rows_of, save_model, write

from vaepipe.data import schema
from vaepipe.datasets.images import GreyView
from vaepipe.errors import CompatibilityError, DataError, UserError
from vaepipe.pipeline import inputs
from vaepipe.training import bundle

X = images(70)
FLAT = X.reshape(len(X), -1)
GREY = (FLAT / 255).astype(np.float32)
BITS = FLAT >= 128


def png(row, kind="PNG"):
    data = io.BytesIO()
    Image.fromarray(row).save(data, kind)
    return data.getvalue()


def lists(x, kind):
    return pa.array(x.tolist(), kind)


KINDS = {
    "variable list": lambda: lists(FLAT, pa.list_(pa.uint8())),
    "large list": lambda: lists(FLAT, pa.large_list(pa.uint8())),
    "fixed list": lambda: lists(FLAT, pa.list_(pa.uint8(), 12)),
    "list of int64": lambda: lists(FLAT, pa.list_(pa.int64())),
    "tensor": lambda: pa.FixedShapeTensorArray.from_numpy_ndarray(X),
    "float in [0, 1]": lambda: lists(GREY, pa.list_(pa.float32())),
    "double in [0, 1]": lambda: lists(GREY, pa.large_list(pa.float64())),
    "half in [0, 1]": lambda: schema.to_vectors(BITS.astype(np.float16)),
    "bool": lambda: lists(BITS, pa.list_(pa.bool_(), 12)),
    "PNG": lambda: pa.array([png(row) for row in X]),
    "PNG struct": lambda: pa.array([{"bytes": png(row), "path": None} for row in X]),
}


@pytest.fixture(scope="module")
def expected(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    Run(model)(write(folder / "x.parquet", X), folder / "out")
    return rows_of(folder / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_column_gives_the_same_latents(run, tmp_path, expected, kind):
    table = pa.table({"id": np.arange(len(X)), "x": KINDS[kind]()})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=40)
    manifest = run(tmp_path / "in.parquet", tmp_path / "out")
    found = rows_of(tmp_path / "out")
    assert manifest["rows"] == len(X)
    for name in ("id", "mean", "scale", "rate"):
        assert found[name].equals(expected[name]), name


PICTURES = {
    "bytes": lambda found: pa.array(found, pa.binary()),
    "large bytes": lambda found: pa.array(found, pa.large_binary()),
    "struct": lambda found: pa.array([{"path": None, "bytes": each} for each in found]),
}


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("column", PICTURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_columns_of_pictures_are_their_decoded_pixels(tmp_path, form, column, channels):
    """In colour and grey; JPEG is lossy, so its pixels are those that come out of the decoder."""
    x = images(20, shape=(16, 24, 3) if channels == 3 else (16, 24))
    found = [png(row, form) for row in x]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(each))) for each in found])
    assert np.array_equal(pixels, x) == (form == "PNG")
    pixels = pixels.transpose(0, 3, 1, 2) if channels == 3 else pixels[:, None]
    run = Run(save_model(tmp_path / "m", shape=(channels, 16, 24)))
    run(write(tmp_path / "pixels.parquet", pixels), tmp_path / "a")
    table = pa.table({"id": np.arange(20), "x": PICTURES[column](found)})
    pq.write_table(table, tmp_path / "pictures.parquet", row_group_size=7)
    run(tmp_path / "pictures.parquet", tmp_path / "b")
    one, two = (rows_of(tmp_path / name) for name in "ab")
    for name in ("id", "mean", "scale", "rate"):
        assert one[name].equals(two[name]), name


def test_pictures_that_cannot_be_decoded_are_bad_rows(run, tmp_path):
    good = png(X[0], "JPEG")
    rows = [good, good[: len(good) // 2], None, b"GIF or what", png(images(1, shape=(5, 5))[0])]
    table = pa.table({"id": np.arange(5), "x": pa.array(rows, pa.binary())})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet.*row"):
        run(tmp_path / "x.parquet", tmp_path / "out")
    manifest = run(tmp_path / "x.parquet", tmp_path / "out", on_bad_row="quarantine")
    assert (manifest["rows"], manifest["bad_rows"]) == (1, 4)
    bad = pq.read_table(next((tmp_path / "out" / "_bad").iterdir()))
    assert bad["row"].to_pylist() == [1, 2, 3, 4]
    said = bad["reason"].to_pylist()
    assert "no readable image" in said[0] and said[1] == "null"
    assert "no readable image" in said[2] and "an image of 5 x 5" in said[3]


@pytest.mark.parametrize("column", ["p_*", ",".join(f"p_{i:02d}" for i in range(12))])
@pytest.mark.parametrize("kind", [np.uint8, np.int32])
def test_flat_numeric_columns_are_one_example(run, tmp_path, expected, column, kind):
    columns = {f"p_{i:02d}": FLAT[:, i].astype(kind) for i in range(12)}
    pq.write_table(pa.table({"id": np.arange(70), **columns}), tmp_path / "in.parquet")
    run.column = column
    run(tmp_path / "in.parquet", tmp_path / "out")
    assert rows_of(tmp_path / "out")["mean"].equals(expected["mean"])


def test_arrays_are_numbered_rows(run, tmp_path, expected):
    np.save(tmp_path / "x.npy", X)
    run.id_column = None
    run(tmp_path / "x.npy", tmp_path / "out")
    found = rows_of(tmp_path / "out")
    assert found["mean"].equals(expected["mean"])
    assert found["id"].to_pylist() == list(range(70))


def test_a_folder_of_images_keeps_their_paths(run, tmp_path, expected):
    for number, row in enumerate(X):
        path = tmp_path / "in" / ("a" if number < 50 else "b") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(row))
    run.id_column = None
    run(tmp_path / "in", tmp_path / "out")
    found = rows_of(tmp_path / "out")
    assert found["mean"].equals(expected["mean"])
    assert found["path"][60].as_py() == "b/060.png"


@pytest.mark.parametrize("form", ["folder", "glob", "uri", "uri glob"])
def test_folders_globs_and_uris_name_the_same_files(run, tmp_path, expected, form):
    write(tmp_path / "in" / "a.parquet", X[:30])
    write(tmp_path / "in" / "b.parquet", X[30:], np.arange(30, 70))
    write(tmp_path / "in" / "_hidden.parquet", X)
    folder = tmp_path / "in"
    source = {"folder": folder, "glob": folder / "*.parquet", "uri": folder.as_uri()}
    run(source.get(form, f"{folder.as_uri()}/?.parquet".replace("?", "*")), tmp_path / "out")
    found = rows_of(tmp_path / "out")
    assert found["mean"].equals(expected["mean"]) and found["id"].equals(expected["id"])


def test_one_output_file_never_holds_rows_of_two_inputs(run, tmp_path):
    write(tmp_path / "in" / "a.parquet", X[:30], group=10)
    write(tmp_path / "in" / "b.parquet", X[30:], np.arange(30, 70), group=10)
    manifest = run(tmp_path / "in", tmp_path / "out", rows_per_file=25)
    assert [part["rows"] for part in manifest["parts"]] == [20, 10, 20, 20]
    assert manifest["parts"][0]["name"] == "part-00000-of-00004.parquet"


@pytest.mark.parametrize("batch", [1, 7, 64, 8192])
def test_the_size_of_batches_moves_no_row_and_hardly_a_value(run, tmp_path, expected, batch):
    run(write(tmp_path / "x.parquet", X), tmp_path / "out", batch_size=batch)
    found = rows_of(tmp_path / "out")
    assert found["id"].equals(expected["id"])
    for name in ("mean", "scale"):
        a, b = (schema.from_vectors(t[name], (2,)) for t in (found, expected))
        assert np.abs(a - b).max() < 1e-5


@pytest.mark.parametrize("binarize", ["dynamic", "threshold", "none", "levels"])
@pytest.mark.parametrize("levels", [16, 255])
def test_grey_views_take_floats_for_shares_and_integers_for_levels(binarize, levels):
    view = GreyView(binarize, levels, 0)
    stored = torch.tensor([[0, 3, levels]])
    seen = [
        view.tensor(x, lambda: torch.full((1, 3), 0.5))
        for x in (stored.to(torch.uint8), stored, stored / levels)
    ]
    assert torch.equal(seen[0], seen[1]) and torch.allclose(seen[0], seen[2])
    assert seen[0][0, 2] == (levels if binarize == "levels" else 1)
    for wild in (torch.tensor([[255.0]]), torch.tensor([[-0.1]]), torch.tensor([[float("nan")]])):
        assert view.tensor(wild, lambda: torch.full((1, 1), 0.5)).isnan().all()


def test_grey_levels_as_floats_are_refused_and_not_black(run, tmp_path):
    write(tmp_path / "x.parquet", X.astype(np.float32))
    with pytest.raises(DataError, match="row 0: a value outside the support 'boolean'"):
        run(tmp_path / "x.parquet", tmp_path / "out")


@pytest.mark.parametrize("name", ["mean", "id", "split", "sample_0"])
def test_a_column_with_the_name_of_one_of_ours_is_refused(run, tmp_path, name):
    run.id_column = "number"
    table = {"x": schema.to_vectors(X), "number": np.arange(70), name: ["text"] * 70}
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(table), path)
    with pytest.raises(UserError, match=f"'{name}' has the name of a column of the latents"):
        run(path, tmp_path / "out")


def test_kept_columns_pass_through_without_extension_types(run, tmp_path):
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(X)
    path = write(tmp_path / "x.parquet", X, name=[f"n{i}" for i in range(70)], again=tensor)
    run(path, tmp_path / "out", keep=["again"])
    found = rows_of(tmp_path / "out")
    assert found["again"].type == pa.list_(pa.uint8(), 12)
    assert "name" not in found.column_names
    with pytest.raises(UserError, match="Did you mean 'name'"):
        run(path, tmp_path / "other", keep=["nane"])


def test_ids_are_integers_and_keep_their_type(run, tmp_path):
    ids = np.array([1, 2**63, 2**64 - 1], np.uint64)
    run(write(tmp_path / "x.parquet", X[:3], ids), tmp_path / "out", with_=["sample:1"])
    found = rows_of(tmp_path / "out")["id"]
    assert found.type == pa.uint64() and found.to_pylist() == ids.tolist()
    path = write(tmp_path / "text.parquet", X[:2], np.array(["a", "b"]))
    with pytest.raises(DataError, match="column 'id': ids must be integers, got string"):
        run(path, tmp_path / "other")


def test_shapes_columns_and_places_that_are_not_there_are_told(run, tmp_path):
    write(tmp_path / "x.parquet", X[:, :2])
    with pytest.raises(DataError, match=r"examples of 12 values .* got lists of 8"):
        run(tmp_path / "x.parquet", tmp_path / "out")
    run.column = "y"
    with pytest.raises(DataError, match="no column 'y'"):
        run(tmp_path / "x.parquet", tmp_path / "out")
    with pytest.raises(DataError, match="no Parquet files there"):
        run(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(DataError, match="Arrow cannot open this place"):
        run("gopher://a/b", tmp_path / "out")


def test_a_model_of_other_levels_is_refused(tmp_path):
    path = save_model(tmp_path / "m", support="integer", levels=16, likelihood="categorical")
    loaded = bundle.load(path)
    source = inputs.of_path(str(write(tmp_path / "x.parquet", X)), loaded, None, "x", "id")
    inputs.check_input(loaded, source)
    for levels in (256, None):
        other = bundle.DataSpec(SHAPE, loaded.data.support, 100, levels=levels)
        changed = inputs.Input("data", source.sources, source.dataset, other, "d")
        with pytest.raises(CompatibilityError, match="fitted to 16 levels"):
            inputs.check_input(loaded, changed)
