"""Data of one's own: folders of pictures, NumPy arrays; and bars, whose features are known."""

import numpy as np
import pytest
import torch
from PIL import Image

from vaepipe import registry
from vaepipe.core import Purpose, Stream, row_uniform, stream
from vaepipe.datasets.bars import Bars
from vaepipe.datasets.image_folder import ImageFolder
from vaepipe.datasets.npy import Npy
from vaepipe.datasets.parquet import ParquetDataset
from vaepipe.errors import DataError
from vaepipe.pipeline.stages import data

RNG = np.random.default_rng(0)
WHOLE = {"all": 1.0}


def rows(dataset, split="all"):
    """Every column of a split as arrays; `x` as `[n, *shape]`."""
    batches = list(dataset.examples(split))
    columns = {
        n: [v for b in batches for v in b.column(n).to_pylist()] for n in batches[0].schema.names
    }
    return columns | {"x": np.array(columns["x"]).reshape(-1, *dataset.spec.shape)}


def draw(folder, names, shape=(6, 8)):
    """Pictures of noise; the arrays by name."""
    drawn = {}
    for name in names:
        drawn[name] = RNG.integers(0, 256, (*shape, 3), np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn[name]).save(folder / name)
    return drawn


def test_pictures_of_a_folder_become_examples_with_their_class(tmp_path):
    drawn = draw(tmp_path, [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(5)])
    (tmp_path / "dog" / "notes.txt").write_text("no picture")
    draw(tmp_path, [".cache/thumb.png"])
    dataset = ImageFolder(path=tmp_path, labels=True, splits=WHOLE)
    seen = rows(dataset)
    assert dataset.spec.shape == (3, 6, 8) and dataset.spec.support_name == "unit_interval"
    assert set(seen["file"]) == set(drawn)
    for name, x, label, kind in zip(
        seen["file"], seen["x"], seen["label"], seen["class"], strict=True
    ):
        assert np.array_equal(x, drawn[name].transpose(2, 0, 1))
        assert name.startswith(kind) and label == ("cat", "dog").index(kind)


def test_a_picture_keeps_its_split_when_others_come_and_go(tmp_path):
    draw(tmp_path, [f"{i:03d}.png" for i in range(60)], (2, 2))
    before = {s: set(rows(ImageFolder(path=tmp_path), s)["file"]) for s in ("train", "val", "test")}
    for number in range(0, 60, 7):
        (tmp_path / f"{number:03d}.png").unlink()
    draw(tmp_path, [f"new-{i}.png" for i in range(20)], (2, 2))
    for split, names in before.items():
        left = {name for name in names if int(name[:3]) % 7}
        now = set(rows(ImageFolder(path=tmp_path), split)["file"])
        assert {name for name in now if not name.startswith("new")} == left


def test_a_size_crops_the_middle_and_averages(tmp_path):
    """A 4 x 8 picture of columns 0 … 7 at size 2: the middle four columns, two by two."""
    picture = np.tile(10 * np.arange(8, dtype=np.uint8), (4, 1))
    Image.fromarray(picture).save(tmp_path / "a.png")
    seen = rows(ImageFolder(path=tmp_path, size=2, mode="L", splits=WHOLE))
    assert seen["x"].tolist() == [[[[25, 45], [25, 45]]]]


@pytest.mark.parametrize(
    ("binarize", "support", "levels"),
    [("none", "unit_interval", None), ("levels", "integer", 256), ("threshold", "boolean", None)],
)
def test_pictures_have_the_views_of_grey_images(binarize, support, levels, tmp_path):
    draw(tmp_path, ["a.jpg", "b.JPEG"])
    dataset = ImageFolder(path=tmp_path, binarize=binarize, splits=WHOLE)
    x = torch.tensor(rows(dataset)["x"], dtype=torch.uint8)
    view = dataset.frozen(x, torch.arange(2))
    assert (dataset.spec.support_name, dataset.spec.levels) == (support, levels)
    assert dataset.spec.support.check(view).all() and len(view) == 2


def test_a_damaged_picture_is_named(tmp_path):
    draw(tmp_path, ["a.png", "deep/b.png"], (40, 40))
    path = tmp_path / "deep" / "b.png"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"deep/b\.png"):
        list(ImageFolder(path=tmp_path, splits=WHOLE).examples("all"))


def test_pictures_of_two_sizes_need_a_size(tmp_path):
    draw(tmp_path, ["a.png"])
    draw(tmp_path, ["b.png"], (7, 9))
    with pytest.raises(DataError, match=r"b.png.*9 x 7.*a.png.*8 x 6.*`size`"):
        list(ImageFolder(path=tmp_path, splits=WHOLE).examples("all"))
    assert rows(ImageFolder(path=tmp_path, size=4, splits=WHOLE))["x"].shape == (2, 3, 4, 4)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_pictures_says_what_was_expected(there, tmp_path):
    folder = tmp_path if there else tmp_path / "none"
    with pytest.raises(DataError, match=r"no pictures there.*\*\.png"):
        ImageFolder(path=folder).prepare()


