"""The report in a real browser: wide and narrow, light and dark, on paper, moving and still."""

import dataclasses
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import Browser, executable
from PIL import Image

from vaepipe.pipeline.report import Sample, Section, Worst, build

pytestmark = pytest.mark.skipif(executable() is None, reason="there is no Chromium here")
ARTIFACTS = ("tmp_path_factory", "fitted", "sweep", "evaluation", "moved")
HOSTILE = "<img src=x onerror=alert(1)><script>alert('$x$')</script>\u202e" + "w" * 300
SEEN = "[...document.querySelectorAll('.frame')].map(f => getComputedStyle(f).visibility)"
CONTRAST = """
(selector => {
  const light = c => {
    const [r, g, b] = c.match(/[0-9.]+/g).slice(0, 3)
      .map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (c !== 'rgba(0, 0, 0, 0)') return c;
    }
    return getComputedStyle(document.body).backgroundColor;
  };
  return Math.min(...[...document.querySelectorAll(selector)].map(e => {
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  }));
})"""


def table(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture(scope="module")
def browser():
    """One browser for all questions."""
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def made():
    """The page that most questions share, once it is there."""
    return {}


@pytest.fixture
def page(browser, made, request):
    """A page with every kind of figure, a wide table and names that mean harm, just opened."""
    if not made:
        made["page"] = draw(*map(request.getfixturevalue, ARTIFACTS))
    browser.show(1280)
    browser.open(made["page"])
    return browser


def draw(tmp_path_factory, fitted, sweep, evaluation, moved):
    folder = tmp_path_factory.mktemp("page")
    rows = [
        {
            "trial": i, "status": "failed" if i == 2 else "done", "error": HOSTILE * (i == 2),
            "val/log_evidence": None if i == 2 else -20.0 - i, "val/log_evidence_se": 0.3,
            "val/log_lik": -15.0 - i, "val/rate": 5.0 - i, "val/elbo": -20.0, "epochs": 3,
            "seconds": 1.0, "setting.model.prior": '{"type": "vamp", "components": 500}',
            "setting.optimizer.lr": "0.001",
        }
        for i in range(4)
    ]  # fmt: skip
    data = Section("data", HOSTILE, folder, {"dataset": {"type": HOSTILE, "options": {}}})
    model = dataclasses.replace(fitted, path=moved(frames=5, labels=True))
    return build(folder, [data, model, sweep(rows), appraised(evaluation, fitted)])


def appraised(evaluation, fitted):
    """An evaluation with a curve, a sandwich, gaps and its worst examples."""
    section = evaluation([-20.0, -21.0, -25.0])
    examples = pq.read_table(section.path / "per_example.parquet").to_pylist()
    more = {"log_evidence_ais": -19.5, "amort_gap": 1.0, "approx_gap": -0.2, "khat": 0.9}
    table(section.path / "per_example.parquet", [{**row, **more} for row in examples])
    (line,) = pq.read_table(section.path / "summary.parquet").to_pylist()
    bounds = {"bdmc_lower": -20.0, "bdmc_upper": -19.5, "bdmc_gap": 0.5, "bdmc_log_evidence": -19.9}
    lines = [{**line, "split": "simulated", "metric": m, "value": v} for m, v in bounds.items()]
    table(section.path / "summary.parquet", [line, *lines])
    curve = [{"split": "test", "k": k, "log_evidence": -24.0 + k / 20, "se": 0.5} for k in (1, 50)]
    table(section.path / "k_curve.parquet", curve)
    data = Sample(fitted.data.x[:3], fitted.data.ids[:3])
    worst = Worst("test", data, [-25.0, -21.0, -20.0], fitted.model)
    manifest = {**section.manifest, "diagnosis": [f"test: {HOSTILE}"]}
    return dataclasses.replace(section, worst=worst, manifest=manifest)


def test_every_figure_of_an_evaluation_is_seen(page):
    text = page.ask("document.body.textContent")
    for title in ("Evidence and the number of samples", "Bounds from both sides",
                  "Where the bound loses", "The worst examples of test"):  # fmt: skip
        assert title in text


def test_the_page_asks_for_nothing_and_runs_nothing(page):
    """One request, for the page itself; no message, no dialog, no attempt of a script."""
    asked = [e["request"]["url"] for e in page.happened("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:")] == asked[:1]
    assert asked[0].endswith("report.html")
    page.ask("1")
    for kind in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown",
                 "Page.javascriptDialogOpening"):  # fmt: skip
        assert page.happened(kind) == []
    assert page.ask("document.scripts.length + document.images.length") == 0


