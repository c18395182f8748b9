"""Tables of an evaluation: readers, batches, restarts, and data that cannot be evaluated."""

import dataclasses
import json
import os

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vaepipe import cli
from vaepipe.compute import evaluate as worker
from vaepipe.compute.local import LocalCompute
from vaepipe.core import SUPPORTS, DataSpec, Stream, build, seeded
from vaepipe.data import schema, shards
from vaepipe.data.sources import Source
from vaepipe.errors import CompatibilityError, DataError, EvaluationError
from vaepipe.evaluation import Gaps, adaptive, annealing
from vaepipe.evaluation.decoding import squared_error
from vaepipe.journal import Journal
from vaepipe.pipeline import inputs
from vaepipe.pipeline.stages import evaluate, evaluate_checks, evaluate_key, evaluate_tables
from vaepipe.pipeline.stages.evaluate_checks import Line, check, doubts, short_paths
from vaepipe.pipeline.watch import JOURNAL
from vaepipe.registry import part
from vaepipe.training import bundle

EVERYTHING = {
    "evidence": {"k": [1, 5, 40]},
    "gaps": {"examples": 6, "steps": 5},
    "ais": {"examples": 4, "temperatures": 5, "chains": 4, "leapfrog": 2},
    "bdmc": {"examples": 6},
}
TABLES = ("per_example", "per_dimension", "summary", "k_curve")


@pytest.fixture(autouse=True)
def single():
    """Workers compute in single precision."""
    torch.set_default_dtype(torch.float32)


def save(
    folder,
    family="diagonal_normal",
    prior="standard_normal",
    latent=(3,),
    spoil=None,
    objective=("elbo", {}),
):
    """An untrained Gaussian model of vectors of four numbers."""
    mlp = part("networks", "mlp", {"hidden": [8]})
    parts = {
        "encoder": mlp,
        "family": part("families", family),
        "prior": part("priors", prior),
        "decoder": mlp,
        "likelihood": part("likelihoods", "gaussian", {"scale": 0.7}),
    }
    data = DataSpec((4,), SUPPORTS["real"], 100)
    with seeded(Stream(0)):
        model = build(latent, data, **parts)
    source = {"path": "nowhere.parquet", "support": "real", "shape": [4]}
    card = {
        "name": "untrained",
        "fingerprint": "f" * 64,
        "seed": 0,
        "epoch": 10,
        "data_digest": "d" * 64,
        "model": {"latent_shape": list(latent), **{k: v.to_dict() for k, v in parts.items()}},
        "data": data.to_dict(),
        "dataset": part("datasets", "parquet", source).to_dict(),
        "objective": part("objectives", *objective).to_dict(),
    }
    if spoil:
        spoil(model)
    bundle.save(folder, model, card, torch.zeros(4, 4))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield save(tmp_path_factory.mktemp("model") / "m")
    torch.set_default_dtype(before)


def examples(path, n, change=None, **extra):
    x = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    if change is not None:
        change(x)
    table = pa.table({"id": np.arange(100, 100 + n), "x": schema.to_vectors(x), **extra})
    pq.write_table(table, path, row_group_size=16)
    return path


def run(model, data, output, measures=None, batch_size=64):
    found = inputs.of_path(str(data), bundle.load(model), None, "x", "id")
    output.mkdir(exist_ok=True)
    job = job_of(model, found, output, measures, batch_size)
    return evaluate.evaluate(job, LocalCompute())


def job_of(model, data, output, measures=None, batch_size=64):
    return evaluate.Evaluation(
        model=model,
        model_name="untrained",
        data=data,
        seed=3,
        output=output,
        measures=evaluate.measures(measures or {"evidence": {"k": 6}}),
        batch_size=batch_size,
    )


def tables(folder):
    return [pq.read_table(folder / f"{name}.parquet") for name in TABLES]


