"""`docker-compose.yml` as data, and its commands as processes of this machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SECRETS = {"POSTGRES_PASSWORD": "secret-of-the-database", "RAY_AUTH_TOKEN": "t" * 48}
SMALL = "--object-store-memory=100000000"
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<text>[^}]*))?\}")


def interpolated(value: Any, environment: Mapping[str, str]) -> Any:
    """What Compose does: `${X:-default}`, `${X:?message}`, and `$$` for a dollar."""
    if isinstance(value, Mapping):
        return {key: interpolated(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, environment) for item in value]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        if environment.get(match["name"]):
            return environment[match["name"]]
        if match["kind"] == ":?":
            raise KeyError(f"{match['name']}: {match['text']}")
        return match["text"] or ""

    return "$".join(VARIABLE.sub(replaced, part) for part in value.split("$$"))


@pytest.fixture(scope="session")
def interpolate() -> Callable[[Any, Mapping[str, str]], Any]:
    return interpolated


@pytest.fixture(scope="session")
def secrets() -> dict[str, str]:
    return SECRETS


@pytest.fixture(scope="session")
def raw() -> dict[str, Any]:
    """The file as it is written."""
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="session")
def compose(raw: dict[str, Any]) -> dict[str, Any]:
    """The file as Compose reads it when only the secrets are set."""
    return interpolated(raw, SECRETS)


@pytest.fixture(scope="session")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@dataclass
class Machine:
    """Runs the commands of services here: other ports and folders, the same everything else."""

    services: dict[str, Any]
    folder: Path
    places: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    short: list[Path] = field(default_factory=list)

    def short_folder(self) -> Path:
        """A folder whose name leaves room for the name of a socket."""
        self.short.append(Path(tempfile.mkdtemp(prefix="vp", dir="/tmp")))
        return self.short[-1]

    def translate(self, text: str) -> str:
        """A text of the Compose file with the ports and folders of this machine."""
        for there, here in self.places.items():
            text = text.replace(there, here)
        return text

    def environment(self, service: str) -> dict[str, str]:
        """The service's environment, and nothing of ours that could stand in for it."""
        foreign = ("RAY", "MLFLOW", "VAEPIPE", "PG")
        ours = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        path = f"{Path(sys.executable).parent}:{ours['PATH']}"
        theirs = self.services[service].get("environment", {})
        threads = {"OMP_NUM_THREADS": "1"}
        return {**ours, **threads, "PATH": path} | {
            name: self.translate(value) for name, value in theirs.items()
        }

    def command(self, service: str, replacement: list[str] | None = None) -> list[str]:
        """Entry point and command of a service, for this machine."""
        settings = self.services[service]
        command = settings["command"] if replacement is None else replacement
        return [self.translate(part) for part in [*settings.get("entrypoint", []), *command]]

    def start(self, service: str, *more: str, **options: Any) -> subprocess.Popen[str]:
        """Start a service that stays, in a process group of its own."""
        return self.spawn(
            service, [*self.command(service), *more], env=self.environment(service), **options
        )

    def spawn(self, name: str, command: list[str], **options: Any) -> subprocess.Popen[str]:
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
                **{"cwd": self.folder, **options},
            )
        self.processes.append(process)
        return process

    def healthy(self, service: str, seconds: float = 180) -> None:
        """Ask as the service's health check asks until it says yes."""
        kind, *command = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        command = [self.translate(part) for part in command]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            asked = subprocess.run(
                command, env=self.environment(service), capture_output=True, check=False
            )
            if asked.returncode == 0:
                return
            time.sleep(0.5)
        raise RuntimeError(
            f"{service} is not healthy:\n{(self.folder / f'{service}.log').read_text()}"
        )

    def stop(self) -> None:
        """End what was started here, the last first, and nothing else."""
        for process in reversed(self.processes):
            process.terminate()  # its leader alone, as an engine would
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for folder in self.short:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def machine(
    services: dict[str, Any], postgres: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """The cluster of the Compose file, up and healthy."""
    folder = tmp_path_factory.mktemp("machine")
    head, tracking, database = free_port(), free_port(), free_port()
    for name in ("workspace", "data", "mlartifacts"):
        (folder / name).mkdir()
    machine = Machine(services, folder)
    machine.places = {
        "127.0.0.1:6379": f"127.0.0.1:{head}",
        "ray-head:6379": f"127.0.0.1:{head}",
        "--port=6379": f"--port={head}",
        "http://mlflow:5000": f"http://127.0.0.1:{tracking}",
        "127.0.0.1:5000": f"127.0.0.1:{tracking}",
        "--port=5000": f"--port={tracking}",
        "--host=0.0.0.0": "--host=127.0.0.1",
        "postgres:5432": f"127.0.0.1:{database}",
        "--port=5432": f"--port={database}",
        "destination=/mlartifacts": f"destination={folder}/mlartifacts",
        "--num-cpus=0 --disable": f"--num-cpus=0 {SMALL} --disable",
        "/workspace": f"{folder}/workspace",
        "/data": f"{folder}/data",
    }
    try:
        start_database(machine, database, postgres)
        machine.start("mlflow")
        machine.start("ray-head", f"--temp-dir={machine.short_folder()}", SMALL)
        machine.healthy("ray-head")
        machine.start("ray-worker", SMALL)
        machine.healthy("ray-worker")
        machine.healthy("mlflow")
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope="session")
def postgres() -> Path | None:
    """Where a PostgreSQL server is installed, if it is."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


def start_database(machine: Machine, port: int, binaries: Path | None) -> None:
    """PostgreSQL as the image would start it; a database file where it is not installed."""
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    if binaries is None:
        uri = next(p for p in machine.services["mlflow"]["command"] if "backend-store" in p)
        machine.places[uri] = f"--backend-store-uri=sqlite:///{machine.folder}/mlflow.db"
        return
    folder = machine.short_folder()
    settings = machine.services["postgres"]["environment"]
    (folder / "password").write_text(settings["POSTGRES_PASSWORD"])
    if user:
        shutil.chown(folder, user)
    for path in (folder / "password", folder):
        path.chmod(0o755)
    options: dict[str, Any] = {"user": user} if user else {}
    subprocess.run(
        [binaries / "initdb", "--pgdata", folder / "data", "--auth=scram-sha-256",
         f"--username={settings['POSTGRES_USER']}", f"--pwfile={folder / 'password'}"],
        check=True, capture_output=True, cwd="/tmp", **options,
    )  # fmt: skip
    machine.spawn(
        "postgres",
        [str(binaries / "postgres"), "-D", str(folder / "data"), "-p", str(port),
         "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"],
        cwd="/tmp", **options,
    )  # fmt: skip
    machine.healthy("postgres", 60)
    subprocess.run(
        [binaries / "createdb", "--host=127.0.0.1", f"--port={port}",
         f"--username={settings['POSTGRES_USER']}", settings["POSTGRES_DB"]],
        check=True, capture_output=True,
        env={**os.environ, "PGPASSWORD": settings["POSTGRES_PASSWORD"]},
    )  # fmt: skip
