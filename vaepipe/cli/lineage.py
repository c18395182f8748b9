"""`vaepipe lineage`: from latents back to the model, the run, the data and the plugins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from vaepipe.cli.options import echo_json, json_option, workspace_option


@click.command("lineage")
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE_OR_DIR")
@workspace_option
@json_option
def command(path: Path, workspace: str, as_json: bool) -> int:
    """Follow latents, an evaluation or a model back to what made them, and on to what it made."""
    from vaepipe.pipeline import lineage

    found = lineage.lineage(path, workspace)
    if as_json:
        echo_json(found)
    else:
        _show(found)
    return 0


def _show(found: Mapping[str, Any], indent: str = "") -> None:
    for name, value in found.items():
        if isinstance(value, Mapping):
            click.echo(f"{indent}{name}")
            _show(value, indent + "  ")
        elif isinstance(value, list) and value:
            click.echo(f"{indent}{name}")
            for each in value:
                click.echo(f"{indent}  {each}")
        elif value not in (None, []):
            click.echo(f"{indent}{name:<20} {value}")
