"""A sweep's trials are compared on the same validation rows, and the finalists scored again."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vaepipe.compute.local import LocalCompute
from vaepipe.data import shards
from vaepipe.evaluation import score
from vaepipe.pipeline.stages import leaderboard
from vaepipe.pipeline.stages.leaderboard import Board, paired
from vaepipe.training import bundle

METRIC, FINAL = "val/log_evidence", "final/log_evidence"


class Sweep:
    """A sweep over the digits that runs in this process."""

    def __init__(self, place) -> None:
        self.place, self.home = place, place.home / "tune"
        place.edit(final=None, score=None, codes=None)

    def run(self, **changes) -> int:
        self.place.edit(tune=changes)
        return self.place.call("--only", "tune")

    def rows(self) -> list[dict]:
        return pq.read_table(self.home / "trials.parquet").to_pylist()

    def best(self) -> dict:
        return json.loads((self.home / "best.json").read_text())

    def table(self, trial: int, name: str) -> dict[str, np.ndarray]:
        found = pq.read_table(self.home / "trials" / f"{trial:05d}" / name)
        return {column: found[column].to_numpy() for column in found.column_names}


LEARNING = {"optimizer.lr": {"grid": [1.0e-2, 0.99e-2, 1.0e-6]}}


@pytest.fixture(scope="module")
def done(make_place, tmp_path_factory):
    """Two trials that differ in little but their seeds, and one that learns nothing."""
    sweep = Sweep(make_place(tmp_path_factory.mktemp("sweep")))
    mlp = {"type": "mlp", "hidden": [32]}
    model = {"latent_shape": [8], "encoder": mlp, "decoder": mlp}
    parts = {"family": "diagonal_normal", "prior": "standard_normal", "likelihood": "bernoulli"}
    model |= {role: {"type": name} for role, name in parts.items()}
    sweep.place.edit(fit={"epochs": 12, "model": model, "objective": {"type": "iwae", "k": 5}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaderboard, "WITHIN", 6.0)  # so that there are two finalists
        assert sweep.run(space=LEARNING) == 0
    return sweep


def test_differences_to_the_best_are_paired_on_the_validation_rows(done):
    """Of finalists from their final samples, of the hopeless trial from the validation's."""
    rows, best = done.rows(), done.best()
    schema = pq.read_schema(done.home / "trials.parquet")
    for name in ("difference_to_best", "difference_se", FINAL, f"{FINAL}_se"):
        assert schema.field(name).type == "double"
    winner = rows[best["trial"]]
    assert winner["difference_to_best"] is winner["difference_se"] is None
    assert rows[2][FINAL] is None and rows[2]["difference_to_best"] < -1
    for row in rows:
        if row is winner:
            continue
        name = "validation.parquet" if row[FINAL] is None else "final.parquet"
        mine, other = done.table(row["trial"], name), done.table(winner["trial"], name)
        assert (mine["id"] == other["id"]).all()
        off = mine["log_evidence"] - other["log_evidence"]
        assert row["difference_to_best"] == pytest.approx(off.mean(), abs=1e-12)
        assert row["difference_se"] == pytest.approx(off.std(ddof=1) / math.sqrt(len(off)))
        unpaired = math.hypot(row[f"{METRIC}_se"], winner[f"{METRIC}_se"])
        assert row["difference_se"] < (unpaired if row[FINAL] is None else unpaired / 4)


def test_rows_of_a_trial_are_those_behind_its_metrics(done):
    split = shards.open_split(done.home.parent / "digits", "val")
    for row in done.rows():
        table = done.table(row["trial"], "validation.parquet")
        assert list(table) == ["id", "elbo", "log_evidence", "log_lik", "rate"]
        assert table["id"].tolist() == split.sample(100)["id"].to_pylist()
        for name in ("log_evidence", "elbo", "log_lik", "rate"):
            assert row[f"val/{name}"] == pytest.approx(table[name].mean(), abs=1e-12)


def test_the_winner_is_the_best_of_the_finalists_by_their_final_samples(done):
    rows, best = done.rows(), done.best()
    finals = {row["trial"]: row[FINAL] for row in rows if row[FINAL] is not None}
    assert best["trial"] == max(finals, key=finals.get)
    assert best["value"] == rows[best["trial"]][METRIC]
    final = best["final"]
    assert (final["metric"], final["k"], final["value"]) == (FINAL, 500, max(finals.values()))
    assert final["se"] == rows[best["trial"]][f"{FINAL}_se"]
    manifest = json.loads((done.home / "manifest.json").read_text())
    assert manifest["best"] == best and manifest["model"] == best["model"]
    second = best["runner_up"]
    assert second["tie"] == (second["trial"] in best["ties"])


