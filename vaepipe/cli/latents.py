"""`vaepipe latents`: are latents what they say, and are two of them the same?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from vaepipe.cli.options import echo_json, json_option, workspace_option


@click.group("latents")
def command() -> None:
    """Verify latents, or compare two of them."""


FOLDER = click.Path(path_type=Path, file_okay=False)


@command.command("verify")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option(
    "--rows",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    help="At least so many are encoded again; 0: none.",
)
@click.option("--model", metavar="M", help="Default: the folder of the model that made them.")
@workspace_option
@json_option
def verify(folder: Path, rows: int, model: str | None, workspace: str, as_json: bool) -> int:
    """Recount, rehash, and encode some rows again. Exit code 1 if anything differs."""
    from vaepipe.pipeline import latents, references

    bundle = references.find_bundle(model, workspace)[0] if model else None
    found = list(latents.verify(folder, rows, bundle))
    if as_json:
        echo_json([asdict(each) for each in found])
    else:
        for each in found:
            click.echo(f"{'ok    ' if each.ok else 'WRONG '} {each.what}: {each.detail}")
    return 0 if all(each.ok for each in found) else 1


@command.command("diff")
@click.argument("one", type=FOLDER, metavar="A")
@click.argument("other", type=FOLDER, metavar="B")
@json_option
def diff(one: Path, other: Path, as_json: bool) -> int:
    """Compare settings, rows and values of two encodings. Exit code 1 if rows or values differ."""
    from vaepipe.pipeline import latents

    found = latents.diff(one, other)
    if as_json:
        echo_json(found)
    else:
        _show(found)
    return 0 if found["same"] else 1


def _show(found: dict) -> None:
    for line in found["settings"]:
        click.echo(f"setting {line}")
    for name in ("only_in_first", "only_in_second", "moved"):
        click.echo(f"{name.replace('_', ' '):<16} {found[name]:,} rows")
    for name, what in found["apart"].items():
        click.echo(f"{name:<16} {what}")
    for name, gap in found["columns"].items():
        click.echo(f"{name:<16} largest difference {gap:.2e}")
    for name, count in found["unequal"].items():
        click.echo(f"{name:<16} differs in {count:,} rows")
    if not found["in_both"]:
        click.echo("no row is in both: no value was compared")
    click.echo("same rows and values" if found["same"] else "different")
