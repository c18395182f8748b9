"""`vaepipe reconstruct`: examples, and what a model makes of their codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from vaepipe.cli.options import workspace_option
from vaepipe.cli.standalone import model_option, picture_option, rows_options, tell


@click.command("reconstruct")
@model_option
@rows_options
@click.option("-n", "count", type=click.IntRange(1), default=16, show_default=True,
              help="How many of the first rows, where no --id is given.")  # fmt: skip
@click.option("--id", "ids", type=int, multiple=True, help="Of a row. Repeatable.")
@picture_option
@click.option("--draw", is_flag=True, help="Also x' ~ p(x | z) with z ~ q(z | x).")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@workspace_option
def command(
    model: str,
    data: str,
    split: str | None,
    column: str,
    id_column: str | None,
    count: int,
    ids: Sequence[int],
    output: Path,
    draw: bool,
    seed: int,
    workspace: str,
) -> int:
    """Write rows of a dataset, below or beside them E[x | z] at the centre of q(z | x)."""
    from vaepipe.pipeline import references, retrace, samples
    from vaepipe.training import bundle

    samples.check_output(output)
    folder, _ = references.find_bundle(model, workspace)
    loaded = bundle.load(folder)
    source = references.find_data(data, workspace)
    rows = retrace.rows(loaded, source, split, column, id_column, list(ids) or count)
    tell(rows.warnings)
    more = {"mean": retrace.means(loaded, rows, seed)}
    if draw:
        more["draw"] = retrace.draws(loaded, rows, seed)
    samples.write(output, rows.x, loaded.data, loaded.lexicon, ids=rows.ids, more=more)
    click.echo(str(output))
    return 0
