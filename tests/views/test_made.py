"""`vaepipe sample`, `reconstruct` and `interpolate`: what they write of a model and rows."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from vaepipe import cli
from vaepipe.core import SUPPORTS, DataSpec, LatentModel, PriorDraw
from vaepipe.data import schema
from vaepipe.data.lexicon import Lexicon
from vaepipe.data.sources import Source
from vaepipe.errors import DataError, UserError
from vaepipe.pipeline import retrace, rows, samples


@pytest.fixture(scope="module")
def files(fitted, tmp_path_factory):
    """The examples of the model in two Parquet files, their ids not in order."""
    folder = tmp_path_factory.mktemp("rows")
    ids = np.arange(100, 130)[::-1]
    for number, part in enumerate((slice(0, 12), slice(12, 30))):
        batch = schema.record(ids[part], fitted.data.x[part])
        pq.write_table(pa.Table.from_batches([batch]), folder / f"part-{number}.parquet")
    return folder


def call(command, fitted, output, *more):
    words = [command, "--model", str(fitted.path), "--output", str(output), *map(str, more)]
    return cli.call(words)


def read(path):
    table = pq.read_table(path)
    return {name: np.array(table.column(name).to_pylist()) for name in table.column_names}


def test_samples_are_decided_by_their_seed(fitted, tmp_path):
    """Bits where the likelihood draws them, probabilities with --mean; one seed, one sheet."""
    for name, more in (("a", ["--seed", 1]), ("b", ["--seed", 1]), ("c", ["--seed", 2])):
        assert call("sample", fitted, tmp_path / f"{name}.parquet", "-n", 9, *more) == 0
    a, b, c = (read(tmp_path / f"{name}.parquet")["x"] for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert set(np.unique(a)) == {0.0, 1.0}
    assert call("sample", fitted, tmp_path / "m.parquet", "-n", 9, "--mean", "--seed", 1) == 0
    mean = read(tmp_path / "m.parquet")["x"]
    assert ((mean > 0) & (mean < 1)).all()


def test_a_reconstruction_stands_beside_its_row(fitted, files, tmp_path):
    """By id, in the order asked for: the row as evaluation sees it, and E[x|z] at E[z|x]."""
    more = ("--input", files, "--id-column", "id", "--id", 128, "--id", 101, "--draw")
    assert call("reconstruct", fitted, tmp_path / "r.parquet", *more) == 0
    found = read(tmp_path / "r.parquet")
    assert found["id"].tolist() == [128, 101]
    stored = torch.tensor(fitted.data.x[[1, 28]])
    seen = fitted.model.dataset.build().frozen(stored, torch.tensor([128, 101]))
    np.testing.assert_array_equal(found["x"], seen.flatten(1).numpy())
    model = fitted.model.model
    with torch.no_grad():
        expected = model.generator(model.inference(seen).mean).mean.flatten(1)
    np.testing.assert_allclose(found["mean"], expected.numpy(), atol=1e-6)
    assert set(np.unique(found["draw"])) <= {0.0, 1.0}


def test_what_is_drawn_for_a_row_depends_on_its_id_alone(fitted, files, tmp_path):
    """Whichever rows stand beside it."""
    given = ("--input", files, "--id-column", "id", "--draw", "--seed", 5)
    assert call("reconstruct", fitted, tmp_path / "one.parquet", *given, "--id", 105) == 0
    assert call("reconstruct", fitted, tmp_path / "all.parquet", *given, "-n", 30) == 0
    one, every = read(tmp_path / "one.parquet"), read(tmp_path / "all.parquet")
    place = every["id"].tolist().index(105)
    for name in ("x", "draw"):
        np.testing.assert_array_equal(one[name][0], every[name][place])
    np.testing.assert_allclose(one["mean"][0], every["mean"][place], atol=1e-6)


def test_an_interpolation_begins_and_ends_at_the_two_codes(fitted, files, tmp_path):
    """The ends are the rows' own codes, the steps between them even."""
    more = ("--input", files, "--id-column", "id", "--from", 110, "--to", 120, "--steps", 5)
    assert call("interpolate", fitted, tmp_path / "i.parquet", *more) == 0
    found = read(tmp_path / "i.parquet")
    np.testing.assert_allclose(found["share"], [0, 0.25, 0.5, 0.75, 1])
    both = ("--input", files, "--id-column", "id", "--id", 110, "--id", 120)
    assert call("reconstruct", fitted, tmp_path / "r.parquet", *both) == 0
    np.testing.assert_allclose(found["x"][[0, -1]], read(tmp_path / "r.parquet")["mean"], atol=1e-6)
    steps = np.diff(found["z"], axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-6)
    assert call("interpolate", fitted, tmp_path / "p.png", "--from-prior", "--steps", 7) == 0
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (7 * 34 - 2, 32)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reconstruct", "--id", 7], "no row with id 7; ids run from 100 to 129"),
        (["interpolate", "--from", 110], "--to ID"),
        (["interpolate", "--from", 110, "--to", 111, "--from-prior"], "--from-prior alone"),
        (["reconstruct", "--column", "pixels"], "no column 'pixels'"),
    ],
)
def test_mistakes_say_what_is_missing(fitted, files, tmp_path, capsys, words, said):
    command, *more = words
    given = ("--input", files, "--id-column", "id")
    assert call(command, fitted, tmp_path / "x.parquet", *given, *more) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.parquet").exists()


