"""`vaepipe lineage`: from latents back to the model, the run, the data and the plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from vaepipe.cli.options import echo_json, json_option, workspace_option

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command("lineage")
@click.argument("path", type=click.Path(), metavar="FILE_OR_DIR")
@click.option(
    "--in",
    "places",
    type=FOLDER,
    metavar="DIR",
    multiple=True,
    help="Also look here, at any depth, for what the model made. Repeatable.",
)
@workspace_option
@json_option
def command(path: str, places: Sequence[Path], workspace: str, as_json: bool) -> int:
    """Follow latents, an evaluation or a model back to what made them, and on to what it made.

    A model may also be named as models:/name/version, models:/name@alias or runs:/….
    """
    from vaepipe.pipeline import lineage, references

    remote = path.startswith(("models:/", "runs:/"))
    folder = references.find_bundle(path, workspace)[0] if remote else Path(path)
    found = lineage.lineage(folder, workspace, places)
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