@pytest.mark.parametrize("width", [340, 390, 768, 1280, 1920])
def test_the_page_never_scrolls_sideways(page, width):
    """Tables and code scroll inside themselves, on a phone as on a wide screen."""
    page.show(width)
    assert page.ask("document.documentElement.scrollWidth") <= width
    widest = page.ask("Math.max(...[...document.querySelectorAll('figure')]"
                      ".map(f => f.getBoundingClientRect().right))")  # fmt: skip
    assert widest <= width
    smallest = page.ask("Math.min(...[...document.querySelectorAll('p, dd, td, label')]"
                        ".map(e => parseFloat(getComputedStyle(e).fontSize)))")  # fmt: skip
    assert smallest >= 12


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_either_scheme(page, scheme):
    """Contrast of text and ground is at least 4.5, as WCAG 2.1 (1.4.3) asks."""
    page.show(1280, scheme=scheme)
    for selector in ("h1, h2, h3, p, dd, td", "dt, th, span, .note", "a", ".motion label", "pre"):
        assert page.ask(f"{CONTRAST}('{selector}')") >= 4.5, selector
    picture = np.asarray(Image.open(io.BytesIO(page.picture())).convert("L"), float)
    assert (picture.mean() > 190) if scheme == "light" else (picture.mean() < 90)


def test_the_drawings_have_the_colours_of_the_page(page):
    """Axes and letters of a figure are light where the page is dark."""
    ink = "getComputedStyle(document.querySelector('figure svg [style*=\"--ink\"]')).fill"
    page.show(1280, scheme="light")
    before = page.ask(ink)
    page.show(1280, scheme="dark")
    assert page.ask(ink) != before


def test_one_epoch_is_seen_at_a_time(page):
    """Playing goes through the epochs in order; a button holds one of them."""
    page.show(1280, motion="no-preference")
    length = page.ask("document.getAnimations()[0].effect.getComputedTiming().duration") / 1000
    seen = []
    for at in np.linspace(0, length * 0.99, 40):
        page.ask(f"document.getAnimations().forEach(a => {{a.pause(); a.currentTime = "
                 f"{1000 * (length + at)}}})")  # fmt: skip
        shown = [i for i, v in enumerate(page.ask(SEEN)) if v == "visible"]
        assert len(shown) == 1
        seen += shown
    assert sorted(set(seen)) == list(range(5))
    assert seen == sorted(seen)
    page.ask("document.querySelectorAll('.motion label')[2].click()")
    assert page.ask(SEEN) == ["hidden", "visible", "hidden", "hidden", "hidden"]
    assert page.ask("document.getAnimations().length") == 0


@pytest.mark.parametrize("how", [{"motion": "reduce"}, {"media": "print"}])
def test_where_nothing_may_move_the_last_epoch_is_seen(page, how):
    """Readers who asked for less motion, and paper; there is no button to play it either."""
    page.show(1280, **how)
    assert page.ask(SEEN) == ["hidden"] * 4 + ["visible"]
    assert page.ask("document.getAnimations().length") == 0
    assert page.ask("getComputedStyle(document.querySelector('.motion label')).display") == "none"


def test_the_page_prints(page):
    """A PDF with text, from black on white."""
    page.show(1280, scheme="dark")
    paper = page.paper()
    assert paper.startswith(b"%PDF")
    assert paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page ") >= 2
    page.show(1280, media="print", scheme="dark")
    assert page.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_the_animation_is_a_file_of_its_own(browser, tmp_path, fitted, moved):
    """The SVG beside the page moves alone; the PNG holds every epoch."""
    section = dataclasses.replace(fitted, path=moved(frames=4, labels=True))
    build(tmp_path, [section])
    browser.show(600, motion="no-preference")
    browser.open(tmp_path / "fit-motion.svg")
    assert browser.ask("document.getAnimations().length") == 4
    assert browser.ask(SEEN).count("visible") == 1
    with Image.open(tmp_path / "fit-motion.png") as picture:
        assert picture.n_frames >= 4
