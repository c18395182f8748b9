"""A scheduler's SIGTERM on Ray: the command ends in seconds, leaves nothing, and continues."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

STAGES = {
    "fit": "fit/checkpoint",
    "pair": "pair/checkpoint",
    "tune": "tune/trials/00000/checkpoint",
    "score": "score/parts",
    "codes": "codes/_plan.json",
}
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "signals"}
SECONDS = 60
"""On a busy machine; a run that holds back the signal lives for hours."""


@pytest.fixture
def on_ray(place):
    """The small pipeline on Ray, with work that takes hours."""
    text = place.file.read_text().replace("type: local", "type: ray\n  gpus_per_worker: 0", 1)
    place.file.write_text(text)
    place.edit(
        fit={"epochs": 1},
        final=None,
        pair={"kind": "train", "settings": "fit", "epochs": 100_000, "workers": 2},
        tune={"space": {"epochs": {"grid": [100_000]}}},
        score={"model": "fit", "evidence": {"k": 10**6}},
        codes={"model": "fit", "refine": 10**6},
    )
    return place


def began(path, process):
    deadline = time.monotonic() + 180
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def of_session(session):
    """Commands of the living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, group = path.read_text().rpartition(")")[2].split()[:4]
            if int(group) == session and state != "Z":
                found.append((path.parent / "cmdline").read_text())
        except OSError:
            continue
    return found


def temporary(place):
    return [p for p in place.home.rglob(".*") if p.name == ".ray" or p.name.startswith(".tmp-")]


def nothing_is_left(place, process):
    deadline = time.monotonic() + 30
    while left := of_session(process.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    assert temporary(place) == []


@pytest.mark.cluster
@pytest.mark.parametrize("stage", STAGES)
def test_sigterm_ends_every_stage_on_ray(on_ray, stage):
    if stage == "fit":
        on_ray.edit(fit={"epochs": 100_000})
    process = on_ray.start("run", on_ray.file, "--only", stage, session=True)
    began(on_ray.home / STAGES[stage], process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 143, err
    assert "Traceback" not in err and f"{stage} (" in err and "interrupted" in err
    assert on_ray.stages()[stage]["status"] == "interrupted"
    assert not (on_ray.home / stage / "manifest.json").exists()
    nothing_is_left(on_ray, process)


@pytest.mark.cluster
def test_sigterm_while_ray_starts_ends_the_run_too_and_it_continues(on_ray):
    process = on_ray.start("run", on_ray.file, "--only", "pair", session=True)
    began(on_ray.home / "digits" / "manifest.json", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 143, err
    nothing_is_left(on_ray, process)
    code, _, err = on_ray.run("--only", "pair", "--set", "stages.pair.epochs=2")
    assert code == 0, err


FREE = """
import ray
ray.init(log_to_driver=False, logging_level="ERROR")
print(ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0))
"""


def python(place, code, **env):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=place.environment(**env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.fixture
def address(place):
    """Of a cluster that somebody else runs on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--num-cpus", "2", "--include-dashboard=false", "--disable-usage-stats"]
    with subprocess.Popen(
        [
            Path(sys.executable).with_name("ray"),
            "start",
            "--head",
            "--block",
            "--port",
            str(port),
            *options,
        ],
        env=place.environment(RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="0", **TOKEN),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as head:
        while "Ray runtime started" not in head.stdout.readline():
            assert head.poll() is None
        yield f"127.0.0.1:{port}"
        assert head.poll() is None
        head.terminate()
        head.communicate(timeout=60)


@pytest.mark.cluster
def test_a_joined_cluster_stays_and_is_free_again(on_ray, address):
    process = on_ray.start("run", on_ray.file, "--only", "tune", RAY_ADDRESS=address, **TOKEN)
    began(on_ray.home / STAGES["tune"], process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 143, err
    assert temporary(on_ray) == []
    used, _ = python(on_ray, FREE, RAY_ADDRESS=address, **TOKEN).communicate(timeout=120)
    assert float(used) == 0.0
    journal = on_ray.home / "tune/trials/00000/journal.jsonl"
    written = journal.stat().st_size
    time.sleep(1)
    assert journal.stat().st_size == written


WAITS = """
import sys, time
from vaepipe.cli.signals import listening
with listening() as asked:
    try:
        print("ready", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        import subprocess
        child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
        print(child.pid, flush=True)
        time.sleep(float(sys.argv[1]))
        sys.exit(asked.code)
"""


def waiting(seconds):
    command = [sys.executable, "-c", WAITS, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("second", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_a_shutdown_at_once_with_its_processes(second, code):
    process = waiting(600)
    process.send_signal(signal.SIGTERM)
    child = int(process.stdout.readline())
    time.sleep(1.5)
    process.send_signal(second)
    process.communicate(timeout=30)
    assert process.returncode == code
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(child, 0)
            time.sleep(0.1)


def test_two_signals_at_once_are_one(tmp_path):
    """`timeout` sends its signal to the process and then to its group."""
    process = waiting(2)
    process.send_signal(signal.SIGTERM)
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    os.kill(child, signal.SIGKILL)
