"""What the figures of a report say is what the tables say."""

import dataclasses
import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.container import BarContainer
from PIL import Image

from vaepipe import registry
from vaepipe.core import build as build_model
from vaepipe.pipeline.report import (
    Sample,
    Worst,
    bounds,
    build,
    curves,
    faces,
    line,
    motion,
    movement,
    sheets,
    style,
    tradeoff,
)
from vaepipe.pipeline.report.chapters import chapter
from vaepipe.pipeline.report.fitted import chapter as fitted_chapter
from vaepipe.pipeline.report.section import Motion, Plot


def trials(points: list[tuple[float, float]], settings: list[dict]) -> list[curves.Trial]:
    return [
        curves.Trial(i, "done", "", {k: json.dumps(v) for k, v in s.items()},
                     {"val/log_lik": -d, "val/rate": r}, 3, 1.0)
        for i, ((d, r), s) in enumerate(zip(points, settings, strict=True))
    ]  # fmt: skip


def test_lines_of_equal_elbo_have_slope_minus_one():
    """On each dotted line distortion plus rate is the bound that it is named by, sign reversed."""
    rows = trials([(80.0, 25.0), (90.0, 12.0), (120.0, 3.0)], [{"b": b} for b in (0.1, 1.0, 4.0)])
    ax = tradeoff.plane(rows, best=1).axes[0]
    lines = [line.get_xydata() for line in ax.lines if line.get_linestyle() == ":"]
    sums = {round(float(p.sum()), 6) for line in lines for p in line}
    assert len(lines) == len(sums) >= 4
    named = {-float(t.get_text().replace("−", "-").removeprefix("ELBO "))
             for t in ax.texts if t.get_text().startswith("ELBO")}  # fmt: skip
    assert named
    assert named <= sums


def test_models_of_one_number_are_joined_in_its_order():
    """A sweep of beta is a curve, whatever the order of the trials; others are points."""
    points = [(90.0, 12.0), (120.0, 3.0), (80.0, 25.0)]
    joined = tradeoff.plane(trials(points, [{"o.beta": b} for b in (1.0, 4.0, 0.1)]), best=0)
    (path,) = [line for line in joined.axes[0].lines if line.get_linestyle() == "-"]
    np.testing.assert_array_equal(path.get_xdata(), [80.0, 90.0, 120.0])
    assert {"beta 1", "beta 4", "beta 0.1"} <= {t.get_text() for t in joined.axes[0].texts}
    mixed = tradeoff.plane(trials(points, [{"prior": {"type": t}} for t in "abc"]), best=0)
    assert not [line for line in mixed.axes[0].lines if line.get_linestyle() == "-"]


def test_a_plane_needs_two_trials_with_both_numbers():
    """NaN and infinity are no points."""
    assert tradeoff.plane(trials([(1.0, 2.0)], [{}]), None) is None
    assert tradeoff.plane(trials([(1.0, 2.0), (np.nan, 2.0), (1.0, np.inf)], [{}] * 3), 0) is None
    assert tradeoff.plane([], None) is None


def test_epochs_that_were_not_validated_do_not_interrupt_a_line():
    """Validated every second epoch: a line through those, with its band."""
    rows = {"epoch": [1, 2, 3, 4], "train/bound": [-9.0, -8.0, -7.0, -6.0]}
    rows |= {name: [None, -7.0, None, -5.0] for name in ("val/log_evidence", "val/elbo")}
    rows |= {"val/log_evidence_se": [None, 0.5, None, 0.5], "val/rate": [None, 1.0, None, 2.0]}
    upper, lower = curves.history(rows).axes
    for curve in (upper.lines[0], upper.lines[1], lower.lines[0]):
        assert curve.get_xdata().tolist() == [2, 4]
    assert len(upper.lines[2].get_xdata()) == 4
    assert np.isfinite(upper.collections[0].get_paths()[0].vertices).all()


def test_the_curve_over_k_is_the_table(tmp_path):
    """Each split's points in the order of k, with its standard errors."""
    rows = {"split": ["test"] * 3 + ["val"], "k": [50, 1, 5, 1], "n": [9] * 4,
            "log_evidence": [-88.0, -93.0, -90.0, -95.0], "se": [0.5, 0.7, 0.6, None]}  # fmt: skip
    ax = bounds.k_curve(rows).axes[0]
    first = ax.containers[0].lines[0]
    np.testing.assert_array_equal(first.get_xdata(), [1, 5, 50])
    np.testing.assert_array_equal(first.get_ydata(), [-93.0, -90.0, -88.0])
    spans = [np.ptp(s[:, 1]) for s in ax.containers[0].lines[2][0].get_segments()]
    np.testing.assert_allclose(spans, [1.4, 1.2, 1.0])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["test", "val"]
    assert bounds.k_curve({}) is None


