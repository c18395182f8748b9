"""`vaepipe report DIR` where DIR is no pipeline's: an evaluation, latents, a model."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import Browser, executable
from html_page import HOSTILE, Page

from vaepipe import cli
from vaepipe.data import schema
from vaepipe.journal import Journal

ALL = ("--k", "1,5,20", "--gaps", "3", "--bdmc", "2", "--ais", "3", "--ais-examples", "4",
       "--ais-chains", "2", "--ais-leapfrog", "1")  # fmt: skip
TABLES = ("summary", "per_example", "per_dimension", "k_curve")


@pytest.fixture(scope="module")
def rows(fitted, tmp_path_factory):
    """Writes examples of the model to a file."""
    folder = tmp_path_factory.mktemp("rows")

    def make(name="test", first=0, count=12, labels=("a", "b")):
        ids = np.arange(100 + first, 100 + first + count)
        table = pa.Table.from_batches(
            [schema.record(ids, fitted.data.x[first : first + count].copy())]
        )
        if labels:
            given = pa.array([labels[i % len(labels)] for i in range(count)], pa.string())
            table = table.append_column("label", given)
        path = folder / f"{name}.parquet"
        pq.write_table(table, path)
        return path

    return make


@pytest.fixture(scope="module")
def evaluated(fitted, rows, tmp_path_factory):
    """What `vaepipe evaluate` leaves, with every measure; read only."""
    folder = tmp_path_factory.mktemp("evaluated") / "scores"
    data = rows()
    words = ["evaluate", "--model", fitted.path, "--data", data, "--output", folder, *ALL]
    assert cli.call(list(map(str, words))) == 0
    return folder, data


@pytest.fixture
def copied(evaluated, tmp_path):
    """The same, to be spoilt."""
    return shutil.copytree(evaluated[0], tmp_path / "scores")


@pytest.fixture
def page(tmp_path):
    """Calls `vaepipe report` and reads the page; its folder is `page.folder`."""

    def make(folder, *more):
        words = ["report", folder, "--output", tmp_path / "page", *more]
        assert cli.call(list(map(str, words))) == 0
        return Page((make.folder / "report.html").read_text(encoding="utf-8"))

    make.folder = tmp_path / "page"
    return make


def change(folder, **values):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rewrite(folder, name, **columns):
    """Replace columns of a table; a function is given the old values."""
    path = folder / f"{name}.parquet"
    table = pq.read_table(path).to_pydict()
    changed = {k: v(table[k]) if callable(v) else v for k, v in columns.items()}
    pq.write_table(pa.table({**table, **changed}), path)


def figures(folder):
    return {path.stem.removeprefix("scores-") for path in folder.glob("*.svg")}


def test_an_evaluation_outside_a_pipeline_has_a_page(evaluated, page):
    """Its numbers with their errors, its figures, what ran; nothing from the network."""
    folder, _ = evaluated
    shown = page(folder)
    row = next(
        r for r in pq.read_table(folder / "summary.parquet").to_pylist()
        if (r["metric"], r["split"]) == ("log_evidence", "test")
    )  # fmt: skip
    assert f"{row['value']:.2f} ± {row['se']:.2f} nats".replace("-", "−") in shown.text
    assert figures(page.folder) == {"evidence", "k-curve", "sandwich", "gaps", "rates"}
    assert {p.stem for p in page.folder.glob("*.png")} == {
        p.stem for p in page.folder.glob("*.svg")
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    for text in (manifest["model_digest"], manifest["data_digest"], *manifest["diagnosis"]):
        assert text in shown.text
    for text in ("mlp(hidden=[16]", "k: [1, 5, 20]", "gaps: {examples: 3", "splits: [test]"):
        assert text in shown.text
    for reference in shown.values("href", "src", "xlink:href"):
        local = reference.startswith(("#", "data:image/png")) or (page.folder / reference).is_file()
        assert local


def test_the_default_place_is_below_the_evaluation(copied, capsys):
    assert cli.call(["report", str(copied)]) == 0
    assert capsys.readouterr().out.strip() == str(copied / "report" / "report.html")
    assert (copied / "report" / "scores-evidence.png").is_file()


def test_the_worst_examples_are_named_though_their_pixels_are_elsewhere(evaluated, page):
    """Their ids, lowest first; and how to see them."""
    folder, data = evaluated
    table = pq.read_table(folder / "per_example.parquet").to_pandas()
    expected = table.sort_values("log_evidence")["id"].astype(str).tolist()
    shown = page(folder)
    listed = shown.text.split("Numbers of the worst examples of test")[1]
    places = [listed.index(f"{i}{label}") for i, label in zip(expected, table.sort_values(
        "log_evidence")["label"], strict=True)]  # fmt: skip
    assert places == sorted(places)
    assert "--data PATH" in shown.text
    seen = page(folder, "--data", data)
    assert "worst" in figures(page.folder)
    assert "--data" not in seen.text


def test_rows_that_were_not_evaluated_are_not_passed_off(evaluated, rows, page, capsys):
    """A copy may be what was evaluated and is shown with a word; missing ids end it."""
    folder, data = evaluated
    copy = data.with_name("copy.parquet")
    pq.write_table(pq.read_table(data), copy)
    shown = page(folder, "--data", copy)
    assert "The rows of --data are not, or no longer, those evaluated." in shown.text
    other = rows("other", first=12)
    assert cli.call(["report", str(folder), "--data", str(other)]) == 2
    assert "no row with id" in capsys.readouterr().err
    assert cli.call(["report", str(folder), "--data", str(data), "--column", "pixels"]) == 2
    assert "no column 'pixels'" in capsys.readouterr().err
    assert not (folder / "report").exists()


def test_a_model_that_moved_is_named_or_left_out(copied, fitted, page, tmp_path, capsys):
    """The page is made without it; --model says where it is, and must be the same one."""
    change(copied, model=str(tmp_path / "gone"))
    shown = page(copied)
    assert "The model is not shown: it is not where it was." in shown.text
    assert "mlp(hidden" not in shown.text
    assert "mlp(hidden" in page(copied, "--model", fitted.path).text
    other = shutil.copytree(fitted.path / "model", tmp_path / "other")
    card = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps({**card, "seed": 9}))
    assert cli.call(["report", str(copied), "--model", str(other)]) == 2
    assert "not the model that" in capsys.readouterr().err
    change(copied, model=str(other))
    assert "there is another one where it was" in page(copied).text
    assert cli.call(["report", str(copied), "--data", str(tmp_path)]) == 2
    assert "Give --model" in capsys.readouterr().err


def test_a_model_without_a_stage_has_a_page(fitted, rows, page):
    """Samples of it; of rows that are named, what it makes of them."""
    shown = page(fitted.path / "model")
    stems = {path.stem for path in page.folder.glob("*.svg")}
    assert stems == {"model-samples", "model-plane"}
    assert "--data PATH" in shown.text
    shown = page(fitted.path / "model", "--data", rows())
    stems = {path.stem.removeprefix("model-") for path in page.folder.glob("*.svg")}
    assert stems == {"samples", "plane", "reconstructions", "traversals", "posterior"}
    assert "12 examples" in shown.text
    assert "Posterior by class" in shown.text


def test_latents_have_a_page(fitted, rows, page, tmp_path):
    words = ["encode", "--model", fitted.path, "--input", rows(), "--output", tmp_path / "latents"]
    assert cli.call(list(map(str, words))) == 0
    shown = page(tmp_path / "latents")
    assert "Posterior by class" in shown.text
    assert [path.name for path in page.folder.glob("*.svg")] == ["latents-posterior.svg"]


def test_one_example_has_a_page(fitted, rows, page, tmp_path):
    """Nothing has a standard error, and nothing fails."""
    data = rows("single", count=1)
    words = ["evaluate", "--model", fitted.path, "--data", data, "--output", tmp_path / "scores"]
    assert cli.call(list(map(str, [*words, *ALL]))) == 0
    shown = page(tmp_path / "scores", "--data", data)
    assert {"evidence", "k-curve", "worst", "rates"} <= figures(page.folder)
    assert "NaN" not in shown.text
    assert cli.call(list(map(str, ["report", fitted.path / "model", "--data", data,
                                   "--output", tmp_path / "model"]))) == 0  # fmt: skip


def test_no_example_is_an_error(fitted, rows, copied, tmp_path, capsys):
    """Before an evaluation, of an evaluation, of a model."""
    empty = rows("none", count=0)
    words = ["evaluate", "--model", fitted.path, "--data", empty, "--output", tmp_path / "e"]
    assert cli.call(list(map(str, words))) == 2
    assert "no rows" in capsys.readouterr().err
    assert cli.call(["report", str(fitted.path / "model"), "--data", str(empty)]) == 2
    assert "no rows" in capsys.readouterr().err
    path = copied / "per_example.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert cli.call(["report", str(copied)]) == 2
    assert "per_example.parquet has no rows" in capsys.readouterr().err
    assert not (copied / "report").exists()


@pytest.mark.parametrize("value", [float("nan"), None, float("-inf")])
def test_columns_without_a_number_are_said_and_not_drawn(copied, page, value):
    """The rest of the page is there."""
    none = lambda old: pa.array([value] * len(old), pa.float64())  # noqa: E731
    rewrite(copied, "summary", value=none, se=none)
    rewrite(copied, "per_example", log_evidence=none, elbo=none, khat=none, log_evidence_ais=none)
    rewrite(copied, "per_dimension", rate=none, variance_of_means=none)
    rewrite(copied, "k_curve", log_evidence=none, se=none)
    shown = page(copied)
    assert figures(page.folder) <= {"gaps"}
    assert {None: "–", float("-inf"): "−∞"}.get(value, "NaN") in shown.text
    assert "Numbers of the worst examples" not in shown.text
    assert "What ran" in shown.text


def test_a_few_numbers_that_are_missing_do_not_hide_the_others(copied, page):
    rewrite(copied, "per_example", log_evidence=lambda v: [float("nan"), None, *v[2:]])
    rewrite(copied, "k_curve", log_evidence=lambda v: [float("nan"), *v[1:]])
    page(copied)
    assert {"evidence", "k-curve", "sandwich", "rates"} <= figures(page.folder)


def test_only_what_was_warned_of_is_a_warning(copied, page):
    """An idle dimension may be as it should; a collapse is not."""
    change(copied, diagnosis=["test: it collapsed", "test: one is idle"])
    Journal(copied / "journal.jsonl").write("warning", text="test: it collapsed")
    text = page(copied).text
    assert "Warning: test: it collapsed" in text
    assert "Note: test: one is idle" in text


def test_names_that_mean_harm_stay_text(copied, fitted, page, tmp_path):
    """Of folder, split, metric, label, model, digest and diagnosis."""
    folder = copied.rename(tmp_path / "<img src=x onerror=alert(1)>&$x$")
    for name in ("summary", "per_example", "k_curve"):
        rewrite(folder, name, split=lambda v: [HOSTILE] * len(v))
    rewrite(folder, "summary", model=lambda v: [HOSTILE] * len(v))
    rewrite(folder, "per_example", label=lambda v: [HOSTILE] * len(v))
    change(folder, diagnosis=[HOSTILE], view={HOSTILE: HOSTILE}, data_digest=HOSTILE)
    shown = page(folder)
    assert not shown.tags & {"script", "img"}
    assert "<script>alert('$x$')</script>" in shown.text
    assert "<img src=x onerror=alert(1)>&$x$" in shown.text
    assert not {"\x1b", "\u202e"} & set(shown.text)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: shutil.rmtree(f), "does not exist: expected the folder of a pipeline"),
        (lambda f: [p.unlink() for p in f.glob("*.*")], "holds nothing to report: expected"),
        (lambda f: (f / "manifest.json").unlink(), "not finished"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff"), "manifest.json cannot be read"),
        (lambda f: (f / "manifest.json").write_text("[1]"), "holds no mapping"),
        (lambda f: change(f, kind="report"), "kind 'report': expected"),
        (lambda f: change(f, kind=HOSTILE), "expected the folder of a pipeline"),
        (lambda f: (f / "summary.parquet").unlink(), "it has no summary.parquet"),
        (lambda f: (f / "k_curve.parquet").write_bytes(b"PAR1"), "k_curve.parquet cannot be read"),
        (lambda f: rewrite(f, "per_example", elbo=lambda v: ["x"] * len(v)), "expected numbers"),
        (lambda f: pq.write_table(pa.table({"a": [1]}), f / "summary.parquet"), "no column 'met"),
    ],
)  # fmt: skip
def test_what_is_no_evaluation_is_an_error_of_one_line(copied, capsys, spoil, said):
    """Exit 2, one line, nothing written."""
    spoil(copied)
    assert cli.call(["report", str(copied)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert "\x1b" not in err
    assert len(err.strip().splitlines()) == 1
    assert not (copied / "report").exists()


def test_a_page_that_cannot_be_written_is_an_error(copied, capsys):
    (copied / "file").write_text("")
    assert cli.call(["report", str(copied), "--output", str(copied / "file" / "below")]) == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.skipif(executable() is None, reason="there is no Chromium here")
@pytest.mark.parametrize(("width", "scheme"), [(340, "dark"), (390, "light"), (1280, "light")])
def test_the_page_of_an_evaluation_is_read_on_any_screen(evaluated, page, width, scheme):
    """It does not scroll sideways, asks for nothing, and rows of tables are not torn apart."""
    page(evaluated[0])
    browser = Browser()
    try:
        browser.show(width, scheme=scheme)
        browser.open(page.folder / "report.html")
        assert browser.ask("document.documentElement.scrollWidth") <= width
        asked = [e["request"]["url"] for e in browser.happened("Network.requestWillBeSent")]
        assert len([url for url in asked if not url.startswith("data:")]) == 1
        heights = "[...document.querySelectorAll('tr')].map(e => e.getBoundingClientRect().height)"
        assert max(browser.ask(heights)) < 130
    finally:
        browser.close()
