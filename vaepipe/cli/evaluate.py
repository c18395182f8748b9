"""`vaepipe evaluate`: evidence and ELBO of a model on data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from vaepipe.cli.options import echo_json, json_option, workspace_option
from vaepipe.cli.standalone import Work, model_option, summarise, work_options, working

DEFAULT_K = 1000
CURVE = (1, 5, 50, 500, 5000)
"""Numbers of samples of a curve, as far as they are below the largest."""


class Ks(click.ParamType):
    """A positive integer, or several with commas between them."""

    name = "K[,K…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the numbers."""
        if isinstance(value, tuple):
            return value
        number = click.IntRange(1)
        return tuple(number(word.strip(), param, ctx) for word in str(value).split(","))


KS = Ks()


@click.command("evaluate")
@model_option
@click.option(
    "--data",
    metavar="PATH",
    required=True,
    help="A data artifact's folder, or Parquet files: folder, glob or URI.",
)
@click.option("--output", type=click.Path(file_okay=False), metavar="DIR", required=True)
@click.option(
    "--k",
    "ks",
    type=KS,
    multiple=True,
    help="Importance samples of each example; several, or a list such as 1,5,50, give a curve in "
    f"one pass. [default: {DEFAULT_K}]",
)
@click.option(
    "--k-curve",
    is_flag=True,
    help="Also the evidence at 1, 5, 50, 500 … samples below the largest --k (k_curve.parquet).",
)
@click.option(
    "--proposal",
    type=click.Choice(["posterior", "defensive", "refined"]),
    default="posterior",
    show_default=True,
    help="Where samples come from: q(z|x); that with a wider one and the prior; the same around "
    "each example's own best posterior.",
)
@click.option("--refine-steps", type=click.IntRange(1), default=50, show_default=True)
@click.option(
    "--gaps",
    type=click.IntRange(1),
    metavar="N",
    help="Approximation and amortization gap of N examples of each split.",
)
@click.option(
    "--ais",
    type=click.IntRange(2),
    metavar="TEMPERATURES",
    help="A second lower bound, by annealed importance sampling at so many temperatures.",
)
@click.option("--ais-examples", type=click.IntRange(1), default=100, show_default=True)
@click.option("--ais-chains", type=click.IntRange(1), default=16, show_default=True)
@click.option("--ais-leapfrog", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--bdmc",
    type=click.IntRange(1),
    metavar="N",
    help="Lower and upper bounds on N examples that the model makes.",
)
@click.option(
    "--decompose/--no-decompose",
    default=True,
    show_default=True,
    help="Take the rate apart: mutual information, marginal KL, total correlation.",
)
@work_options
@workspace_option
@json_option
def command(model: str, data: str, output: str, as_json: bool, **options: Any) -> int:
    """Write per_example, per_dimension and summary tables of a model on data, in nats."""
    from vaepipe import files
    from vaepipe.errors import UserError
    from vaepipe.pipeline import inputs, references
    from vaepipe.pipeline.stages import evaluate
    from vaepipe.pipeline.workspace import MANIFEST, local_folder
    from vaepipe.training import bundle

    place = local_folder(output)
    if (place / MANIFEST).exists():
        raise UserError(f"{place} holds a complete evaluation; choose another --output.")
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
        seed=options["seed"],
        output=place,
        measures=evaluate.measures(_measures(options)),
        batch_size=options["batch_size"] or evaluate.BATCH_SIZE,
    )
    work = Work(options["workers"], options["compute"], options["address"])
    with working("evaluate", "evaluate", place, work) as compute:
        manifest = evaluate.evaluate(job, compute)
    files.write_json(place / MANIFEST, {**manifest, "kind": "evaluate"})
    if as_json:
        echo_json(manifest)
    else:
        summarise(manifest["metrics"])
    return 0


def _measures(options: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluate stage would say."""
    ks = sorted({k for given in options["ks"] for k in given}) or [DEFAULT_K]
    if options["k_curve"]:
        ks = sorted({*ks, *(k for k in CURVE if k < ks[-1])})
    path = {"temperatures": options["ais"], "examples": options["ais_examples"]}
    path |= {"chains": options["ais_chains"], "leapfrog": options["ais_leapfrog"]}
    evidence = {"k": ks if len(ks) > 1 else ks[0], "proposal": options["proposal"]}
    return {
        "evidence": evidence | {"refine_steps": options["refine_steps"]},
        "decompose": options["decompose"],
        "gaps": options["gaps"] and {"examples": options["gaps"]},
        "ais": options["ais"] and path,
        "bdmc": options["bdmc"] and {"examples": options["bdmc"]},
    }
