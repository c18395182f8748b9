"""`vaepipe encode`: latents of every row of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    help="A data artifact's folder; Parquet files, `.npy` arrays, `.txt` files or a folder of "
    "images: path, glob or URI; runs:/ID for the dataset that an MLflow run logged.",
)
@click.option("--output", metavar="DIR", required=True, help="A new folder, or one to go on with.")
@click.option(
    "--with",
    "extras",
    metavar="WORDS",
    default="",
    help="More columns: elbo, log_lik, sample:N, sir:K, separated by commas.",
)
@click.option("--refine", type=click.IntRange(1), help="Steps to each row's own best posterior.")
@click.option(
    "--keep",
    metavar="COL",
    multiple=True,
    help="A column that passes through; default: all. Repeatable.",
)
@click.option("--rows-per-file", type=click.IntRange(1), help="Rows of one output file.")
@click.option("--resume", "again", flag_value="resume", default=True, help="Continue (default).")
@click.option("--overwrite", "again", flag_value="overwrite", help="Start from nothing.")
@click.option("--fail-if-exists", "again", flag_value="fail", help="Refuse a used folder.")
@click.option(
    "--on-bad-row",
    type=click.Choice(["fail", "quarantine"]),
    default="fail",
    show_default=True,
    help="Rows that cannot be read or lie outside the support.",
)
@click.option("--max-bad-rows", type=click.IntRange(0), help="More than this end the command.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the encoder network.",
)
@work_options
@workspace_option
@json_option
def command(
    model: str,
    data: str,
    output: str,
    extras: str,
    refine: int | None,
    keep: Sequence[str],
    rows_per_file: int | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Write q(z | x) of every row as Parquet, each row exactly once; run again to continue."""
    from vaepipe.data import shards
    from vaepipe.pipeline import inputs, references
    from vaepipe.pipeline.stages import encode, parts
    from vaepipe.training import bundle

    place = parts.check_output(output)
    folder, uri = references.find_bundle(model, options["workspace"])
    loaded = bundle.load(folder)
    encode.check_refine(loaded, refine or 0)  # before anything is written
    source = inputs.of_path(
        references.find_data(data, options["workspace"]),
        loaded,
        options["splits"] or None,
        options["column"],
        options["id_column"],
    )
    job = encode.Encoding(
        model=folder,
        model_uri=uri,
        data=source,
        keep=list(keep) or None,
        columns=encode.columns([word for word in extras.split(",") if word], refine or 0),
        seed=options["seed"],
        batch_size=options["batch_size"],
        rows_per_file=rows_per_file or shards.ROWS_PER_FILE,
        output=place,
        journal=place / parts.LOGS,
        **{n: options[n] for n in ("precision", "on_bad_row", "max_bad_rows", "again")},
    )
    work = Work(options["workers"], options["compute"], options["address"])
    with working(
        "encode", "encode", place, work, as_json=as_json, logs=parts.LOGS, journal=job.journal
    ) as compute:
        manifest = encode.encode(job, compute)
    if as_json:
        echo_json(manifest)
    else:
        click.echo(_summary(manifest, place))
    return 0


def _summary(manifest: Mapping[str, Any], output: Path) -> str:
    bad = f", {manifest['bad_rows']:,} bad rows set aside" if manifest["bad_rows"] else ""
    return f"{manifest['rows']:,} rows in {len(manifest['parts'])} files{bad}: {output}"
