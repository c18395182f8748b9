"""`vaepipe evaluate`: evidence and ELBO of a model on data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vaepipe.cli.options import echo_json, json_option, workspace_option
from vaepipe.cli.standalone import Work, model_option, summarise, work_options, working


@click.command("evaluate")
@model_option
@click.option(
    "--data",
    metavar="PATH",
    required=True,
    help="A data artifact's folder, or Parquet files: folder, glob or URI.",
)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option(
    "--k",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Posterior samples of each example.",
)
@work_options
@workspace_option
@json_option
def command(model: str, data: str, output: Path, k: int, as_json: bool, **options: Any) -> int:
    """Write per_example, per_dimension and summary tables of a model on data, in nats."""
    from vaepipe import files
    from vaepipe.errors import UserError
    from vaepipe.pipeline import inputs, references
    from vaepipe.pipeline.stages import evaluate
    from vaepipe.pipeline.workspace import MANIFEST
    from vaepipe.training import bundle

    output = output.absolute()
    if (output / MANIFEST).exists():
        raise UserError(f"{output} holds a complete evaluation; choose another --output.")
    folder, uri = references.find_bundle(model, options["workspace"])
    source = inputs.of_path(
        data,
        bundle.load(folder),
        options["splits"] or None,
        options["column"],
        options["id_column"],
    )
    job = evaluate.Evaluation(
        model=folder,
        model_name=uri,
        data=source,
        k=k,
        seed=options["seed"],
        batch_size=options["batch_size"] or evaluate.BATCH_SIZE,
        output=output,
    )
    work = Work(options["workers"], options["compute"], options["address"])
    with working("evaluate", "evaluate", output, work) as compute:
        manifest = evaluate.evaluate(job, compute)
    files.write_json(output / MANIFEST, {**manifest, "kind": "evaluate"})
    if as_json:
        echo_json(manifest)
    else:
        summarise(manifest["metrics"])
    return 0
