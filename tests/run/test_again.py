"""What happens when a run is cut off, repeated, changed, or asked for the impossible."""

import json
import os
import signal
import time

import pyarrow.parquet as pq
import pytest


def bytes_of(place, *stages):
    names = ("weights.safetensors", "model.json", "per_example.parquet", "trials.parquet")
    return {
        path.relative_to(place.home): path.read_bytes()
        for stage in stages
        for path in sorted((place.home / stage).rglob("*"))
        if path.name in names or path.name.startswith("part-")
    }


def weights(place, stage="final"):
    return (place.home / stage / "model" / "weights.safetensors").read_bytes()


def wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    "moment",
    [
        "digits/started.json",
        "fit/journal.jsonl",
        "tune/trials/00001/journal.jsonl",
        "score/parts",
        "codes/_plan.json",
    ],
)
def test_a_killed_run_ends_as_if_nothing_had_happened(place, finished, moment):
    process = place.start("run", place.file)
    wait_for(place.home / moment, process)
    place.kill(process)
    code, _, err = place.run()
    assert code == 0, err
    assert (
        bytes_of(place, "digits", "fit", "final").keys()
        == bytes_of(finished, "digits", "fit", "final").keys()
    )
    assert weights(place) == weights(finished)
    latents = pq.read_table(next((place.home / "codes").glob("part-00000*")))
    assert latents["mean"].equals(
        pq.read_table(next((finished.home / "codes").glob("part-00000*")))["mean"]
    )
    assert not list(place.workspace.rglob(".tmp-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_run_with_their_code_and_it_continues(place, number, code):
    place.edit(fit={"epochs": 400})
    process = place.start("run", place.file, "--only", "fit")
    wait_for(place.home / "fit" / "checkpoint", process)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert place.stages()["fit"]["status"] == "interrupted"
    assert not (place.home / "fit" / "manifest.json").exists()
    code, _, err = place.run("--only", "fit", "--set", "stages.fit.epochs=400")
    assert code == 0, err
    lines = (place.home / "fit" / "journal.jsonl").read_text().splitlines()
    starts = [json.loads(line) for line in lines]
    resumed = [e["resumed_from"] for e in starts if e["event"] == "start"]
    assert resumed[0] is None and resumed[-1] > 0


def test_two_runs_of_one_pipeline_at_once_are_refused(place):
    place.edit(fit={"epochs": 400})
    process = place.start("run", place.file, "--only", "fit")
    wait_for(place.home / "fit" / "journal.jsonl", process)
    code, _, err = place.run("--only", "fit")
    place.kill(process)
    assert code == 2
    assert str(process.pid) in err


def test_changed_settings_run_what_depends_on_them_and_keep_the_old(place):
    place.edit(tune=None, final={"settings": "fit"}, codes=None)
    assert place.run()[0] == 0
    first = weights(place)
    code, _, err = place.run("--set", "stages.final.epochs=1")
    assert code == 0
    assert "digits (data) done already" in err and "fit (train) done already" in err
    assert "final (train) running" in err and "score (evaluate) running" in err
    assert weights(place) != first
    code, _, err = place.run()
    assert code == 0
    assert "final (train) running" not in err
    assert weights(place) == first


def test_a_sweep_is_extended_by_more_trials(place):
    place.edit(
        tune={
            "search": {"type": "random"},
            "trials": 2,
            "space": {"optimizer.lr": {"log_uniform": [1e-3, 1e-2]}},
        },
        final=None,
        score=None,
        codes=None,
    )
    assert place.run()[0] == 0
    kept = bytes_of(place, "tune/trials")
    code, _, err = place.run("--set", "stages.tune.trials=3")
    assert code == 0, err
    after = bytes_of(place, "tune/trials")
    assert all(after[path] == content for path, content in kept.items())
    assert pq.read_table(place.home / "tune" / "trials.parquet").num_rows == 3
    journal = (place.home / "tune/trials/00000/journal.jsonl").read_text()
    assert journal.count('"start"') == 1


def test_a_failing_trial_is_counted_and_the_rest_goes_on(place):
    place.edit(
        tune={"space": {"optimizer.lr": {"grid": [5e-3, 1e30]}}},
        score=None,
        codes=None,
    )
    code, _, err = place.run()
    assert code == 3, err
    assert "1 of 2 trials of 'tune' failed" in err
    trials = pq.read_table(place.home / "tune" / "trials.parquet").to_pylist()
    assert [t["status"] for t in trials] == ["done", "failed"]
    assert "became" in trials[1]["error"] and "optimizer.lr" in trials[1]["error"]
    assert weights(place)


def starts(place, trial):
    return (place.home / f"tune/trials/{trial:05d}/journal.jsonl").read_text().count('"start"')


def test_failed_trials_are_reported_until_they_are_run_once_more(place):
    place.edit(
        tune={"space": {"optimizer.lr": {"grid": [5e-3, 1e30]}}},
        final=None,
        score={"model": "fit"},
        codes=None,
    )
    assert place.run("--only", "tune")[0] == 3
    told = "1 of 2 trials of 'tune' failed"
    for arguments in ([], ["--json"], ["--only", "tune"]):  # with work left, and then with none
        code, _, err = place.run(*arguments)
        assert code == 3 and told in err and "does not retry" in err, err
    assert place.run("--only", "score")[0] == 0
    assert [starts(place, i) for i in (0, 1)] == [1, 1]
    remedy = place.home / "tune" / "manifest.json"
    assert str(remedy) in err
    remedy.unlink()
    assert place.run("--only", "tune")[0] == 3
    assert [starts(place, i) for i in (0, 1)] == [1, 2]


def test_when_every_trial_fails_the_run_fails_with_the_reason(place):
    place.edit(tune={"space": {"optimizer.lr": {"grid": [1e29, 1e30]}}})
    code, _, err = place.run()
    assert code == 1
    assert "none of 2 trials" in err and "Traceback" not in err
    assert not (place.home / "final").exists()


def test_parts_that_do_not_compose_are_refused_before_anything_is_written(place):
    place.edit(digits={"dataset": {"type": "digits", "binarize": "none"}})
    code, _, err = place.run()
    assert code == 2
    assert "small.yaml" in err and "stages.fit" in err and "bernoulli" in err and "binarize" in err
    assert "Traceback" not in err
    assert not place.workspace.exists()


def test_a_requirement_that_is_not_met_registers_nothing(place):
    publish = {"kind": "register", "model": "final", "name": "small-vae"}
    place.edit(publish={**publish, "requires": {"score/log_evidence": {"at_least": 0.0}}})
    code, _, err = place.run()
    assert code == 2
    assert "required: at least 0.0" in err and "Not registered" in err
    assert place.stages()["publish"]["status"] == "failed"


def test_missing_mnist_without_a_network_is_exit_2_and_nothing_is_written(place, tmp_path):
    place.edit(digits={"dataset": {"type": "mnist", "binarize": "dynamic"}})
    blocked = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    code, _, err = place.run(VAEPIPE_DATA=str(tmp_path / "none"), **blocked)
    assert code == 2
    assert str(tmp_path / "none" / "MNIST" / "raw") in err
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        assert name in err
    assert "digits" in err and "Traceback" not in err
    assert not place.workspace.exists()
    code, _, err = place.run("--only", "fit", "--set", "stages.digits.dataset={type: digits}")
    assert code == 0, err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "missing.yaml"], ["missing.yaml"]),
        (["rnu"], ["Did you mean 'run'"]),
        (["run", "small.yaml", "--only", "fot"], ["Did you mean 'fit'"]),
        (["run", "small.yaml", "--workspace", "s3://bucket/x"], ["URI"]),
        (["encode", "--model", "nowhere", "--input", "x", "--output", "y"], ["nowhere"]),
        (["run", "small.yaml", "--address", "127.0.0.1:1"], ["--address", "local"]),
        (["report", "."], ["run.json"]),
        (["sample", "--model", "nowhere", "--output", "a.gif"], [".png"]),
    ],
)
def test_mistakes_on_the_command_line_are_one_clear_line(place, args, words):
    code, out, err = place.vaepipe(*args)
    assert code == 2, err
    assert all(word in err for word in words), err
    assert "Traceback" not in err and out == ""


def test_an_unreachable_tracking_server_is_exit_5(place):
    place.file.write_text(place.file.read_text().replace("memory", "mlflow"))
    code, _, err = place.run(MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert code == 5
    assert "127.0.0.1:9" in err and "Traceback" not in err


def test_help_and_listing_import_no_heavy_library(place):
    code = (
        "import sys\nfrom vaepipe.cli import call\n"
        "call(sys.argv[1:])\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pyarrow', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    import subprocess
    import sys

    for args in (["--help"], ["plugins", "list"], ["run", "--help"], ["--version"], ["runs"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            capture_output=True,
            text=True,
            cwd=place.folder,
            env=place.environment(),
            check=False,
        )
        assert done.returncode == 0, done.stderr
