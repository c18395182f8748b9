"""What `evaluate` and `encode` share: a compute, a screen, an input."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from vaepipe import registry
from vaepipe.compute.base import Compute
from vaepipe.pipeline.watch import Watcher
from vaepipe.tracking.memory import MemoryTracker


def model_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--model M`."""
    return click.option(
        "--model",
        metavar="M",
        required=True,
        help="A bundle's folder, runs:/…, models:/name/version or models:/name@alias.",
    )(command)


def work_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the work runs, and which rows it reads."""
    for option in reversed(
        (
            click.option("--split", "splits", multiple=True, help="Of an artifact. Repeatable."),
            click.option("--column", default="x", show_default=True, help="Of Parquet files."),
            click.option("--id-column", help="Unique integers; default: rows are numbered."),
            click.option("--batch-size", type=click.IntRange(1), help="Rows at a time."),
            click.option("--workers", type=click.IntRange(1), default=1, show_default=True),
            click.option(
                "--compute",
                type=click.Choice(["local", "ray"]),
                default=None,
                help="Default: local for one worker, ray for more.",
            ),
            click.option("--address", metavar="ADDR", help="Ray cluster to join."),
            click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
        )
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Work:
    """Where it runs."""

    workers: int
    compute: str | None
    address: str | None

    def build(self) -> Compute:
        """The compute that was asked for."""
        kind = self.compute or ("ray" if self.workers > 1 or self.address else "local")
        options: dict[str, Any] = {"workers": self.workers}
        if kind == "ray" and self.address:
            options["address"] = self.address
        return registry.part("computes", kind, options).build()


@contextmanager
def working(name: str, kind: str, output: Path, work: Work) -> Iterator[Compute]:
    """A compute whose journal in `output` is shown on stderr."""
    from vaepipe.cli.quiet import noise_to
    from vaepipe.cli.view import View, is_plain

    output.mkdir(parents=True, exist_ok=True)
    record = MemoryTracker().start(name)
    log = output / "logs" / f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    plain = is_plain(sys.stderr)
    with noise_to(log) as (_, screen):
        view = View(screen, plain=plain)
        compute = work.build()
        try:
            view.stage(name, kind, "running")
            with Watcher(name, output, view, lambda trial, run: record):
                yield compute
            view.stage(name, kind, "done")
        finally:
            compute.close()
            view.close()


def summarise(rows: Mapping[str, Any]) -> None:
    """Names and values on stdout."""
    for name, value in rows.items():
        click.echo(f"{name:<24} {value:.4f}" if isinstance(value, float) else f"{name:<24} {value}")