def test_batches_and_restarts_change_no_bit(model, tmp_path, monkeypatch):
    data = examples(tmp_path / "test.parquet", 40, label=np.arange(40) % 3)
    run(model, data, tmp_path / "a", EVERYTHING)
    run(model, data, tmp_path / "b", EVERYTHING, batch_size=7)
    work, done = evaluate._map, []

    def killed(job, compute, units, parts):
        work(job, compute, units[:2], parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "_map", killed)
    with pytest.raises(KeyboardInterrupt):
        run(model, data, tmp_path / "c", EVERYTHING)
    done += sorted((tmp_path / "c" / "parts").glob("*.parquet"))
    stamps = [path.stat().st_mtime_ns for path in done]
    monkeypatch.setattr(evaluate, "_map", lambda job, compute, units, parts: (
        work(job, compute, units, parts),
        done.append([p.stat().st_mtime_ns for p in done]),
    ))  # fmt: skip
    run(model, data, tmp_path / "c", EVERYTHING, batch_size=1)
    assert len(done) == 3 and done[-1] == stamps
    for other in ("b", "c"):
        for one, two in zip(tables(tmp_path / "a"), tables(tmp_path / other), strict=True):
            assert one.equals(two)


def test_parts_of_other_settings_are_not_taken_over(model, tmp_path):
    data, out = examples(tmp_path / "test.parquet", 5), tmp_path / "out"
    run(model, data, tmp_path / "fresh", {"evidence": {"k": 7}})
    (out / "parts").mkdir(parents=True)
    (out / "parts" / "test-000000.parquet").write_bytes(b"not a table")
    run(model, data, out, {"evidence": {"k": 7}})
    names = ("per_example", "summary")
    for name in names:
        one, two = (pq.read_table(d / f"{name}.parquet") for d in (out, tmp_path / "fresh"))
        assert one.equals(two)


def test_every_reader_sees_the_same_and_the_key_is_complete(model, tmp_path):
    data = examples(tmp_path / "test.parquet", 40, label=np.arange(40) % 3)
    manifest = run(model, data, tmp_path / "out", EVERYTHING)
    for name in TABLES:
        path = str(tmp_path / "out" / f"{name}.parquet")
        mine = pq.read_table(path).to_pylist()
        assert polars.read_parquet(path).to_dicts() == mine
        assert duckdb.sql(f"select count(*) from '{path}'").fetchall() == [(len(mine),)]
        for field in pq.read_schema(path):
            if field.type == "double":
                values = [row[field.name] for row in mine if row[field.name] is not None]
                query = f'select sum("{field.name}"), avg("{field.name}") from \'{path}\''
                assert duckdb.sql(query).fetchall()[0] == pytest.approx(
                    (sum(values), np.mean(values))
                )
    summary = pq.read_table(tmp_path / "out" / "summary.parquet").to_pylist()
    for line in summary:
        for name in (
            "model",
            "model_digest",
            "data_digest",
            "binarization",
            "binarization_seed",
            "direction",
        ):
            assert line[name], (line["metric"], name)
    found = {(line["split"], line["metric"]) for line in summary}
    on_data = ("log_evidence", "log_evidence_k5", "mi", "marginal_kl", "total_correlation", "log_n")
    on_data += ("approx_gap", "amort_gap", "ais_lower", "knn_accuracy", "bits_per_dim", "collapsed")
    for metric in on_data:
        assert ("test", metric) in found
    for metric in ("bdmc_lower", "bdmc_upper", "bdmc_gap", "bdmc_log_evidence"):
        assert ("simulated", metric) in found
    for name in TABLES:
        metadata = pq.read_schema(tmp_path / "out" / f"{name}.parquet").metadata
        assert json.loads(metadata[b"vaepipe.ks"]) == [1, 5, 40]
        assert {b"vaepipe.binarization", b"vaepipe.data_digest", b"vaepipe.seed"} <= set(metadata)
        assert metadata[b"vaepipe.model_digest"].decode() == manifest["model_digest"]
    assert manifest["metrics"]["test/active_units"] == len(
        [
            v
            for v in pq.read_table(tmp_path / "out" / "per_dimension.parquet")["active"]
            if v.as_py()
        ]
    )


def test_one_example_is_a_table_without_errors(model, tmp_path):
    data = examples(tmp_path / "one.parquet", 1, label=[4])
    run(model, data, tmp_path / "out", EVERYTHING)
    summary = pq.read_table(tmp_path / "out" / "summary.parquet").to_pylist()
    lines = {line["metric"]: line for line in summary}
    assert lines["log_evidence"]["n"] == 1 and lines["log_evidence"]["se"] is None
    assert np.isfinite(lines["log_evidence"]["value"]) and lines["mi"]["value"] == 0
    assert all(np.isfinite(line["value"]) for line in summary)
    assert "active_units" not in lines and lines["collapsed"]["value"] == 0
    dimensions = pq.read_table(tmp_path / "out" / "per_dimension.parquet")
    for name in ("variance_of_means", "active"):
        assert dimensions[name].null_count == len(dimensions)


