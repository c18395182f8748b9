"""MNIST and its successors, and Omniglot: tiny files in the published formats."""

import gzip
import struct

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from vaepipe import files, registry
from vaepipe.data import shards, sources
from vaepipe.data.decoding import Decoding
from vaepipe.datasets import published
from vaepipe.datasets.digits import Digits
from vaepipe.datasets.mnist import EMNIST, FILES, MNIST, FashionMNIST
from vaepipe.datasets.omniglot import Omniglot
from vaepipe.errors import DataError
from vaepipe.pipeline.stages import data

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (25, 28, 28), np.uint8)
TEST = RNG.integers(0, 256, (5, 28, 28), np.uint8)


def put(path, array, zipped=False):
    """An array of bytes in the format of MNIST."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def put_all(dataset, zipped=False):
    arrays = (TRAIN, np.arange(25) % 10, TEST, np.arange(5))
    for name, array in zip(dataset.files, arrays, strict=True):
        put(dataset.raw / name, array, zipped)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """An empty data folder, and no network."""
    monkeypatch.setenv("VAEPIPE_DATA", str(tmp_path / "data"))

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return tmp_path / "data"


def rows(dataset, split):
    """Ids, values `[n, *shape]` and labels of a split."""
    batches = list(dataset.examples(split))
    x = np.array([v for b in batches for v in b.column("x").to_pylist()], np.uint8)
    ids = [i for b in batches for i in b.column("id").to_pylist()]
    labels = [v for b in batches for v in b.column("label").to_pylist()]
    return ids, x.reshape(len(ids), *dataset.spec.shape), labels


KINDS = {
    "mnist": MNIST,
    "fashion_mnist": FashionMNIST,
    "emnist": EMNIST,
    "emnist letters": lambda **options: EMNIST(split="letters", **options),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_image_of_the_files_is_in_one_split(kind, zipped):
    """The first rows train, the last as many as test has validate; ids count through all."""
    dataset = KINDS[kind](binarize="none")
    put_all(dataset, zipped)
    seen = {split: rows(dataset, split) for split in dataset.splits}
    assert [seen[s][0] for s in ("train", "val", "test")] == [
        list(range(20)),
        list(range(20, 25)),
        list(range(25, 30)),
    ]
    assert [v for s in ("train", "val") for v in seen[s][2]] == [i % 10 for i in range(25)]
    images = np.concatenate([TRAIN, TEST])[:, None]
    upright = images.transpose(0, 1, 3, 2) if kind.startswith("emnist") else images
    assert np.array_equal(np.concatenate([seen[s][1] for s in dataset.splits]), upright)


def test_rows_come_in_pieces_of_bounded_size(monkeypatch):
    """A large file is never read as a whole."""
    monkeypatch.setattr(published, "BATCH", 7)
    dataset = MNIST()
    put_all(dataset)
    assert [batch.num_rows for batch in dataset.examples("train")] == [7, 7, 6]
    assert rows(dataset, "train")[0] == list(range(20))


@pytest.mark.parametrize("kind", [*KINDS, "omniglot"])
def test_missing_files_are_named_with_their_folder_and_the_alternative(kind, root):
    dataset = KINDS[kind]() if kind in KINDS else Omniglot()
    with pytest.raises(DataError) as error:
        dataset.prepare()
    text = str(error.value)
    wanted = dataset.files if kind in KINDS else ("images_background", "images_evaluation")
    assert all(name in text for name in wanted)
    assert str(dataset.raw if kind in KINDS else root / "omniglot-py") in text
    assert "digits" in text and "no network" in text
    assert error.value.exit_code == 2


def test_a_missing_emnist_names_the_files_of_its_split():
    with pytest.raises(DataError, match="emnist-byclass-train-images-idx3-ubyte"):
        EMNIST(split="byclass").prepare()


def test_what_is_known_before_the_files_are_there():
    """A file can be checked on a machine without the data: the published sizes."""
    sizes = {name: EMNIST(split=name).spec.num_examples for name in ("balanced", "byclass")}
    assert sizes == {"balanced": 94_000, "byclass": 581_609}
    assert MNIST().spec.num_examples == FashionMNIST().spec.num_examples == 50_000
    assert Omniglot(size=105).spec.shape == (1, 105, 105)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "ends too early"),
        (lambda path: path.write_bytes(b"<html>"), "not a file of bytes"),
        (lambda path: path.write_bytes(b""), "ends too early"),
        (lambda path: put(path, np.zeros((25, 32, 32))), "28 x 28 expected"),
        (lambda path: put(path, np.zeros((24, 28, 28))), "25 labels for the 24 images"),
    ],
)
def test_a_damaged_file_is_named(damage, words):
    dataset = MNIST()
    put_all(dataset)
    damage(dataset.raw / FILES[0])
    with pytest.raises(DataError, match=words) as error:
        _ = [list(dataset.examples(split)) for split in dataset.splits]
    assert "train-" in str(error.value)


def test_a_damaged_archive_is_named():
    dataset = MNIST()
    put_all(dataset, zipped=True)
    path = dataset.raw / (FILES[0] + ".gz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=FILES[0]):
        _ = [list(dataset.examples(split)) for split in dataset.splits]


@pytest.mark.parametrize("kind", [*KINDS, "digits"])
def test_grey_levels_can_stay_the_integers_that_they_are(kind, tmp_path):
    """`binarize: levels` gives integer data with a known number of values, kept in the manifest."""
    name, split = [*kind.split(), "balanced"][:2]
    options = {"binarize": "levels"} | ({"split": split} if name == "emnist" else {})
    part = registry.part("datasets", name, options)
    dataset = part.build()
    if not isinstance(dataset, Digits):
        put_all(dataset)
    manifest = data.write(part, tmp_path)
    files.write_json(tmp_path / "manifest.json", manifest)
    spec = shards.load_spec(tmp_path)
    assert (spec.support_name, spec.levels) == ("integer", 17 if kind == "digits" else 256)
    ids, x = shards.open_split(tmp_path, "train").take(shards.open_split(tmp_path, "train").units)
    view = dataset.frozen(torch.tensor(x), torch.tensor(ids))
    assert torch.equal(view, torch.tensor(x).to(view))
    assert spec.mean.max() > 1 and manifest["view"]["binarization"] == "levels"


def draw_omniglot(root, size=105):
    """Two alphabets to train on and one to test on: a few strokes on white paper."""
    number = 0
    for folder, alphabet, characters in [
        ("images_background", "Greek", 2),
        ("images_background", "Latin", 1),
        ("images_evaluation", "Tengwar", 2),
    ]:
        for character in range(1, characters + 1):
            place = root / "omniglot-py" / folder / alphabet / f"character{character:02d}"
            place.mkdir(parents=True)
            for drawing in range(20):
                image = Image.new("1", (size, size), 1)
                image.paste(0, (number, 0, number + 5, size))
                image.save(place / f"{number:04d}_{drawing:02d}.png")
                number += 1


def test_omniglot_tests_on_alphabets_that_it_never_trained_on(root):
    draw_omniglot(root)
    dataset = Omniglot(binarize="none", size=105)
    seen = {split: rows(dataset, split) for split in dataset.splits}
    assert sorted(i for ids, _, _ in seen.values() for i in ids) == list(range(100))
    assert seen["test"][0] == list(range(60, 100))
    assert set(seen["test"][2]) == {3, 4} and set(seen["train"][2]) == {0, 1, 2}
    assert seen["val"][0]
    (batch,) = dataset.examples("test")
    assert set(batch.column("alphabet").to_pylist()) == {"Tengwar"}
    ink = np.zeros((105, 105), np.uint8)
    ink[:, 60:65] = 255
    assert np.array_equal(seen["test"][1][0, 0], ink), "ink is one, paper zero"


def test_omniglot_is_made_small_by_area_averages(root):
    """No ink is lost: the mean of a drawing stays."""
    draw_omniglot(root)
    large, small = (rows(Omniglot(binarize="none", size=s), "test")[1] for s in (105, 28))
    assert small.shape == (40, 1, 28, 28)
    assert np.abs(large.mean((1, 2, 3)) - small.mean((1, 2, 3))).max() < 0.5


@pytest.mark.parametrize("size", [28, 105])
def test_drawings_are_read_later_as_the_data_stage_read_them(root, size):
    """What `encode` makes of the files themselves: ink is 255 there too, not paper."""
    draw_omniglot(root)
    dataset = Omniglot(binarize="none", size=size)
    decoding = Decoding(dataset.pictures())
    folder = root / "omniglot-py" / "images_evaluation"
    source = sources.of_files(str(folder), dataset.spec.shape, "x", None, decoding=decoding)
    (batch,) = source.stream(str(folder), range(1), 0, ["path"], 100)
    assert np.array_equal(batch.x, rows(dataset, "test")[1])


def test_omniglot_without_alphabets_is_an_error(root):
    for name in ("images_background", "images_evaluation"):
        (root / "omniglot-py" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="images_background: no folders"):
        list(Omniglot().examples("train"))


def test_a_published_dataset_becomes_a_portable_artifact(tmp_path):
    """The whole data stage on tiny files, with digests and the mean example."""
    put_all(FashionMNIST())
    part = registry.part("datasets", "fashion_mnist", {"binarize": "static"})
    manifest = data.write(part, tmp_path / "a")
    assert manifest["counts"] == {"train": 20, "val": 5, "test": 5}
    assert manifest["digest"] == data.write(part, tmp_path / "b")["digest"]
    table = pq.read_table(tmp_path / "a" / "test" / "part-00000.parquet")
    assert set(np.unique(table["x"].combine_chunks().flatten())) == {0, 1}
