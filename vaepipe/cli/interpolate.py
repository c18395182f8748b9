"""`vaepipe interpolate`: what lies between two codes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from vaepipe.cli.options import workspace_option
from vaepipe.cli.standalone import model_option, picture_option, rows_options, tell


@click.command("interpolate")
@model_option
@partial(rows_options, required=False)
@click.option("--from", "start", type=int, help="Id of the row at the one end.")
@click.option("--to", "end", type=int, help="Id of the row at the other end.")
@click.option("--from-prior", is_flag=True, help="Between two draws z ~ p(z) instead of two rows.")
@click.option("--steps", type=click.IntRange(2), default=11, show_default=True, help="Ends too.")
@picture_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@workspace_option
def command(
    model: str,
    data: str | None,
    split: str | None,
    column: str,
    id_column: str | None,
    start: int | None,
    end: int | None,
    from_prior: bool,
    steps: int,
    output: Path,
    seed: int,
    workspace: str,
) -> int:
    """Write E[x | z] for z on the straight line between two posterior means."""
    from vaepipe.errors import UserError
    from vaepipe.pipeline import references, retrace, samples
    from vaepipe.training import bundle

    samples.check_output(output)
    if from_prior == (data is not None) or (data is not None and None in (start, end)):
        raise UserError("give --input PATH --from ID --to ID, or --from-prior alone.")
    folder, _ = references.find_bundle(model, workspace)
    loaded = bundle.load(folder)
    if data is None:
        ends = retrace.prior_ends(loaded, seed)
    else:
        wanted = [i for i in (start, end) if i is not None]
        source = references.find_data(data, workspace)
        rows = retrace.rows(loaded, source, split, column, id_column, wanted)
        tell(rows.warnings)
        ends = retrace.codes(loaded, rows, seed)
    share, z, x = retrace.line(loaded, ends, steps, seed)
    facts = {"share": share.numpy(), "z": z.float().numpy()}
    samples.write(output, x, loaded.data, loaded.lexicon, facts=facts, columns=steps)
    click.echo(str(output))
    return 0