def test_one_sample_or_one_chain_has_no_error(model, tmp_path):
    """Null, which says unknown; zero would say exact."""
    data, path = examples(tmp_path / "test.parquet", 3), {"temperatures": 3, "chains": 1}
    run(model, data, tmp_path / "out", {"evidence": {"k": 1}, "ais": path})
    table = pq.read_table(tmp_path / "out" / "per_example.parquet")
    for name in ("log_evidence_se", "log_evidence_ais_se"):
        assert table[name].null_count == 3


@pytest.mark.parametrize("n", [1, 2])
def test_the_error_of_a_perplexity_is_that_of_a_sample(n):
    """With n - 1 in the denominator; of one sentence there is none."""
    rows = pa.table({"log_evidence": [-10.0, -30.0][:n], "tokens": [5, 6][:n]})
    line = evaluate_tables._perplexity("test", rows, 10)
    each = [10.0 - 40 / 11 * 5, 30.0 - 40 / 11 * 6]
    exact = np.exp(40 / 11) * np.std(each, ddof=1) / 5.5 / np.sqrt(2)
    assert line.se is None if n == 1 else line.se == pytest.approx(exact)


def test_no_examples_are_an_error(model, tmp_path):
    data = examples(tmp_path / "none.parquet", 0)
    with pytest.raises(DataError, match=r"split 'none' has no rows.*Choose another"):
        run(model, data, tmp_path / "out")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_an_error_that_names_the_row(model, tmp_path, value):
    def spoil(x):
        x[7, 2] = value

    data = examples(tmp_path / "bad.parquet", 20, spoil)
    with pytest.raises(DataError, match=r"row 7|id 107"):
        run(model, data, tmp_path / "out")
    assert not (tmp_path / "out" / "summary.parquet").exists()


@pytest.mark.parametrize(("name", "measure"), [("ais", "ais"), ("gaps", "gaps")])
def test_a_bound_that_is_no_number_is_not_left_out(model, tmp_path, monkeypatch, name, measure):
    def broken(model, x, ids, **options):
        nothing = torch.full((len(x),), torch.nan)
        return annealing.Annealed(nothing, nothing) if name == "ais" else Gaps(nothing, nothing)

    monkeypatch.setattr(worker, name, broken)
    data = examples(tmp_path / "test.parquet", 5)
    with pytest.raises(DataError, match=r"split 'test', id 100: .* gave nan"):
        run(model, data, tmp_path / "out", {measure: {}, "evidence": {"k": 5}})


