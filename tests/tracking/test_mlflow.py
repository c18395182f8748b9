"""What MLflow shows of a run, and what happens when it is not there."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vaepipe.errors import Unreachable, UserError
from vaepipe.tracking import outbox
from vaepipe.tracking.mlflow import UNSENT, MLflowTracker

MOMENT = 1_800_000_000.0
SPEC = {"shape": [1, 8, 8], "support": "boolean", "num_examples": 1437}


def client(tracker):
    return tracker.store.client


def told(tracker, record):
    """A run as the store has it, once everything was delivered."""
    assert tracker.outbox.wait(60)
    return client(tracker).get_run(record.id)


def test_trials_are_nested_below_their_sweep_and_know_their_commit_and_user(store):
    parent = store.start("tune")
    child = store.start("tune-00000", parent=parent.id)
    tags = told(store, child).data.tags
    assert tags["mlflow.parentRunId"] == parent.id
    assert tags["mlflow.runName"] == "tune-00000"
    assert tags["mlflow.source.name"] == "vaepipe"
    assert tags["mlflow.user"]
    inside = subprocess.run(
        ["git", "rev-parse", "HEAD"], check=False, capture_output=True, text=True
    )
    assert tags.get("mlflow.source.git.commit", "") == inside.stdout.strip()


def test_settings_are_flat_text_and_long_ones_are_cut(store):
    record = store.start("fit")
    record.params(
        {"model": {"prior": {"type": "vamp", "k": 5}, "latent_shape": [2, 3]}, "lr": 1e-3}
    )
    record.params({"none": None, "long": "x" * 7000, "odd[key]": True})
    assert told(store, record).data.params == {
        "model.prior.type": "vamp",
        "model.prior.k": "5",
        "model.latent_shape": "[2, 3]",
        "lr": "0.001",
        "none": "null",
        "long": "x" * 5999 + "…",
        "odd_key_": "true",
    }


def test_more_than_a_call_may_carry_arrives_in_several(store):
    record = store.start("fit")
    record.params({f"p{i}": i for i in range(250)})
    record.tags({f"t{i}": "x" * 9000 if i == 0 else "" for i in range(150)})
    for step in range(1500):
        record.metrics(step, {"train/bound": -float(step), "val/elbo": 1.0}, MOMENT + step)
    run = told(store, record)
    assert len(run.data.params) == 250
    assert len([t for t in run.data.tags if t[0] == "t" and t[1:].isdigit()]) == 150
    history = client(store).get_metric_history(record.id, "train/bound")
    assert [(m.step, m.value, m.timestamp) for m in history] == [
        (step, -float(step), int((MOMENT + step) * 1000)) for step in range(1500)
    ]


def test_values_that_are_no_numbers_arrive_as_such(tracker_http):
    record = tracker_http.start("fit")
    record.metrics(1, {"nan": math.nan, "infinite": math.inf}, MOMENT)
    metrics = told(tracker_http, record).data.metrics
    assert math.isnan(metrics["nan"])
    assert metrics["infinite"] > 1e300


def test_a_run_shows_the_data_it_read(store):
    import mlflow.data

    record = store.start("fit")
    record.dataset("digits/train", "/w/digits/train", "f" * 64, json.dumps(SPEC), "training")
    record.dataset("digits/val", "s3://b/digits/val", "e" * 64, "free text", "validation")
    inputs = {i.dataset.name: i for i in told(store, record).inputs.dataset_inputs}
    train, val = inputs["digits/train"], inputs["digits/val"]
    assert (train.tags[0].key, train.tags[0].value) == ("mlflow.data.context", "training")
    assert train.dataset.digest == "f" * 36
    assert mlflow.data.get_source(train.dataset).uri == "/w/digits/train"
    assert val.dataset.source_type == "s3"
    assert "[-1, 1, 8, 8]" in json.loads(train.dataset.schema)["mlflow_tensorspec"]["features"]
    assert json.loads(train.dataset.profile) == SPEC


def test_files_and_folders_are_artifacts(store, tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "summary.parquet").write_bytes(b"table")
    (tmp_path / "report.html").write_text("page")
    record = store.start("score")
    record.file(tmp_path / "eval")
    record.file(tmp_path / "report.html", "report")
    record.finish("FINISHED")
    listed = {
        f.path for top in ("eval", "report") for f in client(store).list_artifacts(record.id, top)
    }
    assert listed == {"eval/summary.parquet", "report/report.html"}


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_ends_with_its_status(store, status):
    record = store.start("fit")
    record.finish(status)
    assert told(store, record).info.status == status


def test_a_run_that_was_deleted_is_not_continued(store):
    record = store.start("fit")
    client(store).delete_run(record.id)
    assert store.start("fit", resume=record.id).id != record.id


def test_scores_of_a_model_stand_at_the_last_step_of_its_run(store, model_bundle):
    record = store.start("fit")
    record.metrics(70, {"val/log_evidence": -91.0}, MOMENT)
    uri = record.model(model_bundle)
    record.score(uri, {"test/log_evidence": -90.0})
    told(store, record)
    logged = client(store).get_logged_model(uri.removeprefix("models:/"))
    score = next(m for m in logged.metrics if m.key == "test/log_evidence")
    assert (score.value, score.step, logged.source_run_id) == (-90.0, 70, record.id)
    assert (logged.model_type, str(logged.status)) == ("vae", "READY")
    outputs = client(store).get_run(record.id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [logged.model_id]


def test_a_parameter_cannot_change_and_the_rest_of_the_run_is_kept(store, workspace, caplog):
    record = store.start("fit")
    record.params({"lr": 1})
    assert store.outbox.wait(60)
    with caplog.at_level(logging.WARNING, "vaepipe.tracking"):
        record.params({"lr": 2})
        record.metrics(1, {"m": 1.0}, MOMENT)
        run = told(store, record)
    assert run.data.params == {"lr": "1"}
    assert run.data.metrics == {"m": 1.0}
    assert "refuses" in caplog.text
    (workspace / UNSENT / outbox.REFUSED).unlink()


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V22"])
def test_reserved_aliases_are_refused_before_anything_is_registered(store, model_bundle, alias):
    uri = store.start("fit").model(model_bundle)
    with pytest.raises(UserError, match="reserves the alias"):
        store.register(uri, "reserved", alias, {})
    with pytest.raises(UserError, match="no registered model 'reserved'"):
        store.fetch("models:/reserved/1")


def test_messages_name_what_there_is(store, model_bundle):
    uri = store.start("fit").model(model_bundle)
    store.register(uri, "mnist-vae", "champion", {"vaepipe.stage": "fit"})
    for wrong, message in {
        "models:/mnist-vea/1": r"no registered model 'mnist-vea'\. Did you mean 'mnist-vae'\?",
        "models:/mnist-vae/9": r"no version 9\. Versions: 1",
        "models:/mnist-vae@champ": r"no alias 'champ'\. Did you mean 'champion'\?.*version 1",
        "models:/mnist-vae": "is no model URI",
        "runs:/abc": "no run 'abc'",
    }.items():
        with pytest.raises(UserError, match=message):
            store.fetch(wrong)


def test_a_run_and_a_version_lead_to_the_same_bundle(store, model_bundle):
    record = store.start("fit")
    uri = record.model(model_bundle)
    version = store.register(uri, "led", None, {"vaepipe.stage": "fit"})
    same = {f"runs:/{record.id}", f"runs:/{record.id}/model", f"models:/led/{version}",
            "models:/led/latest"}  # fmt: skip
    assert {store.fetch(other) for other in same} == {store.fetch(uri)}
    entry = client(store).get_model_version("led", version)
    assert (entry.source, entry.run_id, entry.tags) == (uri, record.id, {"vaepipe.stage": "fit"})


def test_a_run_without_a_model_says_so(store):
    record = store.start("score")
    with pytest.raises(UserError, match="logged no model"):
        store.fetch(f"runs:/{record.id}")


def test_a_deleted_experiment_is_named_with_the_way_back(store, workspace):
    client(store).delete_experiment(store.store.experiment)
    name = client(store).get_experiment(store.store.experiment).name
    with pytest.raises(UserError, match="mlflow experiments restore"):
        MLflowTracker().open(name, workspace)


def test_looking_makes_no_experiment(workspace, store):
    before = len(client(store).search_experiments())
    looker = MLflowTracker()
    looker.connect(workspace)
    looker.close()
    assert len(client(store).search_experiments()) == before


def test_nothing_is_written_outside_the_workspace_and_no_setting_of_the_user_is_lost(
    tmp_path, monkeypatch, model_bundle
):
    import mlflow

    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "33")
    tracker = MLflowTracker()
    tracker.open("alone", tmp_path / "work")
    record = tracker.start("fit")
    tracker.register(record.model(model_bundle), "m", "champion", {})
    tracker.close()
    assert list((tmp_path / "cwd").iterdir()) == []
    assert {p.name for p in (tmp_path / "work").iterdir()} == {
        ".mlflow.db.lock", "mlartifacts", "mlflow.db",
    }  # fmt: skip
    assert not mlflow.is_tracking_uri_set()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "33"


QUIET = """
import logging, sys, threading
from pathlib import Path
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s %(message)s")
kept = list(logging.root.handlers)
logging.getLogger("alembic").addHandler(mine := logging.NullHandler())
import vaepipe.tracking.mlflow as tracking
assert "mlflow" not in sys.modules, "imported before it is needed"
tracker = tracking.MLflowTracker()
tracker.open("quiet", Path(sys.argv[1]))
tracker.start("fit").finish("FINISHED")
tracker.close()
assert logging.root.handlers == kept and logging.root.level == logging.INFO
assert mine in logging.getLogger("alembic").handlers and logging.getLogger("alembic").propagate
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None, "telemetry is on"
logging.getLogger("the.user").info("still heard")
"""


def test_a_fresh_store_opens_without_noise_telemetry_or_changes_to_logging(tmp_path):
    unset = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "PYTEST", "CI"))}
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(tmp_path)],
        env=unset, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "the.user still heard\n")


WRITER = """
import sys, time
from pathlib import Path
from vaepipe.tracking.mlflow import MLflowTracker
tracker = MLflowTracker()
tracker.open(sys.argv[2], Path(sys.argv[1]))
record = tracker.start(f"process-{sys.argv[3]}")
for step in range(50):
    record.metrics(step, {"m": float(step)}, time.time())
