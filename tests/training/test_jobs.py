"""Whole fits: resumed, stopped, shared between ranks; what they leave behind."""

import multiprocessing
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from fits import digits as write_digits
from fits import fit_rank, fit_task, own, part
from runs import COMPUTE, curve, epochs, events, fit, killed, same, weights
from safetensors.torch import load_file

from vaepipe.compute import jobs, outputs
from vaepipe.compute.local import LocalCompute
from vaepipe.errors import CompatibilityError, TrainingError
from vaepipe.training import bundle


@pytest.fixture(scope="module")
def plain(digits, tmp_path_factory):
    return fit(digits, tmp_path_factory.mktemp("plain") / "fit", epochs=4)


def test_a_fit_learns_and_leaves_model_history_and_journal(plain):
    evidence = [m["val/log_evidence"] for m in curve(plain)]
    assert evidence[-1] > evidence[0] + 1
    assert [e["event"] for e in events(plain)] == ["start", *["epoch"] * 4, "done"]
    assert events(plain)[0]["steps_per_epoch"] == 12
    assert events(plain)[-1]["best_epoch"] == 4
    history = pq.read_table(Path(plain.output) / outputs.HISTORY).to_pylist()
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert [row["val/log_evidence"] for row in history] == evidence
    card = bundle.load(Path(plain.output) / outputs.MODEL).card
    assert card["fingerprint"] == plain.fingerprint
    assert card["metrics"]["val/log_evidence"] == evidence[-1]


def test_the_metrics_are_those_that_others_rely_on(plain):
    assert set(epochs(plain)[0]["metrics"]) == {
        "train/bound",
        "train/log_lik",
        "train/rate",
        "val/log_evidence",
        "val/log_evidence_se",
        "val/elbo",
        "val/rate",
        "val/log_lik",
        "val/active_units",
        "lr",
        "examples_per_second",
    }


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(plain, digits, tmp_path):
    again = fit(digits, tmp_path / "again", epochs=4)
    other = fit(digits, tmp_path / "other", epochs=4, seed=12)
    assert same(weights(again), weights(plain))
    assert curve(again) == curve(plain)
    assert not same(weights(other), weights(plain))


def test_a_fit_that_is_done_is_not_done_again(plain):
    before = events(plain)
    COMPUTE.train(plain)
    assert events(plain) == before


@pytest.mark.parametrize("step", [25, 36])
def test_a_killed_fit_that_is_run_again_ends_with_the_same_bits(step, plain, digits, tmp_path):
    task = fit_task(digits, tmp_path / "fit", epochs=4)
    assert killed(task, step) == -signal.SIGKILL
    COMPUTE.train(task)
    assert [e["resumed_from"] for e in events(task) if e["event"] == "start"] == [None, step // 12]
    assert same(weights(task), weights(plain))
    assert curve(task) == curve(plain)


def test_other_settings_start_anew(digits, tmp_path):
    first = fit(digits, tmp_path / "fit", epochs=2)
    second = fit(digits, tmp_path / "fit", epochs=2, fingerprint="b", seed=5)
    starts = [e for e in events(second) if e["event"] == "start"]
    assert [e["resumed_from"] for e in starts] == [None, None]
    fresh = fit(digits, tmp_path / "fresh", epochs=2, fingerprint="b", seed=5)
    assert same(weights(second), weights(fresh))
    assert outputs.outcome(first, "val/elbo") == outputs.outcome(fresh, "val/elbo")


def test_an_epoch_that_the_journal_missed_is_told_when_the_fit_goes_on(digits, tmp_path):
    task = fit_task(digits, tmp_path / "fit", epochs=3)
    killed(task, 23)
    journal = Path(task.output) / outputs.JOURNAL
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))
    COMPUTE.train(task)
    assert [e["epoch"] for e in epochs(task)] == [1, 2, 3]


def test_a_fit_that_diverges_says_which_term_and_keeps_its_checkpoint(digits, tmp_path):
    task = fit_task(digits, tmp_path / "fit", objective=own("Diverging", step=15))
    with pytest.raises(TrainingError, match=r"fit: 'log_lik' became nan at step 15 \(epoch 2"):
        COMPUTE.train(task)
    last = events(task)[-1]
    assert last["event"] == "failed"
    assert "log_lik" in last["error"]
    assert "Traceback" in last["traceback"]
    assert jobs.finalize(task).epoch == 1
    assert outputs.outcome(task, "val/elbo") is None


def test_a_mistake_in_a_component_is_a_training_error_with_its_cause(digits, tmp_path):
    task = fit_task(digits, tmp_path / "fit", objective=own("Broken"))
    with pytest.raises(TrainingError, match="fit: KeyError: 'a mistake'") as caught:
        COMPUTE.train(task)
    assert isinstance(caught.value.__cause__, KeyError)


def test_no_weights_are_best_before_the_warm_up_is_over(digits, tmp_path):
    warm_up = part("objectives", "elbo", {"warmup_epochs": 3.0})
    task = fit(digits, tmp_path / "fit", objective=warm_up, epochs=5)
    assert [e["best_epoch"] for e in epochs(task)][:3] == [1, 2, 3]  # the last, for want of a best
    assert events(task)[-1]["best_epoch"] >= 3


def test_patience_ends_a_fit_that_does_not_get_better(digits, tmp_path):
    schedule = {"type": "sgd", "lr": 1e-12}
    task = fit(digits, tmp_path / "fit", optimizer=schedule, epochs=50, patience=3)
    last = events(task)[-1]
    assert last["event"] == "done"
    assert len(epochs(task)) == last["best_epoch"] + 3