def test_evaluation_has_all_bits_of_its_floats_and_leaves_settings_alone(monkeypatch):
    """TF32, which convolutions use by default, keeps ten bits of the fraction."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with pytest.raises(KeyError), worker.whole_floats():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        raise KeyError
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("proposal", ["defensive", "refined"])
def test_batches_of_any_size_change_no_bit_of_mixtures(model, tmp_path, monkeypatch, proposal):
    monkeypatch.setattr(adaptive, "ROUNDS", (100, 50, 50))
    data = examples(tmp_path / "test.parquet", 40)
    measure = {"evidence": {"k": 40, "proposal": proposal, "refine_steps": 3}}
    run(model, data, tmp_path / "a", measure)
    run(model, data, tmp_path / "b", measure, batch_size=7)
    for name in TABLES[:3]:
        one, two = (pq.read_table(tmp_path / d / f"{name}.parquet") for d in "ab")
        assert one.equals(two)


def test_values_beyond_every_density_are_an_error(model, tmp_path):
    def spoil(x):
        x[3] = 3e38

    data = examples(tmp_path / "far.parquet", 20, spoil)
    with pytest.raises(DataError, match=r"id 103.*no finite density"):
        run(model, data, tmp_path / "out")


def test_constant_examples_and_ignored_latents_are_told(tmp_path):
    def constant(x):
        x[:] = 0.5

    def spoil(built):
        with torch.no_grad():
            for parameter in built.inference.parameters():
                parameter.zero_()

    folder = save(tmp_path / "m", spoil=spoil)
    data = examples(tmp_path / "flat.parquet", 20, constant)
    manifest = run(folder, data, tmp_path / "out")
    assert manifest["metrics"]["flat/collapsed"] == 1
    assert manifest["metrics"]["flat/active_units"] == 0
    assert abs(manifest["metrics"]["flat/mi"]) < 1e-6
    assert manifest["diagnosis"][0].startswith("posterior collapse")
    events = [json.loads(line) for line in (tmp_path / "out" / JOURNAL).read_text().splitlines()]
    assert [e["text"] for e in events if e["event"] == "warning"] == manifest["diagnosis"]


def test_bits_are_evaluated_but_not_annealed(tmp_path):
    folder = save(tmp_path / "m", "bernoulli", "bernoulli")
    data = examples(tmp_path / "test.parquet", 20)
    wide = {"evidence": {"k": 20, "proposal": "defensive"}}
    assert "test/mi" in run(folder, data, tmp_path / "out", wide)["metrics"]
    for more in ({"ais": {}}, {"bdmc": {}}, {"gaps": {}}, {"evidence": {"proposal": "refined"}}):
        with pytest.raises(CompatibilityError):
            run(folder, data, tmp_path / "no", more)


def lines(**values):
    return [Line("test", name, v, 0.1, 20, "") for name, v in values.items()]


def columns(**values):
    return pa.table({"split": ["test"] * len(next(iter(values.values()))), **values})


@pytest.mark.parametrize(
    ("table", "summary", "names"),
    [
        (columns(elbo=[1.0, 2, 3, 4]), lines(elbo=2.6), "test/elbo"),
        (columns(elbo=[1.0] * 4), lines(mi=3.0, log_n=2.0), "test/mi, 3, is above log n"),
    ],
)
def test_numbers_that_contradict_each_other_are_not_written(table, summary, names):
    with pytest.raises(EvaluationError, match=names):
        check(table, summary)


@pytest.mark.parametrize(
    ("table", "summary", "names"),
    [
        (columns(log_evidence_k1=[1.0, 2, 3, 4], log_evidence_k9=[0.9, 1.9, 2.91, 3.9]), (),
         "test/log_evidence_k9 is below test/log_evidence_k1"),
        (columns(log_evidence=[1.0, 2, 3, 4], elbo=[1.1, 2.1, 3.11, 4.1]), (),
         "test/log_evidence is below test/elbo"),
        (columns(elbo=[1.0] * 4), lines(elbo=1.0, marginal_kl=-0.6), "test/mi is above the rate"),
    ],
)  # fmt: skip
def test_orders_that_hold_in_expectation_are_doubted_and_not_refused(table, summary, names):
    """Heavy tails violate them by chance: k = 4900 and 5000 in one honest evaluation of twenty."""
    check(table, summary)
    (said,) = doubts(table, summary, (), "posterior")
    assert said.startswith(names) and "another seed" in said


def test_tables_are_written_although_an_order_is_violated(tmp_path, monkeypatch):
    """The diagnosis and the journal say so; here every difference counts as a violation."""
    monkeypatch.setattr(evaluate_checks, "ERRORS", -1000.0)
    folder, data = save(tmp_path / "m", "diagonal_normal"), examples(tmp_path / "test.parquet", 20)
    manifest = run(folder, data, tmp_path / "out", {"evidence": {"k": [20, 30]}})
    assert pq.read_table(tmp_path / "out" / "summary.parquet").num_rows
    (said,) = (text for text in manifest["diagnosis"] if text.startswith("test/log_evidence_k30"))
    events = Journal(tmp_path / "out" / JOURNAL).read()
    assert said in [event["text"] for event in events if event["event"] == "warning"]


@pytest.mark.parametrize(("share", "count"), [(0.1, 0), (0.2, 1)])
def test_heavy_tails_of_many_examples_are_an_alarm(share, count):
    line = Line("test", "khat_above_07", share, None, 10, "", 500)
    said = list(evaluate_tables.heavy_tails([line]))
    assert len(said) == count
    assert all("20% of the examples" in text and "above 0.63" in text for text in said)


def test_an_upper_bound_below_the_lower_one_is_doubted():
    simulated = pa.table({"lower": [1.0, 2.0, 3.0, 4.0], "upper": [0.9, 1.9, 2.91, 3.9]})
    (said,) = doubts(columns(elbo=[1.0] * 4), (), [simulated], "posterior")
    assert said.startswith("simulated/bdmc_upper is below")


def test_noise_is_not_doubted():
    noisy = columns(log_evidence=[1.0, 2, 3, 4], elbo=[1.5, 1.5, 3.5, 3.6])
    summary = lines(elbo=2.525, mi=1.0, log_n=1.0, marginal_kl=-0.2)
    check(noisy, summary)
    assert not list(doubts(noisy, summary, (), "posterior"))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_rows_are_rarely_doubted(n):
    """A true order in the mean, one that just holds: at most one of 3000 draws is doubted."""
    rng = np.random.default_rng(0)
    noisy = (columns(elbo=rng.normal(size=n), log_evidence=rng.normal(size=n)) for _ in range(3000))
    assert sum(len(list(doubts(table, (), (), "posterior"))) for table in noisy) <= 1


def test_lower_bounds_without_an_order_are_no_contradiction():
    """Of a mixture, or of a short path: either may be the looser one."""
    table = columns(
        elbo=[1.1, 2.1, 3.11, 4.1],
        log_evidence=[1.0, 2.0, 3.0, 4.0],
        log_evidence_ais=[0.9, 1.9, 2.91, 3.9],
    )
    assert not list(doubts(table, (), (), "defensive"))
    assert not list(doubts(table.drop_columns(["log_evidence"]), (), (), "posterior"))
    (said,) = short_paths(table)
    assert "annealing path is too short" in said and "`temperatures`" in said
    assert not list(short_paths(columns(elbo=[1.0, 2.0], log_evidence_ais=[1.5, 2.5])))


def flat(built):
    """The posterior is the same for every example."""
    with torch.no_grad():
        for parameter in built.inference.network.parameters():
            parameter.zero_()


@pytest.mark.parametrize("k", [1, 2, 20, 100])
def test_a_collapsed_flow_has_no_active_units_however_few_its_draws(tmp_path, k):
    """Means of draws vary over examples by sigma^2 / draws; that is no activity."""
    folder = save(tmp_path / "m", "planar", spoil=flat)
    data = examples(tmp_path / "test.parquet", 60)
    metrics = run(folder, data, tmp_path / "out", {"evidence": {"k": k}})["metrics"]
    assert metrics["test/active_units"] == 0 and metrics["test/collapsed"] == 1


@pytest.mark.parametrize(("family", "closed"), [("diagonal_normal", True), ("planar", False)])
def test_the_summary_says_how_each_number_was_made(tmp_path, family, closed):
    """The ELBO of a mixture's evaluation has draws of its own; a closed form has none."""
    folder = save(tmp_path / "m", family)
    data = examples(tmp_path / "test.parquet", 5)
    proposal = "defensive" if closed else "posterior"
    run(folder, data, tmp_path / "out", {"evidence": {"k": 7, "proposal": proposal}})
    summary = pq.read_table(tmp_path / "out" / "summary.parquet").to_pylist()
    lines = {line["metric"]: line for line in summary}
    assert lines["log_evidence"]["k"] == lines["ess"]["k"] == 7
    assert lines["elbo"]["k"] == lines["log_lik"]["k"] == (100 if closed else 7)
    assert lines["rate"]["k"] == (None if closed else 7)
    assert ("closed form" in lines["rate"]["estimator"]) == closed


