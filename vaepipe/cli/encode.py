"""`vaepipe encode`: latents of every row of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vaepipe.cli.options import echo_json, json_option, workspace_option
from vaepipe.cli.standalone import Work, model_option, work_options, working


@click.command("encode")
@model_option
@click.option(
    "--input",
    "data",
    metavar="PATH",
    required=True,
    help="A data artifact's folder, or Parquet files: folder, glob or URI.",
)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option(
    "--with",
    "extras",
    metavar="WORDS",
    default="",
    help="More columns: elbo, log_lik, sample:N, separated by commas.",
)
@click.option(
    "--keep",
    metavar="COL",
    multiple=True,
    help="A column that passes through; default: all. Repeatable.",
)
@click.option("--rows-per-file", type=click.IntRange(1), help="Rows of one output file.")
@work_options
@workspace_option
@json_option
def command(
    model: str,
    data: str,
    output: Path,
    extras: str,
    keep: Sequence[str],
    rows_per_file: int | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Write q(z | x) of every row as Parquet, each row exactly once; run again to continue."""
    from vaepipe.data import shards
    from vaepipe.pipeline import inputs, references
    from vaepipe.pipeline.stages import encode
    from vaepipe.training import bundle

    output = output.absolute()
    references.ensure_empty(output, resumable=encode.PLAN)
    folder, uri = references.find_bundle(model, options["workspace"])
    source = inputs.of_path(
        data,
        bundle.load(folder),
        options["splits"] or None,
        options["column"],
        options["id_column"],
    )
    words, samples = encode.columns([word for word in extras.split(",") if word])
    job = encode.Encoding(
        model=folder,
        model_uri=uri,
        data=source,
        keep=list(keep) or None,
        extras=words,
        samples=samples,
        seed=options["seed"],
        batch_size=options["batch_size"] or encode.BATCH_SIZE,
        rows_per_file=rows_per_file or shards.ROWS_PER_FILE,
        output=output,
    )
    work = Work(options["workers"], options["compute"], options["address"])
    with working("encode", "encode", output, work) as compute:
        manifest = encode.encode(job, compute)
    if as_json:
        echo_json(manifest)
    else:
        click.echo(f"{manifest['rows']:,} rows in {len(manifest['parts'])} files: {output}")
    return 0
