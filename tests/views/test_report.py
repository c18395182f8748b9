"""The report shows what the artifacts say, needs nothing else, and trusts no name."""

import dataclasses
import importlib.metadata
import math
import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
import torch
from html_page import HOSTILE, Page

from vaepipe.pipeline.report import Section, build, curves, scatter, sheets, tables
from vaepipe.pipeline.report.chapters import chapter
from vaepipe.pipeline.report.section import Plot


@pytest.fixture
def page(tmp_path):
    """Builds a report of sections and reads it back."""
    folder = tmp_path / "run" / "page"
    folder.mkdir(parents=True)

    def make(*sections: Section) -> Page:
        return Page(build(folder, sections).read_text(encoding="utf-8"))

    make.folder = folder
    return make


def trial_rows(number, value, **more):
    row = {"trial": number, "status": "done", "error": "", "val/log_evidence": value}
    return row | {"val/log_evidence_se": 0.25, "epochs": 3, "seconds": 1.5} | more


def test_the_page_needs_no_network_and_no_script(page, fitted, sweep, evaluation, codes):
    """Every reference is an anchor of the page, a data URI or a figure that lies beside it."""
    shown = page(fitted, sweep([trial_rows(0, -3.0)]), evaluation([-1.0, -2.0]),
                 codes(np.random.default_rng(0).normal(size=(40, 5))))  # fmt: skip
    ids = shown.values("id")
    for reference in shown.values("href", "src", "xlink:href", "action", "data"):
        if reference.startswith("#"):
            assert reference[1:] in ids
        elif not reference.startswith("data:image/png;base64,"):
            assert (page.folder / reference).is_file()
    style = next(
        a
        for t, a in shown.elements
        if t == "meta" and "content" in a and "default-src" in a["content"]
    )
    assert "default-src 'none'" in style["content"]
    assert not shown.tags & {"script", "link", "iframe", "object", "embed", "form"}
    assert not re.search(r"@import|url\((?!#)", (page.folder / "report.html").read_text())


def test_every_id_of_the_page_is_its_own(page, fitted, sweep):
    """Drawings keep their clip paths and glyphs apart."""
    shown = page(fitted, sweep([trial_rows(0, -3.0)]), sweep([trial_rows(0, -4.0)], name="fit"))
    ids = shown.values("id")
    assert len(ids) == len(set(ids))
    used = re.findall(r"url\(#([^)]+)\)", (page.folder / "report.html").read_text())
    assert used
    assert set(used) <= set(ids)


def test_hostile_names_stay_text(page, sweep, evaluation, codes):
    """Stage names, settings, errors, labels and digests are shown and never obeyed."""
    rows = [
        trial_rows(0, -3.0, **{"setting.model.prior": '{"type": "<b>$\\\\frac{"}'}),
        trial_rows(1, None, status="failed", error=HOSTILE),
    ]
    data = {
        "dataset": {"type": HOSTILE, "options": {}},
        "digest": HOSTILE,
        "view": {HOSTILE: HOSTILE},
    }
    shown = page(
        sweep(rows, name=HOSTILE),
        evaluation([-1.0], name="--></style>" + HOSTILE, split=HOSTILE),
        codes(np.random.default_rng(0).normal(size=(20, 2)), [HOSTILE, "b"] * 10),
        Section("data", HOSTILE, page.folder, data),
        Section("register", "r", page.folder, {"name": HOSTILE, "alias": HOSTILE}),
    )
    assert "script" not in shown.tags
    assert "<script>alert('$x$')</script>" in shown.text
    assert "\x1b" not in shown.text
    assert "\u202e" not in shown.text
    for figure in page.folder.glob("*.svg"):
        assert "script" not in {e.tag.rpartition("}")[2] for e in ET.parse(figure).iter()}


