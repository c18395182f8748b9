"""`vaepipe sample`: draw examples from a model."""

from __future__ import annotations

from pathlib import Path

import click

from vaepipe.cli.options import workspace_option
from vaepipe.cli.standalone import model_option


@click.command("sample")
@model_option
@click.option("-n", "count", type=click.IntRange(1), default=64, show_default=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="A .png sheet or a .parquet table.",
)
@click.option("--mean", is_flag=True, help="E[x | z] instead of a draw of x.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@workspace_option
def command(model: str, count: int, output: Path, mean: bool, seed: int, workspace: str) -> int:
    """Draw z ~ p(z) and x ~ p(x | z)."""
    from vaepipe.core import seeded
    from vaepipe.errors import UserError
    from vaepipe.pipeline import references, samples
    from vaepipe.training import bundle

    if output.suffix not in (".png", ".parquet"):
        raise UserError(f"--output '{output}': expected a .png or a .parquet file.")
    folder, _ = references.find_bundle(model, workspace)
    loaded = bundle.load(folder)
    with seeded(seed):
        p = loaded.model.sample(count)
        x = p.mean if mean else p.sample()
    samples.write(output, x, loaded.data)
    click.echo(str(output))
    return 0
