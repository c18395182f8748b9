"""`vaepipe report`: the page of a pipeline's folder, or of one artifact."""

from __future__ import annotations

from pathlib import Path

import click

from vaepipe.cli.options import workspace_option


@click.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--output", type=click.Path(file_okay=False), metavar="DIR", help="Default: DIR/report."
)
@click.option(
    "--data",
    metavar="PATH",
    help="Rows to show a model with, or that were evaluated: a data artifact's folder, or files.",
)
@click.option("--column", default="x", show_default=True, help="Of the files of --data.")
@click.option("--id-column", help="Of the files of --data; default: `id`, else rows are numbered.")
@click.option("--model", metavar="M", help="Of an evaluation, if it is no longer where it was.")
@workspace_option
def command(
    folder: Path,
    output: str | None,
    data: str | None,
    column: str,
    id_column: str | None,
    model: str | None,
    workspace: str,
) -> int:
    """Draw report.html of DIR.

    DIR is the folder of a pipeline that `run` made, of which the finished stages are shown; or of
    one stage; or the output of `evaluate` or `encode`; or a model bundle.
    """
    from vaepipe.pipeline import overview, references
    from vaepipe.pipeline.single import Given
    from vaepipe.pipeline.workspace import local_folder

    target = local_folder(output or str(folder / "report"))
    given = Given(
        data=None if data is None else references.find_data(data, workspace),
        column=column,
        id_column=id_column,
        model=None if model is None else references.find_bundle(model, workspace)[0],
    )
    click.echo(str(overview.draw(folder.absolute(), target, given)))
    return 0