def test_a_picture_of_no_kind_is_refused_before_anything_is_read(fitted, files, tmp_path, capsys):
    for command in ("sample", "reconstruct", "interpolate"):
        given = () if command == "sample" else ("--input", files)
        assert call(command, fitted, tmp_path / "x.gif", *given) == 2
        assert ".png" in capsys.readouterr().err


def test_sentences_are_lines_and_pictures_are_not(fitted, tmp_path, capsys):
    assert call("sample", fitted, tmp_path / "x.txt") == 2
    assert "no sentences" in capsys.readouterr().err


def test_sentences_are_no_picture_though_their_length_is_a_square(tmp_path):
    """Words in a line each, versions side by side; as columns of a table."""
    lexicon = Lexicon.of([["to", "be"]], 5, " ")
    x = torch.tensor([[3, 4, 1, 0], [4, 1, 0, 0]])
    data = DataSpec((4,), SUPPORTS["integer"], 1)
    with pytest.raises(UserError, match="sentences"):
        samples.write(tmp_path / "x.png", x, data, lexicon)
    samples.write(tmp_path / "x.txt", x, data, lexicon, more={"mean": x.flip(0)})
    assert (tmp_path / "x.txt").read_text() == "be to\tto\nto\tbe to\n"
    samples.write(tmp_path / "x.parquet", x, data, lexicon, more={"mean": x.flip(0)})
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column("text").to_pylist() == ["be to", "to"]
    assert table.column("mean_text").to_pylist() == ["to", "be to"]


def test_discrete_latents_have_nothing_in_between(fitted):
    """Neither bits nor codes are mixed."""

    class Bits(torch.nn.Module):
        def forward(self, inference):
            bits = torch.distributions.Bernoulli(torch.full((2,), 0.5))
            return PriorDraw(torch.distributions.Independent(bits, 1))

    whole = fitted.model.model
    model = LatentModel(whole.inference, Bits(), whole.generator)
    with pytest.raises(UserError, match="discrete"):
        retrace.line(dataclasses.replace(fitted.model, model=model), torch.zeros(2, 2), 3, 0)


def test_versions_of_an_example_stand_below_each_other():
    """Sixteen across; every picture once, colours kept."""
    data = DataSpec((3, 32, 32), SUPPORTS["unit_interval"], 1)
    x = np.linspace(0, 1, 18)[:, None, None, None] * np.ones((18, 3, 32, 32))
    x[:, 1:] = 0
    made = samples.sheet({"x": x, "mean": 1 - x}, data)
    assert made.shape == (4 * 34 - 2, 16 * 34 - 2, 3)
    assert made[10, 10 + 34 * 3].tolist() == pytest.approx([x[3, 0, 0, 0], 0, 0])
    assert made[10 + 34, 10 + 34 * 3].tolist() == pytest.approx([1 - x[3, 0, 0, 0], 1, 1])
    assert made[10 + 68, 10 + 34].tolist() == pytest.approx([x[17, 0, 0, 0], 0, 0])
    grey = samples.sheet({"x": np.ones((4, 64))}, DataSpec((64,), SUPPORTS["real"], 1))
    assert grey.shape == (66, 66)
    with pytest.raises(UserError, match="no images"):
        samples.sheet({"x": np.ones((4, 7))}, DataSpec((7,), SUPPORTS["real"], 1))


def test_rows_are_found_in_any_file(files, fitted):
    """The first ones span files; ids are found wherever they are, and missed by name."""
    paths = tuple(str(p) for p in sorted(files.iterdir()))
    source = Source(paths, (1, 8, 8), ("x",), "id")
    ids, x = rows.first(source, 15)
    assert ids.tolist() == list(range(129, 114, -1))
    np.testing.assert_array_equal(x, fitted.data.x[:15])
    assert rows.pick(source, [100, 129, 100])[0].tolist() == [100, 129, 100]
    with pytest.raises(DataError, match="no row with id 1, 2"):
        rows.pick(source, [2, 100, 1])
