"""Reaching a cluster, and what is found there."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fits import fit_task

from vaepipe.compute import ray_connect
from vaepipe.compute.ray_cluster import RayCompute
from vaepipe.compute.ray_connect import Share
from vaepipe.errors import Unreachable, UserError

pytestmark = pytest.mark.cluster


def test_an_address_where_nobody_answers_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Unreachable, match=f"no Ray cluster answers at {address}"):
        ray_connect.join(address, threads=1)


@pytest.mark.parametrize("address", ["ray://head:10001", "head"])
def test_addresses_that_cannot_work_say_what_would(address):
    with pytest.raises(UserError, match=r"host:(6379|port)"):
        ray_connect.join(address, threads=1)


def test_the_address_of_the_environment_is_used(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    assert RayCompute().address == "somewhere:6379"
    assert RayCompute(address="local").address == "local"


def test_equal_nodes_pass_and_others_are_named_with_the_distribution(cluster, monkeypatch):
    list(cluster.map("fits:Square", [{"x": 1}], {"add": 0}))
    ray_connect.preflight()
    here = ray_connect.installed() | {"torch": "1.0", "vaepipe-elsewhere": "2.0"}
    monkeypatch.setattr(ray_connect, "installed", lambda: here)
    with pytest.raises(UserError) as caught:
        ray_connect.preflight()
    assert "this machine has torch 1.0" in str(caught.value)
    assert "has no vaepipe-elsewhere, this machine has vaepipe-elsewhere 2.0" in str(caught.value)


def test_what_cannot_fit_is_an_error_and_not_a_long_wait(cluster, digits, tmp_path):
    list(cluster.map("fits:Square", [{"x": 1}], {"add": 0}))
    greedy = RayCompute(gpus_per_worker=1000)
    with pytest.raises(UserError, match="1 workers need 1 CPUs and 1000 GPUs; the cluster has"):
        greedy.train(fit_task(digits, tmp_path / "fit"))


def test_the_needs_of_workers_in_words():
    assert Share(2).times(3) == "6 CPUs"
    assert Share(1, 0.5).times(2) == "2 CPUs and 1 GPUs"


SWEEP = """
import sys
from pathlib import Path
from fits import digits, sweep_task
from vaepipe.compute.ray_cluster import RayCompute
folder = Path(sys.argv[1])
compute = RayCompute(gpus_per_worker=0, address="local")
task, _ = sweep_task(digits(folder / "data"), folder / "sweep", [{"epochs": 100000}])
compute.sweep(task)
"""


def test_an_interruption_ends_ray_and_everything_it_started(tmp_path):
    helpers = str(Path(__file__).parents[1] / "training" / "helpers")
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP, str(tmp_path)],
        env=env | {"PYTHONPATH": helpers},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    journal = tmp_path / "sweep/trials/00000/journal.jsonl"
    try:
        while not journal.exists() and process.poll() is None:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert out == b""
    assert b"KeyboardInterrupt" in err
    written = journal.stat().st_size
    time.sleep(1.0)
    assert journal.stat().st_size == written