record.finish("FINISHED")
tracker.close()
print(record.id)
"""


@pytest.mark.slow
def test_four_processes_that_open_a_fresh_database_together_share_it(tmp_path):
    def write(number):
        command = [sys.executable, "-c", WRITER, str(tmp_path), "shared", str(number)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(write, range(4)))
    assert [(d.returncode, d.stderr) for d in done] == [(0, "")] * 4
    after = MLflowTracker()
    after.open("shared", tmp_path)
    for run_id in (d.stdout.strip() for d in done):
        assert len(client(after).get_metric_history(run_id, "m")) == 50

    after.close()


def test_a_server_that_is_not_there_is_unreachable(tmp_path):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        tracker = MLflowTracker(uri=f"http://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(Unreachable, match="does not answer"):
            tracker.open("x", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_server_that_takes_connections_and_never_answers_is_unreachable(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        tracker = MLflowTracker(uri=f"http://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(Unreachable, match="does not answer"):
            tracker.open("x", tmp_path)


@pytest.fixture
def hurry(monkeypatch):
    monkeypatch.setattr(outbox, "PAUSES", (0.05, 0.1))


@pytest.fixture
def tracker_http(door, request, tmp_path, hurry):
    tracker = MLflowTracker(uri=door.uri)
    tracker.open(request.node.name, tmp_path)
    yield tracker
    tracker.close()


def test_a_server_that_goes_away_and_comes_back_loses_nothing(tracker_http, door, model_bundle):
    parent = tracker_http.start("tune")
    door.shut()
    for step in range(20):
        parent.metrics(step, {"m": float(step)}, MOMENT)
    child = tracker_http.start("tune-00000", parent=parent.id)
    child.params({"lr": 1})
    child.finish("FINISHED")
    assert child.id.startswith("pending-")
    with pytest.raises(Unreachable, match="cannot be logged"):
        child.model(model_bundle)
    door.open()
    assert child.model(model_bundle).startswith("models:/m-")
    run = told(tracker_http, child)
    assert (run.info.run_id, run.info.status) == (child.id, "FINISHED")
    assert run.data.tags["mlflow.parentRunId"] == parent.id
    assert len(client(tracker_http).get_metric_history(parent.id, "m")) == 20


def test_what_a_process_could_not_deliver_the_next_one_does(door, tmp_path, hurry, caplog, request):
    name = request.node.name
    first = MLflowTracker(uri=door.uri)
    first.open(name, tmp_path)
    known = first.start("known")
    door.shut()
    late = first.start("late", parent=known.id)
    late.metrics(1, {"m": 0.5}, MOMENT)
    known.finish("FINISHED")
    pending = late.id
    with caplog.at_level(logging.WARNING, "vaepipe.tracking"):
        first.close()
    assert "3 updates could not be delivered" in caplog.text
    door.open()
    second = MLflowTracker(uri=door.uri)
    second.open(name, tmp_path)
    again = second.start("late", resume=pending)
    run = told(second, again)
    assert (run.info.run_id, run.data.metrics) == (again.id, {"m": 0.5})
    assert run.data.tags["mlflow.parentRunId"] == known.id
    assert client(second).get_run(known.id).info.status == "FINISHED"
    runs = client(second).search_runs([second.store.experiment])
    assert sorted(r.info.run_name for r in runs) == ["known", "late"]
    second.close()
    assert not Path(tmp_path / UNSENT).exists()