def test_final_samples_estimate_the_same_evidence_as_an_evaluation(done):
    """Row by row, within six standard errors of the two estimates; from k = 8 they lie below."""
    best = done.best()
    final, quick = (done.table(best["trial"], f"{n}.parquet") for n in ("final", "validation"))
    loaded = bundle.load(done.home / best["model"])
    split = shards.open_split(done.home.parent / "digits", "val")
    ids, x = shards.arrays(split.sample(100), split.shape)
    view = loaded.dataset.build().frozen(torch.tensor(x), torch.tensor(ids))
    found = score(loaded.model, view, ids.tolist(), k=500, seed=1)
    error = found.log_evidence_se.numpy() * math.sqrt(2)
    off = np.abs(final["log_evidence"] - found.log_evidence.numpy())
    assert (off < 6 * np.maximum(error, 1e-3)).all()
    assert quick["log_evidence"].mean() < final["log_evidence"].mean()


class CutError(Exception):
    """An interruption."""


def test_a_second_look_that_is_cut_off_goes_on_where_it_was(make_place, tmp_path, monkeypatch):
    sweep, seen = Sweep(make_place(tmp_path)), []
    monkeypatch.setattr(leaderboard, "WITHIN", math.inf)  # all three are finalists
    original = LocalCompute.map

    def cut(self, target, units, common, workers=None):
        for unit, result in zip(units, original(self, target, units, common), strict=True):
            if len(seen) == 1:
                raise CutError
            seen.append(unit["trial"])
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(LocalCompute, "map", cut)
        with pytest.raises(CutError):
            sweep.run(space=LEARNING)
    assert not (sweep.home / "manifest.json").exists()
    (first,) = sweep.home.glob("trials/*/final.parquet")
    before = first.read_bytes()

    def counted(self, target, units, common, workers=None):
        seen.extend(unit["trial"] for unit in units)
        return original(self, target, units, common)

    monkeypatch.setattr(LocalCompute, "map", counted)
    assert sweep.run() == 0
    assert sorted(seen) == [0, 1, 2] and first.read_bytes() == before
    rows = sweep.rows()
    assert all(row[FINAL] is not None for row in rows)

    # other samples: the trials stay, their final numbers are new
    weights = {p: p.stat().st_mtime_ns for p in sweep.home.glob("trials/*/model/*.safetensors")}
    assert sweep.run(final_k=20) == 0
    assert sorted(seen[3:]) == [0, 1, 2] and sweep.best()["final"]["k"] == 20
    assert [row[METRIC] for row in sweep.rows()] == [row[METRIC] for row in rows]
    assert {p: p.stat().st_mtime_ns for p in weights} == weights


@pytest.mark.parametrize(
    "changes", [{"final_k": None}, {"final_k": 8}, {"metric": "val/elbo"}, {"metric": "val/rate"}]
)
def test_without_a_second_look_differences_are_of_the_validation(make_place, tmp_path, changes):
    """None is asked for, or would have no more samples (k: 8), or the metric is another."""
    sweep = Sweep(make_place(tmp_path))
    assert sweep.run(**changes) == 0
    rows, best, metric = sweep.rows(), sweep.best(), changes.get("metric", METRIC)
    assert "final" not in best and all(row[FINAL] is None for row in rows)
    choose = min if metric == "val/rate" else max
    assert best["value"] == choose(row[metric] for row in rows)
    (other,) = [row for row in rows if row["trial"] != best["trial"]]
    off = other[metric] - best["value"]
    assert other["difference_to_best"] == pytest.approx(off, abs=1e-12)
    assert other["difference_se"] > 0


def test_a_count_has_no_difference_in_nats(make_place, tmp_path):
    sweep = Sweep(make_place(tmp_path))
    assert sweep.run(metric="val/active_units") == 0
    assert all(row["difference_to_best"] is None for row in sweep.rows())
    assert sweep.best()["ties"] == []


