"""`vaepipe report`: the page of a pipeline's folder."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), help="Default: DIR/report."
)
def command(folder: Path, output: Path | None) -> int:
    """Draw report.html of the finished stages below DIR, a folder that `run` made."""
    from vaepipe.pipeline import overview

    target = (output or folder / "report").absolute()
    click.echo(str(overview.draw(folder.absolute(), target)))
    return 0