def test_figures_lie_beside_the_page_as_png_and_svg(page, fitted, evaluation):
    """Each drawing of the page is a PNG and a well-formed SVG of the same name."""
    shown = page(fitted, evaluation([-1.0, -2.0, -9.0]))
    names = {path.stem for path in page.folder.glob("*.svg")}
    assert names == {path.stem for path in page.folder.glob("*.png")}
    assert {
        "fit-curves",
        "fit-samples",
        "fit-reconstructions",
        "fit-plane",
        "fit-posterior",
    } < names
    assert sum(tag == "svg" for tag, _ in shown.elements) == len(names)
    for path in page.folder.glob("*.svg"):
        assert ET.parse(path).getroot().tag.endswith("svg")
        assert (path.with_suffix(".png")).read_bytes().startswith(b"\x89PNG")


def test_the_same_artifacts_make_the_same_bytes(page, fitted, sweep):
    """Nothing in page or figures is random or dated."""
    sections = (fitted, sweep([trial_rows(0, -3.0), trial_rows(1, -2.0)]))
    page(*sections)
    before = {path.name: path.read_bytes() for path in page.folder.iterdir()}
    page(*sections)
    assert {path.name: path.read_bytes() for path in page.folder.iterdir()} == before


def test_a_leaderboard_says_which_trials_are_as_good_as_the_best(page, sweep):
    """By the paired difference, whatever the bars of the metric say, and after a second look."""
    none = {"difference_to_best": None, "difference_se": None, "final/log_evidence": None}
    off = [(-0.1, 0.06), (None, None), (-2.5, 0.3)]
    rows = [
        trial_rows(
            i, v, **{**none, "difference_to_best": value, "difference_se": se, "setting.a": str(i)}
        )
        for i, (v, (value, se)) in enumerate(zip((-3.0, -3.1, -9.0), off, strict=True))
    ]
    rows[0]["final/log_evidence"], rows[1]["final/log_evidence"] = -2.2, -2.1
    final = {"metric": "final/log_evidence", "k": 500, "value": -2.1, "se": 0.4}
    best = {"trial": 1, "metric": "val/log_evidence", "value": -3.1, "final": final, "ties": [0]}
    shown = page(sweep(rows, best=best))
    assert "A tie: 0 may be as good as trial 1" in shown.text
    assert "scored again with 500 samples per row" in shown.text
    assert "−0.10 ± 0.06 (tie)" in shown.text and "−2.50 ± 0.30 (tie)" not in shown.text
    assert "A bar that crosses 0 is a tie." in shown.text
    assert "final/log_evidence" in shown.text and "500 samples" in shown.text
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    board = curves.leaderboard(curves.trials(columns), "val/log_evidence", "max")
    (bars,) = board.axes
    assert bars.get_xlabel() == "difference to the best, val/log_evidence (nats)"
    names = [t.get_text()[0] for t in bars.texts[::2]]
    assert names == ["1", "0", "2"]
    spans = [c.get_segments()[0][:, 0] for c in bars.collections]
    crossing = [bool(low <= 0 <= high) for low, high in spans]
    assert crossing == [True, True, False]


def test_building_a_report_leaves_the_random_generator_alone(page, fitted):
    """Pictures of a model draw from their own seed."""
    state = torch.get_rng_state()
    page(fitted)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("metric", "first"), [("val/log_evidence", "2"), ("val/rate", "1")])
def test_the_best_trial_comes_first(sweep, metric, first):
    """The direction is the metric's: evidence is better when higher, a rate when lower."""
    rows = [
        trial_rows(i, v, **{"val/rate": r})
        for i, v, r in ((0, -5.0, 3.0), (1, None, 1.0), (2, -4.0, 2.0), (3, math.nan, 4.0))
    ]
    blocks = chapter(sweep(rows, best={"trial": int(first), "metric": metric}))
    assert blocks[-1].title == "All trials"
    assert blocks[-1].rows[0][0] == first