def test_arrays_of_a_glob_are_numbered_through_their_files(tmp_path):
    x = RNG.normal(size=(10, 2, 3))
    np.save(tmp_path / "x-0.npy", x[:4])
    np.save(tmp_path / "x-1.npy", np.asfortranarray(x[4:]))
    np.save(tmp_path / "y.npy", np.arange(10))
    dataset = Npy(
        path=tmp_path / "x-*.npy", support="real", label_path=tmp_path / "y.npy", splits=WHOLE
    )
    seen = rows(dataset)
    assert seen["id"] == seen["label"] == list(range(10))
    assert np.array_equal(seen["x"], x)
    assert dataset.spec.shape == (2, 3) and dataset.spec.num_examples == 1


def test_an_array_is_read_in_pieces(tmp_path, monkeypatch):
    """Only the rows of a batch are copied from the map."""
    monkeypatch.setattr("vaepipe.datasets.npy._BATCH_BYTES", 4 * 5 * 7)
    np.save(tmp_path / "x.npy", RNG.random((23, 5)))
    dataset = Npy(path=tmp_path / "x.npy", support="unit_interval", splits=WHOLE)
    assert [batch.num_rows for batch in dataset.examples("all")] == [7, 7, 7, 2]


def test_arrays_can_be_given_another_shape(tmp_path):
    np.save(tmp_path / "x.npy", RNG.integers(0, 256, (3, 16), np.uint8))
    dataset = Npy(path=tmp_path / "x.npy", support="unit_interval", shape=(1, 4, 4), splits=WHOLE)
    x = torch.tensor(rows(dataset)["x"], dtype=torch.uint8)
    view = dataset.tensor(x, lambda: row_uniform(Stream(0), torch.arange(3), (1, 4, 4)))
    assert view.shape == (3, 1, 4, 4) and view.max() <= 1
    assert torch.allclose(view * 255, x.to(view))


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        ([[0.0, 2.0]], {"support": "unit_interval"}, ["unit_interval", "id 0", "2.0"]),
        ([[0.0, np.nan]], {"support": "real"}, ["real", "nan"]),
        ([[0, -1]], {"support": "integer"}, ["integer", "-1"]),
        ([[0, 17]], {"support": "integer", "levels": 17}, ["0 … 16", "17"]),
        ([[0, 2**31]], {"support": "integer"}, ["below 2^31", "2147483648"]),
        ([[0.0, 1e300]], {"support": "real"}, ["float32", "1e+300"]),
        (["a", "b"], {"support": "real"}, ["numbers"]),
        (np.zeros((3, 0)), {"support": "real"}, ["numbers [n, ...]", "(3, 0)"]),
        ([[1j]], {"support": "real"}, ["numbers"]),
        ([[0.0, 1.0]], {"support": "real", "shape": (3,)}, ["(3,)", "(2,)"]),
    ],
)
def test_arrays_that_are_not_what_was_declared_are_refused(array, options, words, tmp_path):
    np.save(tmp_path / "x.npy", np.array(array))
    with pytest.raises(DataError) as error:
        list(Npy(path=tmp_path / "x.npy", splits=WHOLE, **options).examples("all"))
    assert all(word in str(error.value) for word in [*words, "x.npy"])


def test_files_that_are_no_arrays_are_named(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"x\.npy: not a readable"):
        Npy(path=tmp_path / "x.npy", support="real").prepare()
    np.save(tmp_path / "y.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"y\.npy: not a readable"):
        Npy(path=tmp_path / "y.npy", support="real").prepare()
    with pytest.raises(DataError, match="no such file"):
        Npy(path=tmp_path / "z-*.npy", support="real").prepare()


def test_labels_must_be_as_many_as_rows(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    np.save(tmp_path / "y.npy", np.zeros(3, int))
    with pytest.raises(DataError, match="each of 4 rows expected, got 3"):
        Npy(path=tmp_path / "x.npy", support="real", label_path=tmp_path / "y.npy").prepare()


def test_files_with_rows_of_another_shape_are_named(tmp_path):
    np.save(tmp_path / "x-0.npy", np.zeros((4, 2)))
    np.save(tmp_path / "x-1.npy", np.zeros((4, 3)))
    with pytest.raises(DataError, match=r"x-1\.npy"):
        Npy(path=tmp_path / "x-*.npy", support="real").prepare()


def test_levels_of_parquet_are_checked_and_kept(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [[0, 5], [9, 3]]}), tmp_path / "x.parquet")
    options = {"path": tmp_path / "x.parquet", "support": "integer", "splits": WHOLE}
    assert ParquetDataset(levels=10, **options).spec.levels == 10
    list(ParquetDataset(levels=10, **options).examples("all"))
    with pytest.raises(DataError, match="0 … 8"):
        list(ParquetDataset(levels=9, **options).examples("all"))