def test_active_units_are_of_each_split(model, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("test", "val"):
        examples(folder / f"{name}.parquet", 20)
    data = inputs.of_path(str(folder / "test.parquet"), bundle.load(model), None, "x", "id")
    both = {**data.sources, "val": data.sources["test"]}
    job = dataclasses.replace(
        job_of(model, data, tmp_path / "out"), data=dataclasses.replace(data, sources=both)
    )
    job.output.mkdir()
    metrics = evaluate.evaluate(job, LocalCompute())["metrics"]
    assert metrics["test/active_units"] == metrics["val/active_units"]


def test_rows_that_are_not_there_among_others_that_are(model, tmp_path):
    """An empty part file and an empty group of rows."""
    folder = tmp_path / "data"
    folder.mkdir()
    examples(folder / "a.parquet", 5, label=[1] * 5)
    examples(folder / "b.parquet", 0, label=pa.array([], pa.int64()))
    examples(folder / "c.parquet", 5, label=[2] * 5)
    loaded = bundle.load(model)
    data = inputs.of_path(str(folder), loaded, None, "x", None)
    job = job_of(model, data, tmp_path / "out")
    job.output.mkdir()
    manifest = evaluate.evaluate(job, LocalCompute())
    assert pq.read_metadata(job.output / "per_example.parquet").num_rows == 10
    assert any(name.endswith("/knn_accuracy") for name in manifest["metrics"])


def test_the_command_line_says_what_a_stage_would(model, tmp_path, capfd):
    data, out = examples(tmp_path / "test.parquet", 12), tmp_path / "out"
    words = ["evaluate", "--model", model, "--data", data, "--output", out, "--id-column", "id"]
    words += ["--k", "7,60", "--k", "9", "--k-curve", "--proposal", "defensive", "--gaps", 3]
    words += ["--ais", 4, "--ais-examples", 2, "--bdmc", 3, "--no-decompose", "--json"]
    words += ["--workspace", tmp_path]
    assert cli.call([str(word) for word in words]) == 0
    manifest = json.loads(capfd.readouterr().out)
    assert manifest["measures"]["evidence"]["k"] == [1, 5, 7, 9, 50, 60]
    assert pq.read_table(out / "k_curve.parquet")["k"].to_pylist() == [1, 5, 7, 9, 50, 60]
    metrics = manifest["metrics"]
    assert {"test/amort_gap", "test/ais_lower", "simulated/bdmc_gap"} <= set(metrics)
    assert "test/mi" not in metrics
    assert cli.call([str(w) for w in [*words[:-2], "--workspace", tmp_path, "--k", "0"]]) == 2


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_the_command_line_tells_the_diagnosis(tmp_path, capfd, more):
    folder, data = save(tmp_path / "m", spoil=flat), examples(tmp_path / "test.parquet", 12)
    words = ["evaluate", "--model", folder, "--data", data, "--output", tmp_path / "out", "--k", 5]
    assert cli.call([str(w) for w in [*words, "--workspace", tmp_path, *more]]) == 0
    assert capfd.readouterr().err.count("posterior collapse: ") == 1


def test_names_of_a_view_do_not_replace_columns(model, tmp_path):
    """A text's view has a `unit` of its own, a table a column of that name."""
    found = evaluate_tables.Found(
        "m", [5], 1, "digest", {"unit": "sentence", "binarization": "dynamic"}, None, "posterior",
        (), {}, (),
    )  # fmt: skip
    names = evaluate_tables.key(found)
    assert names["view_unit"] == "sentence" and "unit" not in names
    assert names["binarization"] == "dynamic" and names["binarization_seed"] == "none"


def test_data_that_change_while_they_are_evaluated_are_told(model, tmp_path, monkeypatch):
    data, read = examples(tmp_path / "test.parquet", 40), Source.read

    def and_touch(source, unit, keep=()):
        os.utime(data)
        return read(source, unit, keep)

    monkeypatch.setattr(Source, "read", and_touch)
    with pytest.raises(DataError, match="changed after the plan was made"):
        run(model, data, tmp_path / "out")


FLOATS = pa.list_(pa.field("element", pa.float32(), nullable=False), 3)


def vectors(table, name):
    return schema.from_vectors(table.column(name), (table.schema.field(name).type.list_size,))


def loaded_rows(model, data):
    return bundle.load(model).model, torch.tensor(vectors(pq.read_table(data), "x"))


def test_each_example_has_its_posterior_its_rates_and_its_reconstruction(model, tmp_path):
    data = examples(tmp_path / "test.parquet", 40)
    run(model, data, tmp_path / "out", {"evidence": {"k": 30}})
    table = pq.read_table(tmp_path / "out" / "per_example.parquet")
    built, x = loaded_rows(model, data)
    with torch.no_grad():
        q = built.inference(x)
        found = (built.generator(q.mean).mean - x).square().mean(1)
        rates = torch.distributions.kl_divergence(q.base_dist, built.p_z().z.base_dist)
    for name, exact in (("mean", q.mean), ("scale", q.stddev), ("rate_per_dim", rates)):
        assert table.schema.field(name).type == FLOATS
        assert np.allclose(vectors(table, name), exact.numpy(), rtol=1e-5, atol=1e-6)
    assert np.allclose(table["recon_mse"].to_numpy(), found.numpy(), rtol=1e-5)
    total, rate = vectors(table, "rate_per_dim").sum(1), table["rate"].to_numpy()
    assert np.allclose(total, rate, rtol=1e-4, atol=0)
    assert {"codes"}.isdisjoint(table.column_names)


@pytest.mark.parametrize("k", [1, 2, 30, 700])
def test_the_largest_weight_and_the_effective_number_of_samples_agree(model, tmp_path, k):
    """sum_i w_i^2 lies between (max w)^2 and max w: 1 / ess <= w_max <= 1 / sqrt(ess)."""
    run(model, examples(tmp_path / "t.parquet", 20), tmp_path / "out", {"evidence": {"k": k}})
    table = pq.read_table(tmp_path / "out" / "per_example.parquet")
    largest, ess = table["w_max"].to_numpy(), table["ess"].to_numpy()
    assert (largest * ess >= 1 - 1e-9).all() and (largest <= ess**-0.5 + 1e-9).all()


@pytest.mark.parametrize("family", ["full_normal", "planar"])
def test_a_posterior_that_does_not_factorise_has_no_rates_by_dimension(tmp_path, family):
    """Null, to every reader; mean and scale there are, of a flow from its draws."""
    data = examples(tmp_path / "test.parquet", 20)
    run(save(tmp_path / "m", family), data, tmp_path / "out")
    path = str(tmp_path / "out" / "per_example.parquet")
    table = pq.read_table(path)
    seen = polars.read_parquet(path)["rate_per_dim"]
    assert table["rate_per_dim"].null_count == seen.null_count() == 20
    assert duckdb.sql(f"select count(rate_per_dim) from '{path}'").fetchall() == [(0,)]
    assert np.isfinite(vectors(table, "mean")).all() and (vectors(table, "scale") > 0).all()
    assert table["recon_mse"].null_count == 0


@pytest.mark.parametrize(("family", "width"), [("bernoulli", 3), ("categorical", 2)])
def test_discrete_latents_are_codes_in_place_of_moments(tmp_path, family, width):
    latent = (3,) if family == "bernoulli" else (2, 3)
    folder, data = save(tmp_path / "m", family, family, latent), tmp_path / "test.parquet"
    examples(data, 40)
    for name, size in (("a", 64), ("b", 1)):
        run(folder, data, tmp_path / name, batch_size=size)
    one, two = (pq.read_table(tmp_path / d / "per_example.parquet") for d in "ab")
    assert one.equals(two) and {"mean", "scale"}.isdisjoint(one.column_names)
    built, x = loaded_rows(folder, data)
    with torch.no_grad():
        mode = built.inference(x).mode
    codes = mode if family == "bernoulli" else mode.argmax(-1)
    assert np.array_equal(vectors(one, "codes"), codes.numpy())
    assert vectors(one, "codes").shape == (40, width)


@pytest.mark.parametrize(
    ("likelihood", "known"),
    [("categorical", False), ("discretized_logistic", True), ("poisson", True)],
)
def test_categories_have_no_squared_error(likelihood, known):
    """Their numbers are names: the mean of two of them is a third."""
    data, mlp = DataSpec((4,), SUPPORTS["integer"], 100, levels=6), part("networks", "mlp")
    parts = {"encoder": mlp, "decoder": mlp, "family": part("families", "diagonal_normal")}
    parts |= {"prior": part("priors", "standard_normal")}
    with seeded(Stream(0)):
        model = build((2,), data, **parts, likelihood=part("likelihoods", likelihood))
    x, z = torch.randint(0, 6, (5, 4)).float(), torch.randn(5, 2)
    found = squared_error(model, x, z)
    assert found.isfinite().all() if known else found.isnan().all()


@pytest.mark.parametrize(
    ("objective", "k", "beta"),
    [
        (("elbo", {"beta": 4.0, "warmup_epochs": 2.0}), None, 4.0),
        (("elbo_sampled", {"beta": 4.0, "warmup_epochs": 20.0}), None, 1.8),
        (("elbo", {"beta": 4.0, "warmup_epochs": 3.0, "cycles": 2}), None, 4.0),
        (("beta_tc", {"beta": 5.0, "warmup_epochs": 18.0}), None, 3.0),
        (("capacity", {"warmup_epochs": 5.0}), None, None),
        (("iwae", {}), 5, None),
        (("dreg", {"k": 7}), 7, None),
        (("ciwae", {"beta": 0.3}), 64, None),
    ],
)
def test_every_row_of_a_summary_says_what_was_fitted_and_how(tmp_path, objective, k, beta):
    """`beta` is a schedule's weight at the last update, of `ciwae` a share that has none.

    The card's 10 epochs have one update each.
    """
    folder = save(tmp_path / "m", "full_normal", objective=objective)
    run(folder, examples(tmp_path / "test.parquet", 5), tmp_path / "out")
    model = bundle.load(folder).model
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    expected = {"likelihood": "gaussian", "prior": "standard_normal", "family": "full_normal"}
    expected |= {"objective": objective[0], "k_train": k, "beta_final": beta, "device": kind}
    expected |= {"n_params": sum(p.numel() for p in model.parameters()), "dtype": "float32"}
    summary = pq.read_table(tmp_path / "out" / "summary.parquet")
    assert summary.schema.field("k_train").type == summary.schema.field("n_params").type == "int64"
    assert summary.schema.field("beta_final").type == "double"
    for row in summary.to_pylist():
        assert {name: row[name] for name in expected} == expected
    metadata = pq.read_schema(tmp_path / "out" / "per_example.parquet").metadata
    assert metadata[b"vaepipe.family"] == b"full_normal"


def test_an_objective_that_is_not_installed_is_named_with_what_its_card_says(model):
    loaded = bundle.load(model)
    card = {**loaded.card, "objective": {**loaded.card["objective"], "type": "gone"}}
    card["objective"]["options"] = {"k": 9}
    found = evaluate_key.of_model(dataclasses.replace(loaded, card=card))
    assert (found["objective"], found["k_train"], found["beta_final"]) == ("gone", 9, None)


def test_a_rate_that_is_not_the_sum_over_its_dimensions_is_an_error():
    each = schema.to_vectors(np.array([[1.0, 2.0], [3.0, 4.0]], np.float32))
    part_of = {"id": [5, 6], "split": ["test"] * 2, "rate_per_dim": each}
    good, bad = (pa.table({**part_of, "rate": [3.0, last]}) for last in (7.0005, 7.002))
    check(columns(elbo=[1.0] * 4), (), [good])
    with pytest.raises(EvaluationError, match=r"test/rate, id 6: 7.002 is not the sum"):
        check(columns(elbo=[1.0] * 4), (), [good, bad])


def test_row_groups_do_not_depend_on_parts(model, tmp_path, monkeypatch):
    data = examples(tmp_path / "test.parquet", 40)
    run(model, data, tmp_path / "a")
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 15)
    run(model, data, tmp_path / "b")
    one, two = (pq.ParquetFile(tmp_path / d / "per_example.parquet") for d in "ab")
    assert [two.metadata.row_group(i).num_rows for i in range(3)] == [15, 15, 10]
    assert one.read().equals(two.read())


def test_parts_of_another_version_are_not_taken_over(model, tmp_path, monkeypatch):
    """What an older vaepipe left half done has other columns."""
    data, out = examples(tmp_path / "test.parquet", 40), tmp_path / "out"
    run(model, data, tmp_path / "fresh")
    work = evaluate._map

    def killed(job, compute, units, parts):
        work(job, compute, units[:2], parts)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "VERSION", worker.VERSION - 1)
        patch.setattr(evaluate, "_map", killed)
        patch.setattr(worker, "MORE", ())
        with pytest.raises(KeyboardInterrupt):
            run(model, data, out)
    (out / "k_curve.parquet").write_bytes(b"of several k")
    run(model, data, out)
    assert not (out / "k_curve.parquet").exists()
    for name in TABLES[:3]:
        one, two = (pq.read_table(d / f"{name}.parquet") for d in (out, tmp_path / "fresh"))
        assert one.equals(two)
