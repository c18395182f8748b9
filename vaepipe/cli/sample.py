"""`vaepipe sample`: draw examples from a model."""

from __future__ import annotations

from pathlib import Path

import click

from vaepipe.cli.options import workspace_option
from vaepipe.cli.standalone import model_option, picture_option


@click.command("sample")
@model_option
@click.option("-n", "count", type=click.IntRange(1), default=64, show_default=True)
@picture_option
@click.option("--mean", is_flag=True, help="E[x | z] (of words the likeliest), no draw of x.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@workspace_option
def command(model: str, count: int, output: Path, mean: bool, seed: int, workspace: str) -> int:
    """Draw z ~ p(z) and x ~ p(x | z)."""
    from vaepipe.core import Purpose, seeded, stream
    from vaepipe.evaluation.moments import typical
    from vaepipe.pipeline import references, samples
    from vaepipe.training import bundle

    samples.check_output(output)
    folder, _ = references.find_bundle(model, workspace)
    loaded = bundle.load(folder)
    with seeded(stream(seed, Purpose.PRIOR_SAMPLES)):
        p = loaded.model.sample(count)
        x = typical(p, samples.DRAWS) if mean else p.sample()
    samples.write(output, x, loaded.data, loaded.lexicon)
    click.echo(str(output))
    return 0