def test_repeated_seeds_are_told_as_their_mean(page, sweep):
    """The headline is the mean with its error, not the luckiest seed; in the metric's unit."""
    best = {"trial": 1, "metric": "val/active_units", "value": 9.0}
    best |= {"mean": 7.0, "mean_se": 1.0, "repeats": 3}
    rows = [trial_rows(i, -3.0, **{"val/active_units": u}) for i, u in enumerate((5.0, 9.0, 7.0))]
    text = page(sweep(rows, best=best)).text
    assert "7.00 ± 1.00 dimensions" in text and "mean of 3 seeds" in text
    assert "val/active_units: latent dimensions whose mean varies over examples" in text


def test_a_diagnosis_is_on_the_page(page, evaluation):
    """Word by word."""
    section = evaluation([-1.0, -2.0])
    section = dataclasses.replace(section, manifest={"diagnosis": ["test: 1 of 3 is not in use"]})
    assert "Warning: test: 1 of 3 is not in use" in page(section).text


def test_trials_without_a_number_are_listed_and_not_drawn(page, sweep):
    """NaN, infinity and failures: a row in the table, a note instead of a figure."""
    rows = [
        trial_rows(0, math.nan),
        trial_rows(1, -math.inf),
        trial_rows(2, None, status="failed", error="TrainingError: rate is not finite"),
    ]
    shown = page(sweep(rows))
    assert "No trial has a finite val/log_evidence." in shown.text
    assert "NaN" in shown.text
    assert "−∞" in shown.text
    assert "TrainingError: rate is not finite" in shown.text
    assert not list(page.folder.glob("*leaderboard*"))


def test_what_a_cut_off_run_leaves_out_is_left_out(page, tmp_path):
    """A page can be made of artifacts that lack every table."""
    sections = [
        Section(kind, kind, tmp_path, {})
        for kind in ("data", "train", "sweep", "evaluate", "encode", "register")
    ]
    shown = page(*sections)
    assert "This sweep has no trials." in shown.text
    assert "No epoch reported a finite number." in shown.text
    assert "This evaluation has no summary." in shown.text


def test_a_report_of_nothing_is_a_page(page):
    """No sections: what ran, and no figure."""
    assert "what ran" in page().text


def test_an_evaluation_shows_its_summary_and_where_it_comes_from(page, evaluation):
    """Value with standard error, number of examples, estimator and k; also at the top."""
    text = page(evaluation([-90.0, -94.0, -98.0, -94.0])).text
    assert "−94.00 ± 1.41" in text
    assert "importance sampling (k = 1000)" in text
    assert text.index("−94.00 ± 1.41 nats") < text.index("Summary")


def test_the_page_says_what_ran(page, fitted):
    """Components with their packages and versions, settings, digests, the machine."""
    section = dataclasses.replace(
        fitted, manifest={**fitted.manifest, "fingerprint": "f" * 64, "data_digest": "d" * 64}
    )
    text = page(section).text
    version = importlib.metadata.version("vaepipe")
    assert f"diagonal_normalvaepipe {version}" in text
    assert "mlp(hidden=[16]" in text
    assert "epochs: 3" in text
    assert "f" * 16 in text
    assert "d" * 16 in text
    assert torch.__version__ in text


def test_few_very_low_values_do_not_flatten_the_histogram(evaluation):
    """They are counted in words instead."""
    section = evaluation([-1e6, *np.linspace(-100, -80, 50)])
    plot = next(b for b in chapter(section) if isinstance(b, Plot) and b.key == "evidence")
    assert plot.figure.axes[0].get_xlim()[0] > -300
    assert plot.caption == "Not shown, left of the axis: 1."


