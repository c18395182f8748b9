"""A small fitted model, and trackers that tests may use up."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vaepipe import registry
from vaepipe.compute.base import ModelSpec
from vaepipe.core import Stream, build, seeded
from vaepipe.tracking.base import Tracker
from vaepipe.tracking.memory import MemoryTracker
from vaepipe.tracking.mlflow import MLflowTracker
from vaepipe.training import bundle


@pytest.fixture(scope="session")
def model_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE of the 8 × 8 digits with three latent dimensions, unfitted."""
    dataset = registry.part("datasets", "digits", {"binarize": "dynamic"})
    data = dataset.build().spec
    mlp = registry.part("networks", "mlp", {"hidden": [8]})
    parts = {
        "encoder": mlp,
        "family": registry.part("families", "diagonal_normal"),
        "prior": registry.part("priors", "standard_normal"),
        "decoder": mlp,
        "likelihood": registry.part("likelihoods", "bernoulli"),
    }
    with seeded(Stream(0)):
        model = build((3,), data, **parts)
        x = torch.bernoulli(torch.full((4, *data.shape), 0.5))
    card = {
        "model": ModelSpec((3,), **parts).to_dict(),
        "data": data.to_dict(),
        "dataset": dataset.to_dict(),
        "objective": registry.part("objectives", "elbo").to_dict(),
    }
    path = tmp_path_factory.mktemp("bundle") / "model"
    bundle.save(path, model, card, x)
    return path


@pytest.fixture(autouse=True)
def _no_store_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)


class Door:
    """Forwards a port to a server while it is open; nothing listens while it is shut."""

    def __init__(self, target: int) -> None:
        self._target, self._listener = target, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.open()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        for end in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open = []

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                inside, _ = listener.accept()
                outside = socket.create_connection(("127.0.0.1", self._target))
                self._open += [inside, outside]
                for pair in ((inside, outside), (outside, inside)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an MLflow tracking server that serves its artifacts."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")),
    ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **quiet}
        )
    try:
        _wait_for(process, f"http://127.0.0.1:{port}/health", folder / "log")
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _wait_for(process: subprocess.Popen, url: str, log: Path) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError(f"the tracking server did not start:\n{log.read_text()}")


@pytest.fixture
def door(server: int) -> Iterator[Door]:
    """A way to the server that can be shut."""
    door = Door(server)
    yield door
    door.shut()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One workspace for all tests that do not need a fresh one: a database takes seconds."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(params=["memory", "sqlite", "http"])
def tracker(request: pytest.FixtureRequest, workspace: Path, tmp_path: Path) -> Iterator[Tracker]:
    """Every tracker, opened on an experiment of this test's own."""
    if request.param == "memory":
        made, place = MemoryTracker(), tmp_path
    elif request.param == "sqlite":
        made, place = MLflowTracker(), workspace
    else:
        port = request.getfixturevalue("server")
        made, place = MLflowTracker(uri=f"http://127.0.0.1:{port}"), tmp_path
    made.open(request.node.name, place)
    yield made
    made.close()


@pytest.fixture
def store(request: pytest.FixtureRequest, workspace: Path) -> Iterator[MLflowTracker]:
    """The database in the workspace, opened on an experiment of this test's own."""
    made = MLflowTracker()
    made.open(request.node.name, workspace)
    yield made
    made.close()
