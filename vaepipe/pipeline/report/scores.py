"""Figures of evaluations: evidence of each example, rate of each dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vaepipe.pipeline.report import style, words
from vaepipe.pipeline.report.section import Table
from vaepipe.pipeline.report.tables import Columns, has_values, numbers

BINS = (12, 60)
"""Fewest and most bars of a histogram."""
WORST = 16
"""Examples of lowest evidence that are shown."""
COLUMNS = {
    "elbo": "ELBO",
    "rate": "rate",
    "log_lik": "log p(x|z)",
    "ess": "effective samples",
    "khat": "Pareto k̂",
}
"""What is told of an example beside its evidence."""


def histogram(columns: Columns, name: str = "log_evidence") -> Figure | None:
    """How a per-example quantity is distributed, for each split; None if nothing is finite."""
    values = numbers(columns, name)
    if not has_values(values):
        return None
    low = style.low_limit(values, spread=6.0)
    high = float(np.nanmax(values))
    bins = int(np.clip(np.sqrt(np.isfinite(values).sum()), *BINS))
    edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
    made = style.figure(2.7)
    ax = style.axes(made, grid="y")
    for number, (split, part) in enumerate(_by_split(columns, values).items()):
        _split_bars(ax, split, part, edges, style.CLASSES[number % len(style.CLASSES)])
    ax.set_xlim(*edges[[0, -1]])
    ax.set_xlabel("log evidence of an example (nats)")
    ax.set_ylabel("examples")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.legend(loc="upper left")
    return made


def below(columns: Columns, name: str = "log_evidence") -> int:
    """How many examples lie left of the histogram's axis."""
    values = numbers(columns, name)
    return int((values < style.low_limit(values, spread=6.0)).sum()) if has_values(values) else 0


def lowest(columns: Columns) -> tuple[str, list[int]]:
    """A split that the model was not fitted to, where there is one, and its worst rows, in order.

    Example:
        >>> lowest({"split": ["a", "a", "test", "test"], "log_evidence": [-9.0, -1.0, -2.0, -3.0]})
        ('test', [3, 2])
    """
    values = numbers(columns, "log_evidence")
    splits = np.array([str(s) for s in columns.get("split", ["examples"] * len(values))])
    known = set(splits.tolist())
    split = next((s for s in ("test", "val") if s in known), min(known, default=""))
    rows = np.flatnonzero((splits == split) & np.isfinite(values))
    return split, rows[np.argsort(values[rows], kind="stable")][:WORST].tolist()


def worst(columns: Columns) -> Table | None:
    """The numbers of the worst examples; None where no evidence is finite."""
    split, rows = lowest(columns)
    if not rows:
        return None
    few = {name: [values[i] for i in rows] for name, values in columns.items()}
    values, errors = numbers(few, "log_evidence"), numbers(few, "log_evidence_se")
    texts = {"id": list(map(words.plain, few.get("id", rows)))}
    if any(label is not None for label in few.get("label", ())):
        texts["label"] = list(map(words.plain, few["label"]))
    texts["log evidence ± s.e."] = [
        words.measured(float(v), float(e)) for v, e in zip(values, errors, strict=True)
    ]
    for name, text in COLUMNS.items():
        if has_values(numbers(few, name)):
            texts[text] = [words.number(_known(v)) for v in numbers(few, name)]
    title = f"Numbers of the worst examples of {split}"
    body = list(zip(*texts.values(), strict=True))
    return Table(
        title, list(texts), body, "Lowest log evidence first. Densities and rates in nats."
    )


def rates(columns: Columns) -> Figure | None:
    """Each latent dimension's mean rate, largest first; None if nothing is known.

    Where the rate does not split into dimensions, the variance of their posterior means.
    """
    name = "rate" if has_values(numbers(columns, "rate")) else "variance_of_means"
    values = numbers(columns, name)
    if not has_values(values):
        return None
    active = np.array([bool(a) for a in columns.get("active", [False] * len(values))])
    order = np.argsort(-np.nan_to_num(values, nan=-1.0), kind="stable")
    made = style.figure(2.5)
    ax = style.axes(made, grid="y")
    places = np.arange(len(values))
    for chosen, colour, label in (
        (active[order], style.ACCENT, f"active ({active.sum()})"),
        (~active[order], style.MUTED, f"not active ({(~active).sum()})"),
    ):
        if chosen.any():
            ax.bar(places[chosen], values[order][chosen], color=colour, width=0.8, label=label)
    ax.set_xlabel("latent dimension, sorted")
    ax.set_ylabel("rate (nats)" if name == "rate" else "variance of posterior means")
    ax.set_xticks(places if len(values) <= 32 else [], _dimensions(columns, order, len(values)))
    ax.tick_params(axis="x", labelsize=min(8.5, 230 / max(1, len(values))))
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return made


def summary(columns: Columns) -> Sequence[Sequence[str]]:
    """Rows of `summary.parquet` as text: metric, split, value, unit, examples, estimator."""
    count = len(columns.get("metric", []))
    rows = [{name: values[i] for name, values in columns.items()} for i in range(count)]
    return [
        [
            words.plain(row["metric"]) + _arrow(row.get("direction")),
            words.plain(row.get("split") or words.MISSING),
            words.measured(row.get("value"), row.get("se"), _digits(row.get("unit"))),
            words.plain(row.get("unit") or ""),
            words.number(row.get("n")),
            words.plain(_estimator(row), 160),
        ]
        for row in rows
    ]


def _split_bars(ax: Axes, split: str, values: np.ndarray, edges: np.ndarray, colour: str) -> None:
    known = values[np.isfinite(values)]
    if not len(known):
        return
    label = f"{words.plain(split, 24)}: mean {words.number(float(known.mean()))}"
    ax.hist(known, bins=list(edges), color=colour, alpha=0.55, label=label)
    ax.axvline(known.mean(), color=colour, lw=1.4)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _by_split(columns: Columns, values: np.ndarray) -> Mapping[str, np.ndarray]:
    splits = np.array([str(s) for s in columns.get("split", ["examples"] * len(values))])
    return {name: values[splits == name] for name in dict.fromkeys(splits.tolist())}


def _dimensions(columns: Columns, order: np.ndarray, count: int) -> list[str]:
    names = columns.get("dim", list(range(count)))
    return [str(names[i]) for i in order] if count <= 32 else []


def _arrow(direction: object) -> str:
    return {"max": " ↑", "higher": " ↑", "min": " ↓", "lower": " ↓"}.get(str(direction), "")


def _digits(unit: object) -> int:
    return 0 if unit in ("count", "units", "dimensions") else 3 if unit == "bits/dim" else 2


def _estimator(row: Mapping[str, object]) -> str:
    name, k = row.get("estimator") or "", row.get("k")
    return f"{name} (k = {k})" if k else str(name)
