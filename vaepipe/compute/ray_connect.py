"""Joining a Ray cluster, or starting one on this machine; and whether its nodes are alike."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any

from vaepipe.errors import Unreachable, UserError
from vaepipe.registry import GROUPS

OBJECT_STORE = 256 * 2**20
"""Bytes; units of work and metrics are small, and the data never pass through it."""
STORE = ".ray"
"""Ray's own files in a task's folder; removed when the work is over."""
SECONDS = 5.0
"""How long an address may take to answer."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker is given: CPUs, which are also its torch threads, and GPUs."""

    cpus: int
    gpus: float = 0.0

    def times(self, workers: int) -> str:
        """The needs of some workers in words."""
        gpus = f" and {self.gpus * workers:g} GPUs" if self.gpus else ""
        return f"{self.cpus * workers} CPUs{gpus}"

    @property
    def resources(self) -> dict[str, float]:
        """As Ray Train names them."""
        return {"CPU": float(self.cpus)} | ({"GPU": self.gpus} if self.gpus else {})


def connected() -> bool:
    """Whether this process is connected to a cluster; does not import Ray to find out."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def join(address: str, threads: int) -> None:
    """Connect to a cluster at `host:port` or `auto`, and compare its nodes with this machine.

    Raises:
        Unreachable: it does not answer, or refuses.
        UserError: the address is of a kind that cannot work, or a node differs.
    """
    _probe(address)
    import ray
    from ray.exceptions import RayError

    try:
        with _handlers_kept():
            ray.init(address=address, **_options(threads))
    except (ConnectionError, RuntimeError, TimeoutError, RayError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Unreachable(
            f"no Ray cluster could be joined at {address}: {reason}. This machine must be one of "
            "its nodes, and RAY_AUTH_MODE and the token must be those of the cluster."
        ) from error
    preflight()


def start(cpus: int | None, threads: int) -> None:
    """Start a cluster of this machine, guarded by a token that only its processes know.

    Args:
        cpus: logical CPUs; None counts those of the machine.
        threads: torch threads of a worker.
    """
    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    with _handlers_kept():
        ray.init(
            address="local",
            num_cpus=cpus,
            object_store_memory=OBJECT_STORE,
            include_dashboard=False,
            **_options(threads),
        )


def preflight() -> None:
    """Every node must have the same versions as this process: one cheap task for each.

    Raises:
        UserError: naming every node and distribution that differs.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = installed()
    names = sorted(here)

    def look() -> dict[str, str]:  # a closure: it travels by value, vaepipe may be missing there
        import importlib.metadata
        import platform

        found = {"python": ".".join(platform.python_version_tuple()[:2])}
        for name in names:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found.setdefault(name, importlib.metadata.version(name).partition("+")[0])
        return found

    remote = ray.remote(num_cpus=0)(look)
    nodes = {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]}
    there = {
        nodes[key]: ray.get(
            remote.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(key, soft=False)
            ).remote()
        )
        for key in nodes
    }
    problems = [text for node in sorted(there) for text in _unlike(node, there[node], here)]
    if problems:
        raise UserError("the cluster's nodes differ from this machine:\n" + "\n".join(problems))


def installed() -> dict[str, str]:
    """Versions that workers must share: Python, torch, vaepipe and every plugin."""
    plugins = {p.dist.name for g in GROUPS for p in entry_points(group=f"vaepipe.{g}") if p.dist}
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in sorted({"ray", "torch", "vaepipe", *plugins}):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name).partition("+")[0]
    return found


def _unlike(node: str, there: Mapping[str, str], here: Mapping[str, str]) -> Iterator[str]:
    for name, wanted in here.items():
        found = there.get(name)
        if found != wanted:
            what = f"{name} {found}" if found else f"no {name}"
            yield f"  node {node} has {what}, this machine has {name} {wanted}."


def _options(threads: int) -> dict[str, Any]:
    """Quiet, and as many OpenMP threads in a worker as it has CPUs."""
    return {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads)}},
    }


def _probe(address: str) -> None:
    """Ray itself would wait for minutes."""
    if address.startswith("ray://"):
        raise UserError(
            f"{address}: the Ray Client protocol is not supported. Run on a node of the cluster "
            "with its address `host:6379`, or submit with `ray job submit`."
        )
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not port.isdigit():
        raise UserError(f"'{address}' is no address of a Ray cluster: expected host:port or auto.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS).close()
    except OSError as error:
        raise Unreachable(f"no Ray cluster answers at {address}: {error}.") from error


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Keep our handlers: Ray replaces that of SIGTERM by its own, which raises SystemExit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    terminated = False
    try:
        yield
    except SystemExit:  # the signal came while Ray started
        terminated = True
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if terminated:
            signal.raise_signal(signal.SIGTERM)
