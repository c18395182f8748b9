"""`vaepipe doctor`: is this machine fit, and does everything answer?"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from vaepipe.cli.options import echo_json, json_option, workspace_option
from vaepipe.errors import PluginError, VaepipeError

PACKAGES = ("vaepipe", "torch", "torchvision", "ray", "mlflow", "pyarrow", "pydantic", "optuna")
LEAST_FREE = 2 * 2**30

Finding = tuple[str, str, str]
"""What was looked at, `ok`, `warning` or `error`, and what was seen."""


@click.command("doctor")
@workspace_option
@click.option("--address", metavar="ADDR", help="Ray cluster to look at; default: $RAY_ADDRESS.")
@json_option
def command(workspace: str, address: str | None, as_json: bool) -> int:
    """Look at this machine, the installed plugins, the data, the cluster and the tracking server.

    Exit code 4 if a plugin is broken, 5 if a cluster or server does not answer, else 0.
    """
    place = Path(workspace).expanduser().absolute()
    findings, code = [], 0
    for look in _looks(place, address or os.environ.get("RAY_ADDRESS")):
        try:
            findings.extend(look())
        except VaepipeError as error:
            findings.append((look.__name__.strip("_"), "error", str(error)))
            code = max(code, error.exit_code)
    if as_json:
        echo_json([dict(zip(("what", "status", "seen"), f, strict=True)) for f in findings])
    else:
        for what, status, seen in findings:
            click.echo(f"{status:<8} {what:<24} {seen}")
    return code


def _looks(workspace: Path, address: str | None) -> list[Callable[[], Iterator[Finding]]]:
    def disk() -> Iterator[Finding]:
        return _disk(workspace)

    def tracking() -> Iterator[Finding]:
        return _tracking(workspace)

    def cluster() -> Iterator[Finding]:
        return _cluster(address)

    looks = [_machine, _packages, disk, _data, _plugins, tracking]
    return [*looks, cluster] if address else looks


def _machine() -> Iterator[Finding]:
    import torch

    yield "python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "cpus", "ok", str(os.cpu_count())
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield "gpus", "ok", ", ".join(gpus) or "none: fits run on the CPU"


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield name, "ok", version(name)
        except PackageNotFoundError:
            yield name, "error", f"not installed: pip install {name}"


def _disk(workspace: Path) -> Iterator[Finding]:
    existing = next(p for p in (workspace, *workspace.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    writable = os.access(existing, os.W_OK)
    status = "ok" if writable and free > LEAST_FREE else "error" if not writable else "warning"
    words = f"{free / 2**30:.1f} GiB free" + ("" if writable else ", not writable")
    yield "workspace", status, f"{workspace}: {words}"


def _data() -> Iterator[Finding]:
    from vaepipe.datasets.mnist import FILES, data_root

    raw = data_root() / "MNIST" / "raw"
    missing = [name for name in FILES if not (raw / name).exists()]
    words = "MNIST is there" if not missing else f"MNIST is not there ({raw})"
    yield "VAEPIPE_DATA", "warning" if missing else "ok", f"{data_root()}: {words}"


def _plugins() -> Iterator[Finding]:
    """Load every installed component; the first that fails decides the exit code."""
    from vaepipe import registry

    broken: list[str] = []
    for group in registry.GROUPS:
        names = registry.available(group)
        for name in names:
            try:
                registry.options_signature(registry.load(group, name))
            except PluginError as error:
                broken.append(str(error))
        yield f"plugins: {group}", "ok", ", ".join(names) or "none"
    for words in broken:
        yield "plugin", "error", words
    if broken:
        raise PluginError(f"{len(broken)} broken plugins; they matter only to files that use them.")


def _tracking(workspace: Path) -> Iterator[Finding]:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    store = workspace / "mlflow.db"
    if uri is None:
        state = "there" if store.exists() else "is made by the first run"
        yield "tracking", "ok", f"sqlite:///{store} ({state})"
        return
    from vaepipe import registry

    registry.part("trackers", "mlflow").build().open("vaepipe", workspace)
    yield "tracking", "ok", f"{uri} answers"


def _cluster(address: str | None) -> Iterator[Finding]:
    from vaepipe import registry

    compute: Any = registry.part("computes", "ray", {"address": address}).build()
    try:
        resources: Mapping[str, float] = compute.resources()
        words = ", ".join(f"{value:g} {name}" for name, value in sorted(resources.items()))
        yield "cluster", "ok", f"{address}: {words}"
    finally:
        compute.close()
