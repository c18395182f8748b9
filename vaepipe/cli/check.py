"""`vaepipe check`: parse, assemble and rehearse; write nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vaepipe.cli.options import echo_json, json_option, set_option


@click.command("check")
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE...",
)
@set_option
@json_option
def command(paths: Sequence[Path], sets: Sequence[str], as_json: bool) -> int:
    """Parse, assemble and rehearse every fit of each FILE; write nothing."""
    from vaepipe.errors import UserError
    from vaepipe.pipeline import check, config

    results, errors = {}, []
    for path in paths:
        try:
            results[str(path)] = check.check(config.read(path, sets))
        except UserError as error:
            errors.append(str(error))
    if as_json:
        echo_json({"files": results, "problems": "\n".join(errors).splitlines()})
    else:
        _show(results)
    for error in errors:
        click.echo(error, err=True)
    return UserError.exit_code if errors else 0


def _show(results: dict[str, Any]) -> None:
    for path, found in results.items():
        click.echo(f"{path}: ok")
        for stage, facts in found.items():
            click.echo(f"  {stage}: {_line(facts)}")


def _line(facts: dict[str, Any]) -> str:
    if "trials" in facts:
        skipped = f", {facts['invalid']} of them skipped" if facts["invalid"] else ""
        warnings = "".join(f"; warning: {text}" for text in facts["warnings"])
        return f"{facts['trials']} trials{skipped}{warnings}"
    count = sum(facts["parameters"].values())
    notes = "; ".join(f"{key}: {value}" for key, value in facts["notes"].items())
    return f"{count:,} parameters" + (f"; {notes}" if notes else "")
