"""Pictures are upright and before one background, in every command that reads them."""

import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from untrained import rows_of, save_model, vaepipe

from vaepipe import files
from vaepipe.data import shards
from vaepipe.data.pictures import ORIENTATION, Pictures
from vaepipe.datasets.image_folder import ImageFolder
from vaepipe.datasets.parquet import ParquetDataset
from vaepipe.errors import DataError
from vaepipe.pipeline.stages import data
from vaepipe.registry import part

SIDE, TALL = 8, 6
RNG = np.random.default_rng(0)
HELD = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}
"""How an upright picture is stored by each EXIF orientation (EXIF 2.3, table 6)."""


def photo(shape=(TALL, SIDE)):
    """Noise below a red band."""
    x = RNG.integers(90, 110, (*shape, 3), np.uint8)
    x[:2] = (200, 40, 40)
    return x


def held(x, orientation, form="PNG"):
    """Bytes of a picture as a camera that was held in some way stores it."""
    exif, made = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    Image.fromarray(np.ascontiguousarray(HELD[orientation](x))).save(made, form, exif=exif)
    return made.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Eight pictures, one of each orientation, and how they look."""
    upright = {f"{way}.png": photo() for way in HELD}
    (tmp_path / "photos").mkdir()
    for way, (name, x) in zip(HELD, upright.items(), strict=True):
        (tmp_path / "photos" / name).write_bytes(held(x, way))
    return upright


def stored(dataset, split="all"):
    """Pictures by the file that they come from, `[h, w, c]`."""
    found = {}
    for batch in dataset.examples(split):
        x = np.stack(batch.column("x").to_numpy(zero_copy_only=False))
        x = x.reshape(-1, *dataset.spec.shape).transpose(0, 2, 3, 1)
        found |= zip(batch.column("file").to_pylist(), x, strict=True)
    return found


def folder(path, **options):
    return ImageFolder(path=path, splits={"all": 1.0}, **options)


def test_a_data_stage_turns_every_picture_upright(photos, tmp_path):
    found = stored(folder(tmp_path / "photos"))
    assert set(found) == set(photos)
    for name, x in photos.items():
        assert np.array_equal(found[name], x), name


@pytest.mark.parametrize("form", ["JPEG", "TIFF", "WEBP"])
def test_orientation_is_read_from_every_form(tmp_path, form):
    for way in HELD:
        x = np.zeros((16, 32, 3), np.uint8)
        x[:8, :16] = (250, 250, 250)
        decoded = Pictures().decode(held(x, way, form), "RGB").transpose(1, 2, 0)
        assert np.abs(decoded.astype(int) - x).max() < 8, way


def test_an_orientation_that_cannot_be_read_is_upright(tmp_path):
    x = photo()
    Image.fromarray(x).save(tmp_path / "x.png", exif=b"Exif\0\0 no such thing")
    assert np.array_equal(stored(folder(tmp_path))["x.png"], x)


def text_chunk(name, content):
    crc = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + crc


def deep_png():
    """16 bits in each of three channels, which Pillow would cut to 8 without a word."""
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(range(12)) for _ in range(2))
    found = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(text_chunk(*each) for each in found)


def icon(noise):
    """A red square; around it pixels of any colour that nobody sees."""
    x = np.random.default_rng(noise).integers(0, 255, (SIDE, SIDE, 4), np.uint8)
    x[..., 3], x[2:6, 2:6] = 0, (255, 0, 0, 255)
    return Image.fromarray(x)


def key_colour():
    """One colour of a picture without alpha is said to be invisible."""
    x = np.full((SIDE, SIDE, 3), (1, 2, 3), np.uint8)
    x[2:6, 2:6] = (255, 0, 0)
    made = io.BytesIO()
    Image.fromarray(x).save(made, "PNG", transparency=(1, 2, 3))
    return Image.open(made)


def palette():
    made = Image.new("P", (SIDE, SIDE), 1)
    made.putpalette([255, 0, 0, 10, 200, 30])
    made.paste(0, (2, 2, 6, 6))
    made.info["transparency"] = 1
    return made


ICONS = {"RGBA": lambda: icon(0), "other noise": lambda: icon(1), "key colour": key_colour}
ICONS |= {"palette": palette}


@pytest.mark.parametrize("kind", ICONS)
@pytest.mark.parametrize(
    ("options", "colour"),
    [({}, (255, 255, 255)), ({"background": "#102030"}, (16, 32, 48))],
)
def test_invisible_pixels_are_the_background(tmp_path, kind, options, colour):
    ICONS[kind]().save(tmp_path / "x.png")
    expected = np.full((SIDE, SIDE, 3), colour, np.uint8)
    expected[2:6, 2:6] = (255, 0, 0)
    assert np.array_equal(stored(folder(tmp_path, **options))["x.png"], expected)


def test_grey_pictures_have_a_background_too_and_half_of_it_shines_through(tmp_path):
    x = np.zeros((4, 4, 2), np.uint8)
    x[..., 1] = [[0, 51, 102, 255]] * 4
    Image.fromarray(x, "LA").save(tmp_path / "x.png")
    found = stored(folder(tmp_path, mode="L"))["x.png"]
    assert found[0, :, 0].tolist() == [255, 204, 153, 0]
    found = stored(folder(tmp_path, mode="L", background="black"))["x.png"]
    assert not found.any()


def test_a_colour_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match="background 'wite': expected a colour"):
        ImageFolder(path=tmp_path, background="wite")


def encoded(capfd, model, source, output, *words):
    given = ["--model", model, "--input", source, "--output", output]
    code, _, err = vaepipe(capfd, "encode", *given, *words)
    assert code == 0, err
    return rows_of(output)


MIXED = {"RGB.png": "RGB", "L.jpg": "L", "P.gif": "P", "1.bmp": "1", "CMYK.tif": "CMYK"}


@pytest.mark.parametrize("options", [{}, {"background": "navy"}, {"size": 4}, {"mode": "L"}])
def test_encode_reads_pictures_as_their_data_stage_did(photos, tmp_path, capfd, options):
    """All forms, orientations and backgrounds; in folders with spaces and accents."""
    root = tmp_path / "photos"
    for name, mode in MIXED.items():
        path = root / "Füße und Hände" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(photo()).convert(mode).save(path)
    icon(0).resize((SIDE, TALL)).save(root / "icon.webp", lossless=True, exact=True)
    options = {"path": str(root), "splits": {"all": 1.0}, "labels": True, **options}
    dataset = ("image_folder", options)
    target = tmp_path / "data"
    target.mkdir()
    manifest = data.write(part("datasets", *dataset), target)
    files.write_json(target / "manifest.json", {**manifest, "kind": "data"})
    classes = set(pq.read_table(target / "all")["class"].to_pylist())
    assert classes == {".", "Füße und Hände"}
    model = save_model(
        tmp_path / "m",
        shape=tuple(manifest["shape"]),
        likelihood="continuous_bernoulli",
        support="unit_interval",
        dataset=dataset,
    )
    first = encoded(capfd, model, target, tmp_path / "a")
    expected = dict(zip(first["file"].to_pylist(), first["mean"].to_pylist(), strict=True))
    second = encoded(capfd, model, root, tmp_path / "b")
    names = sorted(expected)
    table = pa.table(
        {"id": np.arange(len(names)), "x": [(root / name).read_bytes() for name in names]}
    )
    pq.write_table(table, tmp_path / "bytes.parquet")
    third = encoded(capfd, model, tmp_path / "bytes.parquet", tmp_path / "c")
    found = [dict(zip(second["path"].to_pylist(), second["mean"].to_pylist(), strict=True))]
    found.append(dict(zip(names, third["mean"].to_pylist(), strict=True)))
    for other in found:
        assert set(other) == set(expected) and len(other) == 14
        assert all(np.allclose(other[name], expected[name], atol=1e-6) for name in names)


def test_reconstructions_and_evaluations_see_upright_pictures(photos, tmp_path, capfd):
    model = save_model(
        tmp_path / "m",
        shape=(3, TALL, SIDE),
        likelihood="continuous_bernoulli",
        support="unit_interval",
        dataset=("image_folder", {"path": "gone"}),
    )
    words = ["--model", model, "--input", tmp_path / "photos", "--output", tmp_path / "x.parquet"]
    code, _, err = vaepipe(capfd, "reconstruct", *words)
    assert code == 0, err
    x = np.stack(pq.read_table(tmp_path / "x.parquet")["x"].to_numpy())
    upright = np.stack([photos[name] for name in sorted(photos)]).transpose(0, 3, 1, 2)
    assert np.allclose(x.reshape(upright.shape), upright / 255, atol=1e-6)
    np.save(tmp_path / "upright.npy", upright)
    scores = []
    for source in ("photos", "upright.npy"):
        output = tmp_path / f"scores-{source}"
        words = ["--model", model, "--data", tmp_path / source, "--output", output, "--k", 2]
        code, _, err = vaepipe(capfd, "evaluate", *words)
        assert code == 0, err
        scores.append(pq.read_table(output / "per_example.parquet")["elbo"].to_pylist())
    assert scores[0] == scores[1]


def test_columns_of_pictures_have_a_background_too(tmp_path):
    made = []
    for noise in range(6):
        icon(noise).save(tmp_path / f"{noise}.png")
        made.append((tmp_path / f"{noise}.png").read_bytes())
    pq.write_table(pa.table({"x": made}), tmp_path / "x.parquet")
    dataset = ParquetDataset(
        path=tmp_path / "x.parquet",
        support="unit_interval",
        shape=(3, SIDE, SIDE),
        background="blue",
        splits={"all": 1.0},
    )
    (batch,) = dataset.examples("all")
    x = np.stack(batch.column("x").to_numpy(zero_copy_only=False))
    x = x.reshape(6, 3, SIDE, SIDE)
    assert (x == x[0]).all()
    assert x[0, :, 0, 0].tolist() == [0, 0, 255] and x[0, :, 3, 3].tolist() == [255, 0, 0]


def several_pages():
    made = io.BytesIO()
    pages = [Image.fromarray(photo()) for _ in range(3)]
    pages[0].save(made, "TIFF", save_all=True, append_images=pages[1:])
    return made.getvalue()


def saved(image, form, **options):
    made = io.BytesIO()
    image.save(made, form, **options)
    return made.getvalue()


REFUSED = {
    "deep.png": (
        lambda: saved(Image.fromarray(np.full((2, 2), 40_000, np.uint16)), "PNG"),
        "8 bits",
    ),
    "deeper.png": (deep_png, "more than 8 bits a channel"),
    "real.tif": (lambda: saved(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "mode F"),
    "pages.tiff": (several_pages, "an image of 3 pages, expected one"),
    "half.jpg": (lambda: saved(Image.fromarray(photo((64, 64))), "JPEG")[:900], "truncated"),
    "none.png": (lambda: b"no picture", "no readable image"),
    "empty.gif": (lambda: b"", "no readable image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_picture_of_bytes_is_refused_by_name(tmp_path, capfd, name):
    make, reason = REFUSED[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(make())
    with pytest.raises(DataError, match=f"{name}.*{reason}"):
        folder(tmp_path / "in").prepare()
    shape = (3, 64, 64) if name == "half.jpg" else (3, TALL, SIDE)
    shape = (3, 2, 2) if "deep" in name or name == "real.tif" else shape
    model = save_model(
        tmp_path / "m",
        shape=shape,
        likelihood="continuous_bernoulli",
        support="unit_interval",
        dataset=("image_folder", {"path": "gone"}),
    )
    words = ["--model", model, "--input", tmp_path / "in", "--output", tmp_path / "out"]
    code, _, err = vaepipe(capfd, "encode", *words)
    assert code == 2 and reason in err and name in err and "Traceback" not in err


def test_shards_of_one_folder_hold_pictures_of_one_size_after_turning(tmp_path):
    for way in (1, 6):
        (tmp_path / f"{way}.png").write_bytes(held(photo(), way))
    entries = shards.write_split(tmp_path / "all", folder(tmp_path).examples("all"))
    assert entries[0]["rows"] == 2
    (tmp_path / "7.png").write_bytes(saved(Image.fromarray(photo((SIDE, TALL))), "PNG"))
    with pytest.raises(DataError, match=r"7\.png: a picture of 6 x 8 .* 8 x 6.*Give `size`"):
        list(folder(tmp_path).examples("all"))