def test_a_projection_to_a_plane_keeps_distances_of_planar_data():
    """PCA of points that lie in a plane is an isometry, and says that nothing is lost."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 2)) * [3.0, 1.0]
    lift = np.linalg.qr(rng.normal(size=(7, 2)))[0]
    flat = scatter.plane(points @ lift.T + 5.0)
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    shown = np.linalg.norm(flat.points[:, None] - flat.points[None], axis=-1)
    np.testing.assert_allclose(shown, distances, atol=1e-10)
    shares = [int(s) for s in re.findall(r"(\d+)%", "".join(flat.names))]
    assert sum(shares) == 100
    assert "principal components" in flat.caption


def test_a_two_dimensional_latent_is_shown_as_it_is():
    """No projection, not even a rotation; rows that are not finite are left out."""
    points = np.array([[1.0, 2.0], [np.nan, 0.0], [3.0, -4.0]])
    flat = scatter.plane(points)
    np.testing.assert_array_equal(flat.points, [[1.0, 2.0], [np.nan, np.nan], [3.0, -4.0]])


def test_a_line_has_no_plane():
    """One latent dimension, or fewer than two rows: no figure."""
    assert scatter.plane(np.zeros((5, 1))) is None
    assert scatter.plane(np.zeros((1, 3))) is None
    assert scatter.plane(np.zeros((0, 0))) is None


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, 9, 10], ["9", "10"]),
        (["b", None, "a", None], ["–", "a", "b"]),
        (list(range(20)), ["other", *sorted(map(str, range(20)))[:12]]),
    ],
)
def test_classes_are_in_their_natural_order(labels, classes):
    """Numbers by value; rows without a label and rare classes are named as such."""
    points = np.random.default_rng(0).normal(size=(len(labels), 2))
    made = scatter.scatter(scatter.plane(points), labels)
    drawn = [c.get_label() for c in made.axes[0].collections]
    assert drawn[0] == classes[0]
    assert sorted(drawn) == sorted(classes)
    numbers = [int(name) for name in drawn if name.isdecimal()]
    assert numbers == sorted(numbers)


def test_latents_of_many_files_are_sampled_evenly(codes):
    """Rows of the last file are there, whatever the order of the files."""
    means = np.arange(200.0).reshape(100, 2)
    values, labels = tables.latents(codes(means, list(range(100))).path, rows=10)
    np.testing.assert_array_equal(values[[0, -1]], means[[0, -1]])
    assert [means[i, 0] for i in labels] == values[:, 0].tolist()


def test_latents_without_labels_are_points_of_one_colour(codes):
    """The label column is optional."""
    blocks = chapter(codes(np.random.default_rng(1).normal(size=(30, 4))))
    plot = blocks[-1]
    assert plot.title == "Posterior"
    assert len(plot.figure.axes[0].collections) == 1


def test_the_latent_plane_ends_at_three(fitted):
    """Corners are exactly ±3: z₀ grows to the right, z₁ upwards."""
    points = sheets.plane_points(fitted.model, 5)
    corners = points[[0, 4, -5, -1]].tolist()
    assert corners == [[-3.0, 3.0], [3.0, 3.0], [-3.0, -3.0], [3.0, -3.0]]


def test_channels_may_come_first_or_last():
    """A colour image is the same picture in both layouts."""
    picture = torch.arange(24.0).reshape(1, 2, 4, 3)
    first = sheets.images(picture.permute(0, 3, 1, 2), (3, 2, 4))
    np.testing.assert_array_equal(first, sheets.images(picture, (2, 4, 3)))


def test_a_mosaic_shows_every_picture_once_and_whole():
    """Row by row, with gaps of no colour."""
    pictures = np.stack([np.full((32, 32, 1), float(i)) for i in range(5)])
    sheet = sheets.mosaic(pictures, 3, gap=1)
    assert sheet.shape == (65, 98, 1)
    assert [sheet[16, 16 + 33 * c, 0] for c in range(3)] == [0, 1, 2]
    assert [sheet[49, 16 + 33 * c, 0] for c in range(2)] == [3, 4]
    assert np.isnan(sheet[49, 82, 0])
    assert np.isnan(sheet[32]).all()


def test_building_a_report_changes_no_setting_of_matplotlib(page, evaluation):
    """The look of figures is set while they are made, and put back."""
    before = dict(matplotlib.rcParams)
    page(evaluation([-1.0, -2.0]))
    assert dict(matplotlib.rcParams) == before