def test_bars_are_the_union_of_the_planted_features():
    dataset = Bars(size=5, features=7, num_examples=3000, seed=2)
    bars = dataset.features()
    assert len(np.unique(bars.reshape(7, -1), axis=0)) == 7
    assert ((bars.sum((1, 2)) == 5) & ((bars.max(1).sum(1) == 1) | (bars.max(2).sum(1) == 1))).all()
    seen = rows(dataset, "train")
    planted = np.array(seen["planted"])
    expected = np.einsum("nk,kij->nij", planted, bars) > 0
    assert np.array_equal(seen["x"][:, 0], expected)
    assert seen["label"] == planted.sum(1).tolist()


def test_bars_are_there_with_the_given_probability_and_independently():
    planted = np.array(rows(Bars(num_examples=20_000, probability=0.3), "train")["planted"])
    count = len(planted)
    assert np.abs(planted.mean(0) - 0.3).max() < 4 * (0.21 / count) ** 0.5
    off = np.corrcoef(planted.T) - np.eye(8)
    assert np.abs(off).max() < 5 / count**0.5


def test_noise_flips_pixels_with_its_probability_and_leaves_the_features():
    clean, noisy = (rows(Bars(num_examples=5000, noise=n), "train") for n in (0.0, 0.1))
    assert clean["planted"] == noisy["planted"]
    flips = clean["x"] != noisy["x"]
    assert abs(flips.mean() - 0.1) < 4 * (0.09 / flips.size) ** 0.5


def test_bars_and_flips_share_no_numbers_with_each_other_other_seeds_or_other_draws():
    """Frozen binarization and the draws of an encoding used to have the seeds 0, 1 and 2, too."""
    made = []
    for seed in range(4):
        clean, noisy = (
            rows(Bars(num_examples=4000, seed=seed, noise=n), "train") for n in (0.0, 0.2)
        )
        flips = (clean["x"] != noisy["x"]).reshape(len(clean["x"]), -1)
        made += [np.array(clean["planted"]), flips]
    ids = torch.tensor(clean["id"])
    uses = (Purpose.BINARIZATION, Purpose.SAMPLES, Purpose.SIR_CHOICE)
    made += [row_uniform(Stream(seed), ids, (8,)).numpy() for seed in range(1, 12)]
    made += [row_uniform(stream(s, use), ids, (8,)).numpy() for s in range(4) for use in uses]
    numbers = np.concatenate(made, 1).T
    off = np.corrcoef(numbers) - np.eye(len(numbers))
    assert np.abs(off).max() < 5.5 / len(ids) ** 0.5


def test_bars_depend_on_the_seed_alone(tmp_path):
    def digest(name, **options):
        part = registry.part("datasets", "bars", {"num_examples": 200, **options})
        return data.write(part, tmp_path / name)["digest"]

    assert digest("a", seed=1) == digest("b", seed=1) != digest("c", seed=2)
    few, many = (rows(Bars(num_examples=n), "test") for n in (1000, 2000))
    assert np.array_equal(few["x"], many["x"][: len(few["x"])])


def test_more_features_than_bars_are_refused():
    with pytest.raises(DataError, match="at most 6 features"):
        Bars(size=3, features=7)


def test_large_examples_are_held_a_part_of_a_file_at_a_time(tmp_path, monkeypatch):
    """A file is closed at some hundreds of megabytes, whatever the size of an example."""
    from vaepipe.data import shards

    monkeypatch.setattr(shards, "FILE_BYTES", 3 * 1024 * 64)
    part = registry.part("datasets", "bars", {"num_examples": 10_000})
    counts = [file["rows"] for file in data.write(part, tmp_path)["splits"]["train"]["files"]]
    assert counts[:2] == [3072, 3072] and sum(counts) == part.build().spec.num_examples


@pytest.mark.parametrize("levels", [None, 17])
def test_pseudo_inputs_of_integer_data_stay_between_its_ends(levels):
    """The VampPrior relaxes integers to an interval and starts at the mean."""
    from vaepipe.core import SUPPORTS, DataSpec
    from vaepipe.priors.vamp import VampPrior

    mean = torch.tensor([0.0, 5.0, 16.0])
    prior = VampPrior((2,), DataSpec((3,), SUPPORTS["integer"], 9, mean, levels), components=200)
    inputs = prior.pseudo_inputs()
    assert (inputs >= 0).all() and (inputs <= (levels or 100) - 1).all()
    assert (inputs.mean(0) - mean).abs().max() < 0.5
    torch.nn.init.constant_(prior.raw, 50.0)
    assert levels is None or (prior.pseudo_inputs() <= levels - 1).all()


def test_pictures_of_sixteen_bits_are_refused_and_not_cut_off(tmp_path):
    from vaepipe.datasets.pictures import read

    path = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(path)
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        read(path, "L")
