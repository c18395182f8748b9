"""`vaepipe promote`: move an alias of a registered model."""

from __future__ import annotations

import click

from vaepipe.cli.options import workspace_option


@click.command("promote")
@click.argument("name")
@click.argument("version")
@click.option("--alias", default="champion", show_default=True)
@workspace_option
def command(name: str, version: str, alias: str, workspace: str) -> int:
    """Let the alias of the registered model NAME point to VERSION."""
    from vaepipe.pipeline.references import open_tracker

    tracker = open_tracker(workspace)
    before = tracker.promote(name, version, alias)
    moved = f" (before: version {before})" if before else ""
    click.echo(f"models:/{name}@{alias} is version {version}{moved}")
    return 0
