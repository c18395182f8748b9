"""`vaepipe run`: a pipeline file, from data to a registered model."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import click

from vaepipe.cli.options import (
    echo_json,
    file_argument,
    json_option,
    set_option,
    workspace_option,
)
from vaepipe.cli.standalone import tell


@click.command("run")
@file_argument
@set_option
@click.option("--only", metavar="STAGE", help="Run this stage and what it needs.")
@workspace_option
@click.option("--address", metavar="ADDR", help="Ray cluster to join; default: $RAY_ADDRESS.")
@json_option
def command(
    file: Path,
    sets: Sequence[str],
    only: str | None,
    workspace: str,
    address: str | None,
    as_json: bool,
) -> int:
    """Run every stage of FILE that is not done for these exact settings and inputs.

    Running again resumes what was cut off and skips what is done.
    """
    from vaepipe.pipeline import start

    prepared = start.prepare(file, sets, workspace, only, address)
    tell(prepared.stale())
    if all(step.done for step in prepared.steps):
        return _nothing_to_do(prepared, as_json)
    stages = _execute(prepared)
    if as_json:
        echo_json({"stages": stages})
    else:
        click.echo(f"Done. Artifacts: {prepared.workspace.home}")
    return 0


def _nothing_to_do(prepared: Any, as_json: bool) -> int:
    """Say that everything is done."""
    stages = prepared.bring_back()
    if as_json:
        echo_json({"stages": stages})
    else:
        count, home = len(prepared.steps), prepared.workspace.home
        click.echo(f"Nothing to do: all {count} stages are done. Artifacts: {home}")
    prepared.require_no_failures()
    return 0


def _execute(prepared: Any) -> dict[str, Any]:
    """Run behind the live view; other libraries' noise goes to a log file."""
    from vaepipe.cli.quiet import noise_to
    from vaepipe.cli.view import View, is_plain

    prepared.check()
    prepared.prepare_sources()
    log = prepared.workspace.home / "logs" / f"run-{time.strftime('%Y%m%d-%H%M%S')}.log"
    plain = is_plain(sys.stderr)
    with noise_to(log) as (_, screen):
        view = View(screen, plain=plain)
        try:
            return prepared.run(view)
        finally:
            view.close()
            _mention(screen, log)


def _mention(screen: TextIO, log: Path) -> None:
    if log.exists() and log.stat().st_size:
        screen.write(f"Log of the libraries: {log}\n")