def simulated(**values) -> dict:
    names = list(values)
    return {"metric": names, "split": ["simulated"] * len(names),
            "value": list(values.values()), "se": [0.1] * len(names)}  # fmt: skip


def test_the_sandwich_compares_bounds_on_the_same_examples():
    """The examples that were annealed; the last of the curve is the evidence, shown once."""
    rows = {"elbo": [-93.0, -95.0, -10.0], "log_evidence": [-88.0, -90.0, -9.0],
            "log_evidence_k5": [-90.0, -92.0, -9.5], "log_evidence_k50": [-88.0, -90.0, -9.0],
            "log_evidence_ais": [-87.0, -89.5, None]}  # fmt: skip
    both = simulated(rate=3.0, bdmc_upper=-79.5, bdmc_lower=-80.0, bdmc_gap=0.5,
                     bdmc_log_evidence=-79.75)  # fmt: skip
    data, two = bounds.sandwich(both, rows).axes
    labels = [t.get_text() for t in data.get_yticklabels()]
    assert labels == ["elbo", "log_evidence_k5", "log_evidence", "log_evidence_ais"]
    means = [c.lines[0].get_xdata()[0] for c in data.containers]
    assert means == [-5.75, -2.75, -0.75, 0.0]
    spans = [np.ptp(s) for c in data.containers for s in c.lines[2][0].get_segments()[0].T[:1]]
    np.testing.assert_allclose(spans, [0.5, 0.5, 0.5, 0.0], atol=1e-12)
    assert "2 examples" in data.get_xlabel()
    labels = [t.get_text() for t in two.get_yticklabels()]
    assert labels == ["bdmc_lower", "bdmc_log_evidence", "bdmc_upper"]
    assert [c.lines[0].get_xdata()[0] for c in two.containers] == [0.0, 0.25, 0.5]
    (between,) = two.patches
    box = between.get_extents().transformed(two.transData.inverted())
    np.testing.assert_allclose([box.x0, box.x1], [0.0, 0.5], atol=1e-9)


def test_a_sandwich_needs_two_sides_or_annealing():
    """One side of it, or importance sampling alone, is no sandwich."""
    rows = {"elbo": [-93.0], "log_evidence": [-88.0]}
    assert bounds.sandwich(simulated(bdmc_lower=-80.0), rows) is None
    assert bounds.sandwich({}, {}) is None
    assert len(bounds.sandwich({}, {**rows, "log_evidence_ais": [-87.0]}).axes) == 1
    assert len(bounds.sandwich(simulated(bdmc_lower=-80.0, bdmc_gap=1.0), rows).axes) == 1


def test_the_gaps_of_a_split_stand_side_by_side():
    """Both from zero, so that a negative one hides nothing; unmeasured rows do not count."""
    rows = {"id": [0, 1, 2], "split": ["test"] * 3,
            "amort_gap": [1.0, 3.0, None], "approx_gap": [-0.5, -1.5, None]}  # fmt: skip
    ax = bounds.gaps(rows).axes[0]
    first, second = ax.patches
    assert [first.get_width(), second.get_width()] == [2.0, -1.0]
    assert first.get_x() == second.get_x() == 0
    assert first.get_y() + first.get_height() <= second.get_y()
    bars = [c.errorbar for c in ax.containers if isinstance(c, BarContainer)]
    spans = [np.ptp(bar.lines[2][0].get_segments()[0][:, 0]) for bar in bars]
    np.testing.assert_allclose(spans, [2.0, 1.0])
    assert bounds.gaps({"id": [0], "amort_gap": [1.0]}) is None


def test_heavy_tails_are_counted():
    khat = [0.2, 0.65, 0.71, float("nan"), float("inf"), None]
    assert [bounds.tails({"khat": khat}, limit) for limit in (0.7, 0.63)] == ["2 of 4", "3 of 4"]
    assert bounds.tails({"khat": [None]}, 0.7) is None
    assert bounds.tails({}, 0.7) is None


def test_the_samples_behind_the_evidence_are_known_from_the_summary():
    summary = {"metric": ["elbo", "log_evidence"], "k": [100.0, 500.0]}
    assert bounds.samples(summary) == 500
    assert bounds.samples({"metric": ["log_evidence"]}) == np.inf


def test_an_evaluation_shows_its_worst_examples(evaluation, fitted):
    """Example over reconstruction, lowest first, each under its evidence."""
    data = Sample(fitted.data.x[:3], fitted.data.ids[:3])
    found = Worst("test", data, [-300.0, -200.0, -100.0], fitted.model)
    blocks = chapter(dataclasses.replace(evaluation([-1.0, -2.0]), worst=found))
    plot = next(b for b in blocks if isinstance(b, Plot) and b.key == "worst")
    assert [ax.get_title() for ax in plot.figure.axes] == ["−300.0", "−200.0", "−100.0"]
    for place, ax in enumerate(plot.figure.axes):
        shown = np.asarray(ax.images[0].get_array())[:32, ::4, 0][::4]
        seen = fitted.model.dataset.build().frozen(torch.tensor(data.x), torch.tensor(data.ids))
        np.testing.assert_array_equal(shown, seen[place, 0].numpy())


