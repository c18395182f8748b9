"""`vaepipe runs`: pipelines of a workspace and what became of their stages."""

from __future__ import annotations

from pathlib import Path

import click

from vaepipe.cli.options import echo_json, json_option, workspace_option


@click.command("runs")
@workspace_option
@json_option
def command(workspace: str, as_json: bool) -> int:
    """List the pipelines of a workspace with the status of every stage."""
    from vaepipe import files

    found = {
        path.parent.name: files.read_json(path)["stages"]
        for path in sorted(Path(workspace).glob("*/run.json"))
    }
    if as_json:
        echo_json(found)
        return 0
    if not found:
        click.echo(f"No runs in {Path(workspace).absolute()}.", err=True)
    for name, stages in found.items():
        click.echo(name)
        for stage, facts in stages.items():
            seconds = f"{facts['seconds']:.1f} s" if facts.get("seconds") else ""
            click.echo(f"  {stage:<16} {facts['kind']:<9} {facts['status']:<12} {seconds}".rstrip())
    return 0