def test_repeats_are_paired_by_their_means_and_their_spread_counts(make_place, tmp_path):
    sweep = Sweep(make_place(tmp_path))
    assert sweep.run(repeats=2, final_k=None) == 0
    rows = sweep.rows()
    evidence = [sweep.table(i, "validation.parquet")["log_evidence"] for i in range(4)]
    best = sweep.best()["trial"] // 2
    a, b = (np.stack(evidence[2 * i : 2 * i + 2]) for i in (1 - best, best))
    rows_off = a.mean(0) - b.mean(0)
    error = rows_off.var(ddof=1) / 100 + sum(m.mean(1).var(ddof=1) / 2 for m in (a, b))
    for row in rows[2 * best : 2 * best + 2]:
        assert row["difference_to_best"] is None
    for row in rows[2 * (1 - best) : 2 * (1 - best) + 2]:
        assert row["difference_to_best"] == pytest.approx(rows_off.mean(), abs=1e-12)
        assert row["difference_se"] == pytest.approx(math.sqrt(error))


def test_the_error_of_repeats_covers_rows_and_seeds():
    """Of settings that are equally good, as many lie within two errors as should: 95 %."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        rows = 3 * rng.normal(size=400)
        a, b = (
            rows + 0.3 * rng.normal(size=(8, 1)) + 0.5 * rng.normal(size=(8, 400)) for _ in "ab"
        )
        inside += paired(a, b).tie
    assert 0.92 < inside / 2000 < 0.97


def board(tmp_path, values, metric=METRIC, mode="max"):
    """A board over trials with these values `[n]` per validation row."""
    rows = []
    for trial, each in enumerate(values):
        folder = tmp_path / "trials" / f"{trial:05d}"
        folder.mkdir(parents=True)
        column = metric.removeprefix("val/")
        table = pa.table({"id": np.arange(len(each)), column: np.asarray(each, float)})
        pq.write_table(table, folder / "validation.parquet")
        model = f"trials/{trial:05d}/model"
        rows.append(
            {"trial": trial, "model": model, "setting.a": str(trial), metric: np.mean(each)}
        )
    return Board(tmp_path, rows, metric, mode)


def test_a_second_look_may_name_another_winner(tmp_path):
    """Its encoder was the worse one; of those that were looked at twice only."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=200)
    found = board(tmp_path, [rows, rows - 0.01 + 0.2 * rng.normal(size=200), rows - 9])
    assert [e.rows[0]["trial"] for e in found.finalists()] == [0, 1]
    for entry, gain in zip(found.finalists(), (0.1, 0.5), strict=True):
        found.promote(entry, entry.values + gain)
    found.compare()
    assert found.winner["trial"] == 1
    assert [e.rows[0]["trial"] for e in found.ranked()] == [1, 0, 2]
    assert found.ranked()[1].rows[0]["difference_to_best"] < -0.3
    far = found.ranked()[2].rows[0]  # compared by the samples that both have
    assert far["difference_to_best"] == pytest.approx(far[METRIC] - found.winner[METRIC])


def test_smaller_is_better_where_the_metric_says_so(tmp_path):
    rows = np.arange(50.0)
    found = board(tmp_path, [rows, rows - 1, rows + 1], "val/rate", "min")
    found.compare()
    assert [e.rows[0]["trial"] for e in found.ranked()] == [1, 0, 2]
    assert [e.rows[0].get("difference_to_best") for e in found.ranked()] == [None, 1, 2]


def test_trials_with_other_validation_rows_are_compared_on_those_they_share(tmp_path):
    rows = np.arange(50.0)
    found = board(tmp_path, [rows, rows[:20] + 9])
    found.compare()
    (other,) = found.ranked()[1].rows
    assert (found.winner["trial"], other["difference_to_best"]) == (0, 9.0)


def test_only_a_few_settings_are_finalists(tmp_path):
    values = np.random.default_rng(0).normal(size=(20, 30))
    assert len(board(tmp_path, values).finalists()) == leaderboard.MOST


def test_one_validation_row_has_no_error_and_no_tie(tmp_path):
    found = board(tmp_path, [[1.0], [1.0]])
    found.compare()
    assert len(found.finalists()) == 1
    (other,) = found.ranked()[1].rows
    assert (other["difference_to_best"], other["difference_se"]) == (0.0, None)
    assert not found.tie(found.ranked()[1])