def test_a_traversal_moves_one_dimension_across_the_prior(fitted):
    """The others stay; the ends are three standard deviations of the prior from its mean."""
    z = torch.randn(4096, 2, generator=torch.Generator().manual_seed(0)) * 2 + 1
    line = faces._line(torch.tensor([[5.0, 7.0]]), z, 1)
    assert (line[:, 0] == 5).all()
    column = z[:, 1]
    expected = column.mean() + 3 * column.std() * torch.tensor([-1.0, 1.0])
    assert torch.allclose(line[[0, -1], 1], expected)
    drawn = faces.traversals(fitted.model, fitted.data)
    assert sorted(t.get_text() for t in drawn.axes[0].get_yticklabels()) == ["z₀", "z₁"]


@pytest.mark.parametrize(
    ("family", "prior", "latent", "keys"),
    [
        ("bernoulli", "bernoulli", [2], {"posterior"}),
        ("categorical", "categorical", [3, 2], {"posterior"}),
        ("concrete", "concrete", [3, 2], {"posterior"}),
        ("mixture", "vamp", [3], {"posterior", "traversals"}),
        ("hierarchical", "hierarchical", [2], {"posterior", "traversals", "plane"}),
        ("diagonal_normal", "standard_normal", [1], {"posterior", "line"}),
        ("bernoulli", "bernoulli", [1], {"posterior"}),
    ],
)
def test_what_is_shown_of_a_latent_depends_on_what_it_is(fitted, family, prior, latent, keys):
    """No square, and no way between two points, where there is none: of bits, of codes."""
    part, old = registry.part, fitted.model.card
    parts = {
        "encoder": part("networks", "mlp", {"hidden": [8]}),
        "family": part("families", family),
        "prior": part("priors", prior),
        "decoder": part("networks", "mlp", {"hidden": [8]}),
        "likelihood": part("likelihoods", "bernoulli"),
    }
    model = build_model(tuple(latent), fitted.model.data, **parts).eval()
    card = {**old, "model": {**old["model"], "latent_shape": latent}}
    shown = dataclasses.replace(fitted.model, model=model, card=card)
    blocks = fitted_chapter(dataclasses.replace(fitted, model=shown))
    assert {b.key for b in blocks if isinstance(b, Plot)} == {"samples", "reconstructions", *keys}


def test_the_grid_of_the_prior_is_of_means_and_the_same_bytes_each_time(fitted):
    """Every value is a probability, no bit; corners are exactly 3 away in each direction."""
    points = sheets.plane_points(fitted.model, sheets.GRID_SIDE)
    assert points.abs().max() == 3
    assert {tuple(p) for p in points[[0, 14, -15, -1]].tolist()} == {
        (x, y) for x in (-3.0, 3.0) for y in (-3.0, 3.0)
    }
    with torch.no_grad():
        means = sheets.mean(fitted.model.model.generator(points))
    assert ((means > 0) & (means < 1)).all()
    with style.look():
        once, again = (style.draw(sheets.latent_plane(fitted.model)) for _ in range(2))
    assert once == again


@pytest.mark.parametrize("d", [2, 5])
def test_a_movement_ends_where_the_last_epoch_is(moved, d):
    """All epochs are seen in one plane, chosen by the last; a drift stays a drift in it."""
    found = movement.read(moved(frames=4, d=d))
    assert list(found.epochs) == [1, 2, 3, 4]
    steps = np.diff(found.points, axis=0)
    np.testing.assert_allclose(steps[0], steps[2], atol=1e-6)
    assert ("principal" in found.caption) == (d > 2)


def test_what_cannot_move_is_left_out(tmp_path, moved):
    """No snapshots, or one of them."""
    assert movement.read(tmp_path) is None
    assert movement.read(moved(frames=1)) is None


def test_one_dimension_is_a_histogram_for_each_class():
    """Every finite mean is counted once, in its class; means without a class stand in one."""
    z = np.array([-2.0, -1.0, -1.0, 0.5, 1.0, np.nan, 2.0, 2.0])
    ax = line.histograms(z, ["b", "a", "a", "a", "b", "b", None, "b"]).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["–", "a", "b"]
    rows = [patch.get_data() for patch in ax.patches]
    assert all(np.array_equal(row.edges, rows[0].edges) for row in rows)
    for row, values in zip(rows, ([2.0], [-1.0, -1.0, 0.5], [-2.0, 1.0, 2.0]), strict=True):
        counts = np.histogram(values, row.edges)[0]
        np.testing.assert_allclose(row.values - row.baseline, line.TALL * counts / counts.max())
    (whole,) = line.histograms(z, None).axes[0].patches
    assert whole.get_data().values.sum() == 7


