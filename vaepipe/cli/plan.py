"""`vaepipe plan`: what is done, what would run, and what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from vaepipe.cli.options import (
    echo_json,
    file_argument,
    json_option,
    set_option,
    workspace_option,
)
from vaepipe.cli.standalone import tell


@click.command("plan")
@file_argument
@set_option
@workspace_option
@json_option
def command(file: Path, sets: Sequence[str], workspace: str, as_json: bool) -> int:
    """Show what of FILE is done, what would run, trials, resources and disk; write nothing."""
    from vaepipe.pipeline import start
    from vaepipe.pipeline.estimate import estimate

    prepared = start.prepare(file, sets, workspace)
    facts = prepared.check()
    tell(prepared.stale())
    rows = [
        {
            "stage": step.name,
            "kind": step.settings.kind,
            "status": "done" if step.done else "to do",
            "inputs": list(step.inputs),
            "fingerprint": step.fingerprint,
            **estimate(step, prepared.pipeline, facts),
        }
        for step in prepared.steps
    ]
    if as_json:
        echo_json({"workspace": str(prepared.workspace.home), "stages": rows})
    else:
        click.echo(f"workspace: {prepared.workspace.home}")
        for row in rows:
            click.echo(_line(row))
    return 0


def _line(row: Mapping[str, Any]) -> str:
    words = [f"{row['stage']:<16} {row['kind']:<9} {row['status']:<6}"]
    if "trials" in row:
        words.append(f"{row['trials']} trials ({row['invalid']} skipped)")
    if "workers" in row:
        words.append(f"{row['workers']} worker{'s' if row['workers'] != 1 else ''}")
    if "disk_bytes" in row:
        words.append(f"about {row['disk_bytes'] / 2**20:.1f} MiB")
    if "start" in row:
        words.append(f"starts from {row['start']}")
    if "warning" in row:
        words.append(f"warning: {row['warning']}")
    return "  ".join(words).rstrip()