def test_without_a_validation_split_the_last_weights_are_kept(tmp_path):
    data = write_digits(tmp_path / "data", splits=("train",))
    task = fit(data, tmp_path / "fit", epochs=2)
    assert not any(name.startswith("val/") for name in curve(task)[-1])
    assert events(task)[-1]["best_epoch"] == 2
    assert outputs.outcome(task, "train/bound") == curve(task)[-1]["train/bound"]


def test_validation_and_checkpoints_every_other_epoch(digits, tmp_path):
    rarely = {"examples": 60, "k": 4, "every": 2}
    task = fit(digits, tmp_path / "fit", epochs=5, validation=rarely)
    validated = ["val/elbo" in m for m in curve(task)]
    assert validated == [False, True, False, True, True]


def test_a_report_can_stop_a_fit_which_then_leaves_its_model(digits, tmp_path):
    task = fit_task(digits, tmp_path / "fit", epochs=9)
    told = []

    def report(metrics):
        told.append(metrics["epoch"])
        return "too slow" if metrics["epoch"] == 2 else None

    jobs.train_job(task, report=report)
    last = events(task)[-1]
    assert (last["event"], last["epoch"], last["reason"]) == ("stopped", 2, "too slow")
    assert told == [1, 2]
    assert outputs.ended(task) == "stopped"
    bundle.load(Path(task.output) / outputs.MODEL)


def test_the_last_epoch_is_reported_when_the_model_is_there(digits, tmp_path):
    task = fit_task(digits, tmp_path / "fit", epochs=2)
    there = []
    jobs.train_job(task, report=lambda metrics: there.append(outputs.ended(task)))
    assert there == [None, "done"]


@pytest.mark.parametrize(
    ("objective", "accumulate"),
    [(own("Noiseless"), 3), (own("Alternating"), 1)],
    ids=["one phase, batches in parts", "two phases"],
)
def test_two_ranks_end_with_the_same_parameters(objective, accumulate, tmp_path):
    """Without noise, those of one worker with whole batches, where the ranks leave out no row."""
    context = multiprocessing.get_context("spawn")
    even = write_digits(tmp_path / "data", rows=11 * 128)
    still = replace(even, dataset=part("datasets", "digits", {"binarize": "threshold"}))
    changes = {"epochs": 2, "objective": objective}
    task = fit_task(still, tmp_path / "fit", accumulate=accumulate, **changes)
    ranks = [context.Process(target=fit_rank, args=(i, 2, task, tmp_path)) for i in range(2)]
    for process in ranks:
        process.start()
    alone = jobs.train_job(fit_task(still, tmp_path / "alone", **changes))
    for process in ranks:
        process.join(timeout=240)
    assert [process.exitcode for process in ranks] == [0, 0]
    one, other = (load_file(tmp_path / f"rank-{i}.safetensors") for i in range(2))
    assert same(one, other)
    if objective.type == "Noiseless":
        for name, value in alone.state_dict().items():
            assert torch.allclose(value, one[name], rtol=1e-3, atol=1e-5), name
    assert events(task)[0]["world_size"] == 2
    # each rank takes half of every batch, so an epoch has as many steps as with one worker
    assert events(task)[0]["steps_per_epoch"] == 11


def test_a_task_is_worked_on_by_one_process_at_a_time(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "PATIENCE", 0.3)
    task = fit_task(digits, tmp_path / "fit")
    Path(task.output).mkdir()
    with outputs.alone(task):
        started = time.monotonic()
        with pytest.raises(TrainingError, match="another process is still at work"):
            jobs.train_job(task)
        assert time.monotonic() - started >= 0.3
    jobs.train_job(task)


def test_one_process_has_one_worker(digits, tmp_path):
    with pytest.raises(CompatibilityError, match="type: ray"):
        LocalCompute(workers=2)
    with pytest.raises(CompatibilityError, match="2 workers"):
        COMPUTE.train(fit_task(digits, tmp_path / "fit", workers=2))


def test_threads_are_put_back(digits, tmp_path):
    before = torch.get_num_threads()
    seen = []

    class Spy(dict):
        def __call__(self, unit):
            seen.append(torch.get_num_threads())
            return unit

    sys.modules["spy_module"] = type(sys)("spy_module")
    sys.modules["spy_module"].Spy = Spy
    compute = LocalCompute(threads_per_worker=before + 1)
    assert list(compute.map("spy_module:Spy", [{"x": 1}], {})) == [{"x": 1}]
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_a_schedule_that_never_ends_is_warned_of_and_the_last_weights_are_kept(digits, tmp_path):
    """Once, also where the fit is resumed."""
    late = part("objectives", "elbo", {"warmup_epochs": 3})
    task = fit_task(digits, tmp_path / "fit", epochs=3, objective=late)
    jobs.train_job(task)
    (warning,) = [e for e in events(task) if e["event"] == "warning"]
    assert "does not end within 3 epochs (beta is 0.9" in warning["text"]
    assert "the last is kept" in warning["text"]
    soon = part("objectives", "elbo", {"warmup_epochs": 2})
    task = fit_task(digits, tmp_path / "soon", epochs=3, objective=soon)
    jobs.train_job(task)
    assert not [e for e in events(task) if e["event"] == "warning"]