@pytest.mark.parametrize("z", [[], [1.0], [np.nan, 1.0, np.inf]])
def test_one_mean_is_no_distribution(z):
    assert line.histograms(np.array(z), None) is None


def test_a_collapsed_dimension_is_still_drawn(codes):
    """All means are the same: one bar, in the classes too."""
    for labels in (None, ["a", "b"] * 10):
        (plot,) = [b for b in chapter(codes(np.zeros((20, 1)), labels)) if isinstance(b, Plot)]
        assert plot.key == "posterior"
        with style.look():
            assert style.draw(plot.figure).png


def test_one_dimension_moves_along_its_line(moved):
    """A class keeps its row; what moves is the posterior mean."""
    found = movement.read(moved(frames=4, d=1, labels=True))
    assert list(found.rows) == ["0", "1", "2"]
    means = [
        pq.read_table(p).to_pydict()["mean"] for p in sorted(moved(4, True, 1).glob("snapshots/*"))
    ]
    np.testing.assert_allclose(found.points[:, :, 0], np.squeeze(means, 2))
    assert (found.points[:, :, 1] == found.points[0, :, 1]).all()
    np.testing.assert_array_equal(found.points[0, :, 1].round(), np.arange(40) % 3)
    assert len(list(movement.pictures(found))) == 4
    assert movement.read(moved(frames=4, d=1)).rows == [""]


def test_a_line_of_pictures_ends_at_three(fitted):
    """Means at even steps from -3 to 3, left to right."""
    part = registry.part
    parts = {**fitted.model.parts, "encoder": part("networks", "mlp", {"hidden": [8]})}
    model = build_model((1,), fitted.model.data, **parts).eval()
    card = {**fitted.model.card, "model": {**fitted.model.card["model"], "latent_shape": [1]}}
    made = sheets.latent_line(dataclasses.replace(fitted.model, model=model, card=card), steps=7)
    shown = np.asarray(made.axes[0].images[0].get_array())[:32, :, 0]
    assert shown.shape[1] == 7 * 34 - 2
    with torch.no_grad():
        means = model.generator(torch.linspace(-3, 3, 7)[:, None]).mean[:, 0].numpy()
    for place in range(7):
        np.testing.assert_allclose(shown[::4, 34 * place : 34 * place + 32 : 4], means[place])
    marks = made.axes[0].get_xticks()
    np.testing.assert_allclose(marks, [15.5, 3 * 34 + 15.5, 6 * 34 + 15.5])


def test_snapshots_of_other_rows_are_not_mixed_in(moved):
    """Only epochs whose rows are those of the last one are shown."""
    folder = moved(frames=3)
    other = pq.read_table(folder / "snapshots" / "epoch-00002.parquet").to_pydict()
    pq.write_table(pa.table({**other, "id": other["id"][::-1]}),
                   folder / "snapshots" / "epoch-00002.parquet")  # fmt: skip
    assert list(movement.read(folder).epochs) == [1, 3]


def test_a_fit_with_snapshots_has_an_animation(fitted, moved, tmp_path):
    """In the page, as an SVG and as a PNG of every epoch; the same bytes each time."""
    section = dataclasses.replace(fitted, path=moved(frames=4, labels=True))
    blocks = chapter(section)
    assert [b.key for b in blocks if isinstance(b, Motion)] == ["motion"]
    build(tmp_path, [section])
    again = movement.read(section.path)
    with style.look():
        assert (tmp_path / "fit-motion.svg").read_bytes() == motion.svg(again)
        assert (tmp_path / "fit-motion.png").read_bytes() == motion.png(again)
    page = (tmp_path / "report.html").read_text()
    assert page.count('class="frame ') == 4
    assert page.count('type="radio"') == 5


def test_the_animated_picture_shows_the_last_epoch_where_it_stands_still(moved):
    """The still picture of the PNG is its last frame."""
    picture = Image.open(io.BytesIO(motion.png(movement.read(moved(frames=3)))))
    still = np.asarray(picture.convert("RGB"))
    picture.seek(picture.n_frames - 1)
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), still)


def test_hostile_classes_do_not_leave_the_animation(moved):
    """Names of classes are text in the SVG, wherever they point."""
    found = dataclasses.replace(movement.read(moved(frames=2)), labels=["<b>&'\"</b>", "a"] * 20)
    text = motion.svg(found).decode()
    assert "<b>" not in text
    assert "&lt;b&gt;&amp;" in text
    assert not re.search(r"<text[^>]*></text>", text)
