"""What `evaluate` and `encode` share: a compute, a screen, an input."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import click

from vaepipe import registry
from vaepipe.compute.base import Compute
from vaepipe.errors import StorageError, VaepipeError
from vaepipe.pipeline.watch import Screen, Watcher
from vaepipe.tracking.memory import MemoryTracker


class Auto(click.ParamType):
    """A positive integer, or `auto`, which is None."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the word or the number."""
        if value in (None, "auto"):
            return None
        return click.IntRange(1).convert(value, param, ctx)


AUTO = Auto()


def model_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--model M`."""
    return click.option(
        "--model",
        metavar="M",
        required=True,
        help="A bundle's folder, runs:/…, models:/name/version or models:/name@alias.",
    )(command)


def picture_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--output FILE`."""
    return click.option(
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        required=True,
        help="A .png sheet, a .parquet table, or the lines of a .txt file (of sentences).",
    )(command)


def rows_options(command: Callable[..., Any], *, required: bool = True) -> Callable[..., Any]:
    """Which dataset rows are read from."""
    for option in reversed(
        (
            click.option(
                "--input",
                "data",
                metavar="PATH",
                required=required,
                help="A data artifact's folder; Parquet files, `.npy` arrays, `.txt` files or a "
                "folder of images: path, glob or URI; runs:/ID.",
            ),
            click.option("--split", help="Of an artifact; default: test, else val."),
            click.option("--column", default="x", show_default=True, help="Of Parquet files."),
            click.option(
                "--id-column", help="Unique integers; default: `id`, else rows are numbered."
            ),
        )
    ):
        command = option(command)
    return command


def tell(warnings: Iterable[str]) -> None:
    """Say on stderr what the reader of a result must know."""
    for text in warnings:
        click.echo(f"warning: {text}", err=True)


def work_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the work runs, and which rows it reads."""
    for option in reversed(
        (
            click.option("--split", "splits", multiple=True, help="Of an artifact. Repeatable."),
            click.option(
                "--column",
                default="x",
                show_default=True,
                help="Of Parquet files: one of lists, tensors, images or text; or several of "
                "numbers, separated by commas or as a glob.",
            ),
            click.option(
                "--id-column", help="Unique integers; default: `id`, else rows are numbered."
            ),
            click.option(
                "--batch-size",
                type=AUTO,
                default="auto",
                show_default=True,
                help="Rows at a time; auto: from the size of an example and its row.",
            ),
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
def working(
    name: str,
    kind: str,
    output: Path,
    work: Work,
    *,
    as_json: bool = False,
    logs: str = "logs",
    journal: Path | None = None,
) -> Iterator[Compute]:
    """A compute whose journal is shown on stderr; as JSON, an event a line.

    Args:
        name: of the work.
        kind: of the stage that it would be.
        output: where it writes.
        work: where it runs.
        as_json: for programs that watch.
        logs: folder in `output` for what other libraries say.
        journal: folder of the journal; None: `output`.

    Raises:
        StorageError: `output` cannot be written.
    """
    from vaepipe.cli.quiet import noise_to

    log = output / logs / f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    try:
        with noise_to(log) as (_, screen), _shown(name, kind, screen, as_json=as_json) as view:
            yield from _watched(name, journal or output, work, view)
    except VaepipeError:
        raise
    except OSError as error:
        raise StorageError(f"{output} cannot be written: {error}") from error


def _watched(name: str, journal: Path, work: Work, view: Screen) -> Iterator[Compute]:
    """A compute, while the journal is followed."""
    record = MemoryTracker().start(name)
    journal.mkdir(parents=True, exist_ok=True)
    compute = work.build()
    try:
        with Watcher(name, journal, view, lambda trial, run: record):
            yield compute
    finally:
        compute.close()


@contextmanager
def _shown(name: str, kind: str, screen: TextIO, *, as_json: bool) -> Iterator[Screen]:
    """The screen, told of the beginning and of the end."""
    from vaepipe.cli.events import Events
    from vaepipe.cli.view import View, is_plain

    view = Events(screen) if as_json else View(screen, plain=is_plain(screen))
    try:
        view.stage(name, kind, "running")
        yield view
        view.stage(name, kind, "done")
    except VaepipeError as error:
        view.stage(name, kind, "failed", str(error) if as_json else "")
        raise
    finally:
        view.close()


def summarise(rows: Mapping[str, Any]) -> None:
    """Names and values on stdout."""
    for name, value in rows.items():
        click.echo(f"{name:<24} {value:.4f}" if isinstance(value, float) else f"{name:<24} {value}")
