"""What an evaluation writes: a row for each example, dimension, number of samples, and metric."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vaepipe.core import DataSpec
from vaepipe.data import shards
from vaepipe.data.ids import repetitions
from vaepipe.evaluation import Diagnosis, collapse, diagnose
from vaepipe.evaluation.aggregate import bits_per_dimension
from vaepipe.evaluation.evidence import ELBO_DRAWS
from vaepipe.evaluation.tail import reliable_below
from vaepipe.evaluation.validation import ACTIVE
from vaepipe.pipeline.metrics import METRICS
from vaepipe.pipeline.stages import evaluate_examples
from vaepipe.pipeline.stages.evaluate_checks import Line, check, doubts, short_paths, splits
from vaepipe.pipeline.stages.evaluate_key import KINDS, ROLES, column, view_names

SIMULATED = "simulated"
"""The split of examples that the model made."""
CURVE = "k_curve.parquet"
ANNEALED = "annealed importance sampling"
PROPOSALS = {
    "posterior": "importance sampling, proposal q(z|x)",
    "defensive": "importance sampling, proposal .5 q(z|x) + .3 q widened + .2 p(z)",
    "refined": "importance sampling, proposal refined for each example, with prior",
}
MEANS = {
    "elbo": "log_lik - rate",
    "log_lik": "mean over posterior samples",
    "rate": "mean over posterior samples",
    "ess": "(sum w)^2 / sum w^2",
    "log_evidence_ais": f"{ANNEALED}, lower bound",
    "approx_gap": "log_evidence - ELBO of the best q of the family",
    "amort_gap": "ELBO of the best q of the family - ELBO of the encoder's",
}
"""Metrics that are the mean of a column of the table of examples, and how they were estimated."""
SAMPLED = ("ess", "approx_gap")
"""Those that depend on the samples of the evidence."""
MANY = 0.1
"""Share of examples with too heavy a tail above which the diagnosis says so."""
OWN = ("elbo", "log_lik", "rate")
"""Those of q(z | x) itself: from its own draws, where the evidence has another proposal."""


@dataclass(frozen=True, slots=True)
class Found:
    """All parts of an evaluation, in the order of its units.

    `rows` are the numbers of each example, `examples` the files that have its vectors too: these
    are many times as large and are read one after the other.
    """

    model: str
    ks: Sequence[int]
    seed: int
    data_digest: str
    view: Mapping[str, str]
    spec: DataSpec
    proposal: str
    rows: Sequence[pa.Table]
    aggregates: Mapping[str, Sequence[Mapping[str, Any]]]
    simulated: Sequence[pa.Table]
    model_digest: str = ""
    about_model: Mapping[str, Any] = field(default_factory=dict)
    examples: Sequence[Path] = ()

    @property
    def device(self) -> str:
        """Kinds of device that computed it, `cpu` or `cuda`; where workers differ, both."""
        return ", ".join(sorted({sums["device"] for sums in map(_sums, self.rows)}))

    @property
    def closed(self) -> bool:
        """Whether the rate has a closed form."""
        return all(sums["closed"] for sums in map(_sums, self.rows))

    def table(self) -> pa.Table:
        """All rows."""
        plain = [part.replace_schema_metadata(None) for part in self.rows]
        return pa.concat_tables(plain, promote_options="default")

    def dimensions(self) -> dict[str, pa.Table]:
        """What is known of each latent dimension, by split."""
        parts: dict[str, list[pa.Table]] = {}
        for part in self.rows:
            parts.setdefault(part.column("split")[0].as_py(), []).append(part)
        return {split: per_dimension(some) for split, some in parts.items()}


def write(folder: Path, found: Found) -> None:
    """Write the tables, unless they contradict each other whatever was drawn.

    Raises:
        EvaluationError: naming the row that cannot be true.
    """
    table, dimensions = found.table(), per_dimension(found.rows)
    lines = list(_summary(found, table))
    rates = map(evaluate_examples.rates, found.examples)
    check(table, lines, rates)
    evaluate_examples.write(folder / "per_example.parquet", found.examples, _about(found))
    dimensions = dimensions.replace_schema_metadata(_about(found))
    shards.write_table(folder / "per_dimension.parquet", dimensions)
    (folder / CURVE).unlink(missing_ok=True)  # of other settings, where a run was cut off
    if len(found.ks) > 1:
        shards.write_table(folder / CURVE, _curve(table, found))
    shards.write_table(folder / "summary.parquet", _long(found, lines))


def flat(summary: pa.Table) -> dict[str, float]:
    """`<split>/<metric>` to value."""
    return {f"{r['split']}/{r['metric']}": r["value"] for r in summary.to_pylist()}


def diagnosis(found: Found) -> Diagnosis:
    """Sentences on latents, repeated ids, heavy tails, short paths and violated orders."""
    table, said = found.table(), Diagnosis([], [])
    means = {split: rows.column("rate").to_numpy().mean() for split, rows in splits(table)}
    for split, dimensions in found.dimensions().items():
        each, variances = (dimensions.column(n).to_pylist() for n in ("rate", "variance_of_means"))
        one = diagnose(each, variances, split, means[split])
        said = Diagnosis([*said.alarms, *one.alarms], [*said.notes, *one.notes])
    lines = list(_summary(found, table))
    doubted = doubts(table, lines, found.simulated, found.proposal)
    alarms = [*said.alarms, *repetitions(table), *heavy_tails(lines), *short_paths(table), *doubted]
    return said._replace(alarms=alarms)


def heavy_tails(lines: Sequence[Line]) -> Iterator[str]:
    """A sentence for each split in which the evidence of many examples cannot be trusted."""
    for line in lines:
        if line.metric == "khat_above_07" and line.value > MANY:
            limit = reliable_below(line.k or 1)
            yield (
                f"{line.split}: for {line.value:.0%} of the examples the Pareto k-hat is above "
                f"{limit:.2g}, so their log_evidence is too low by an unknown "
                "amount and their standard errors are too small. Take more samples (`k`), or "
                "proposal 'defensive' or 'refined'."
            )


def key(found: Found) -> dict[str, Any]:
    """What a result must be named with: model, data, binarization, its seed, seed of the samples.

    Then what the model is, how it was fitted, and what computed the result.
    """
    taken = {"model", "model_digest", "seed", "data_digest", *Line._fields, "unit", "direction"}
    taken |= {*ROLES, *KINDS, "objective", "device", "dtype"}
    binarized = {"binarization": "none", "binarization_seed": "none"}
    digests = {"model_digest": found.model_digest, "data_digest": found.data_digest}
    data = {**digests, "seed": str(found.seed), **binarized, **view_names(found.view, taken)}
    return {**data, **found.about_model, "device": found.device}


def _about(found: Found) -> dict[str, str]:
    about = {"k": found.ks[-1], "ks": json.dumps(list(found.ks)), "proposal": found.proposal}
    about |= {name: value for name, value in key(found).items() if value is not None}
    return {f"vaepipe.{name}": str(value) for name, value in about.items()}


def _sums(part: pa.Table) -> dict[str, Any]:
    return json.loads(part.schema.metadata[b"vaepipe.sums"])


def per_dimension(parts: Sequence[pa.Table]) -> pa.Table:
    """Rate and activity of each latent dimension over all rows.

    Means over draws vary by sigma^2 / draws more than the posterior means that they estimate; what
    is known of that is taken off. One example, or one draw, says nothing of a variance: null.
    """
    sums = [_sums(part) for part in parts]
    n = sum(s["n"] for s in sums)
    mean = np.sum([s["mean"] for s in sums], axis=0) / n
    square = np.sum([s["square"] for s in sums], axis=0) / n
    noise = np.sum([s["noise"] for s in sums], axis=0) / n
    spread = n / (n - 1) if n > 1 else np.nan
    variance = ((square - mean**2) * spread - noise).clip(min=0)
    known = all("rate" in s for s in sums)
    each = np.sum([s["rate"] for s in sums], axis=0) / n if known else [None] * len(mean)
    return pa.table(
        {
            "dim": pa.array(range(len(mean)), pa.int32()),
            "rate": pa.array(each, pa.float64()),
            "variance_of_means": pa.array(variance, from_pandas=True),
            "active": pa.array(variance > ACTIVE, mask=np.isnan(variance)),
        }
    )


def _summary(found: Found, table: pa.Table) -> Iterator[Line]:
    """A line for each split and metric."""
    tables = dict(splits(table))
    for split, rows in tables.items():
        yield from _split_lines(found, split, rows)
        for line in found.aggregates.get(split, ()):
            yield Line(split=split, **line)
    yield from _generalisation(tables)
    for split, dimensions in found.dimensions().items():
        yield from _use(split, tables[split], dimensions)
    if found.simulated:
        yield from _sandwich(found, pa.concat_tables(found.simulated))


def _split_lines(found: Found, split: str, rows: pa.Table) -> Iterator[Line]:
    how, k = PROPOSALS[found.proposal], found.ks[-1]
    yield _mean(split, "log_evidence", rows, how, k)
    if len(found.ks) > 1:
        for each in found.ks:
            yield _mean(split, f"log_evidence_k{each}", rows, f"{how}, first {each} samples", each)
    for metric, estimator in MEANS.items():
        if metric in rows.column_names and rows.column(metric).null_count < len(rows):
            yield _mean(split, metric, rows, *_made(found, metric, estimator))
    if "log_evidence_ais" in rows.column_names:
        yield _mean(split, "log_evidence_ais", rows, ANNEALED)._replace(metric="ais_lower")
    yield from _khat(split, rows, k)
    if "tokens" in rows.column_names:
        yield _perplexity(split, rows, k)
    else:
        yield _bits(found, split, rows, k)


def _made(found: Found, metric: str, estimator: str) -> tuple[str, int | None]:
    """How a mean was estimated, and from how many samples."""
    k = found.ks[-1]
    if metric == "rate" and found.closed:
        return "closed form", None
    if metric in OWN:
        return estimator, k if found.proposal == "posterior" else ELBO_DRAWS
    return estimator, k if metric in SAMPLED else None


def _mean(split: str, column: str, rows: pa.Table, estimator: str, k: int | None = None) -> Line:
    values = rows.column(column).drop_null().to_numpy()
    return Line(split, column, values.mean(), _se(values), len(values), estimator, k)


def _se(values: np.ndarray) -> float | None:
    return values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None


def _khat(split: str, rows: pa.Table, k: int) -> Iterator[Line]:
    known = rows.column("khat").drop_null().to_numpy()
    if len(known):
        limit = reliable_below(k)
        above = (known > limit).astype(float)
        how = f"share of examples whose Pareto k-hat exceeds {limit:.2g}, min(0.7, 1 - 1/log10 k)"
        yield Line(split, "khat_above_07", above.mean(), _se(above), len(above), how, k)


def _bits(found: Found, split: str, rows: pa.Table, k: int) -> Line:
    """Bits of each value; a density is not a code length, which has to be said."""
    size = math.prod(found.spec.shape)
    nats = rows.column("log_evidence").to_numpy()
    bits = np.array([bits_per_dimension(each, size) for each in nats])
    discrete = found.spec.support_name in ("boolean", "integer")
    kind = "discrete values" if discrete else "a density of values as the model sees them"
    how = f"-log_evidence / ({size} ln 2); {kind}, not dequantised"
    return Line(split, "bits_per_dim", bits.mean(), _se(bits), len(bits), how, k)


def _perplexity(split: str, rows: pa.Table, k: int) -> Line:
    """exp(-sum log p(x) / sum of words); its standard error is that of a ratio of sums."""
    nats, words = -rows.column("log_evidence").to_numpy(), rows.column("tokens").to_numpy()
    each = nats.sum() / words.sum()
    se = _se(nats - each * words)
    se = None if se is None else math.exp(each) * se / words.mean()
    how = "exp(-log_evidence / words), ends of sentences included"
    return Line(split, "perplexity", math.exp(each), se, len(words), how, k)


def _generalisation(tables: Mapping[str, pa.Table]) -> Iterator[Line]:
    """log evidence of the training split minus that of each other one."""
    if "train" not in tables:
        return
    seen = tables["train"].column("log_evidence").to_numpy()
    for split, rows in tables.items():
        if split != "train":
            values = rows.column("log_evidence").to_numpy()
            errors = [_se(seen), _se(values)]
            se = None if None in errors else math.hypot(*(e for e in errors if e is not None))
            how = f"log_evidence of train minus that of {split}"
            gap = seen.mean() - values.mean()
            yield Line(split, "generalisation_gap", gap, se, len(values), how)


def _use(split: str, rows: pa.Table, dimensions: pa.Table) -> Iterator[Line]:
    """How many dimensions are active, where that is known, and whether the decoder ignores z."""
    known = {f"{split}/rate": rows.column("rate").to_numpy().mean()}
    active = dimensions.column("active")
    if not active.null_count:
        number = known[f"{split}/active_units"] = float(sum(active.to_pylist()))
        yield Line(split, "active_units", number, None, len(rows), f"Var_x E_q[z] > {ACTIVE}")
    said = collapse(known, split)
    how = "1: the rate is below 0.1 nats, or no dimension is active"
    yield Line(split, "collapsed", float(said is not None), None, len(rows), how)


def _sandwich(found: Found, table: pa.Table) -> Iterator[Line]:
    """Both sides, and between them what the estimator of `log_evidence` says of the same."""
    lower, upper = (table.column(name).to_numpy() for name in ("lower", "upper"))
    for name, values in (("lower", lower), ("upper", upper), ("gap", upper - lower)):
        how = f"bidirectional Monte Carlo on {len(values)} examples that the model made"
        value = Line(SIMULATED, f"bdmc_{name}", values.mean(), _se(values), len(values), how)
        yield value
    how = f"{PROPOSALS[found.proposal]}, on the same examples"
    line = _mean(SIMULATED, "log_evidence", table, how, found.ks[-1])
    yield line._replace(metric="bdmc_log_evidence")


def _curve(table: pa.Table, found: Found) -> pa.Table:
    """Mean evidence by the number of samples, a row for each split and k."""
    rows = []
    for split, mine in splits(table):
        for k in found.ks:
            line = _mean(split, f"log_evidence_k{k}", mine, "", k)
            rows.append({"split": split, "k": k, "log_evidence": line.value})
            rows[-1] |= {"se": line.se, "n": line.n}
    kinds = {"split": pa.string(), "k": pa.int64(), "log_evidence": pa.float64()}
    kinds |= {"se": pa.float64(), "n": pa.int64()}
    made = pa.Table.from_pylist(rows, schema=pa.schema(list(kinds.items())))
    return made.replace_schema_metadata(_about(found))


def _long(found: Found, lines: Sequence[Line]) -> pa.Table:
    """The summary with what every row is named by."""
    columns = dict(zip(Line._fields, map(list, zip(*lines, strict=True)), strict=True))
    kinds = {"value": pa.float64(), "se": pa.float64(), "n": pa.int64(), "k": pa.int64()}
    arrays = {name: pa.array(each, kinds.get(name, pa.string())) for name, each in columns.items()}
    about = [METRICS[_base(line.metric)] for line in lines]
    known = {
        "model": pa.array([found.model] * len(lines)),
        **{name: arrays[name] for name in ("split", "metric", "value", "se", "n")},
        "unit": pa.array([metric.unit for metric in about]),
        "direction": pa.array([metric.mode for metric in about]),
        **{name: arrays[name] for name in ("estimator", "k")},
    }
    made = pa.table(known | {name: column(name, v, len(lines)) for name, v in key(found).items()})
    return made.replace_schema_metadata(_about(found))


def _base(metric: str) -> str:
    """The metric that one of the curve is a value of."""
    return "log_evidence" if metric.startswith("log_evidence_k") else metric
