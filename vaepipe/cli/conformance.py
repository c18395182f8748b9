"""`vaepipe plugins check`: a component against the contract of its group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from vaepipe.cli.options import echo_json, json_option
from vaepipe.errors import PluginError, UserError

if TYPE_CHECKING:
    from vaepipe.testing.report import Answer

_SHOWN = {"kept": "ok", "broken": "BROKEN", "exempt": "exempt", "not asked": "-"}
_FIGURES = 3
"""Figures shown for a question that was kept; all of them are in the JSON."""


@click.command("check")
@click.argument("group")
@click.argument("name")
@click.option("--set", "sets", metavar="OPTION=V", multiple=True, help="An option. Repeatable.")
@json_option
def check_command(group: str, name: str, sets: Sequence[str], as_json: bool) -> int:
    """Ask a component the questions of its group's contract, in double precision.

    Shapes, gradients, densities that integrate to one, draws that follow the density, bounds below
    the evidence, round trips of its state. Exit code 4 if it breaks a promise.
    """
    from vaepipe.testing.report import examine

    answers = []
    for answer in examine(group, name, dict(map(_option, sets))):
        answers.append(answer)
        if not as_json:
            click.echo("\n".join(_told(answer)))
    if as_json:
        echo_json([_plain(answer) for answer in answers])
    count = Counter(answer.verdict for answer in answers)
    told = [f"{count[verdict]} {verdict}" for verdict in _SHOWN if count[verdict]]
    click.echo(f"{group} {name}: {', '.join(told)}", err=True)
    return PluginError.exit_code if count["broken"] else 0


def _told(answer: Answer) -> list[str]:
    """A line for the question and what it means; below it what was found."""
    lines = [f"{_SHOWN[answer.verdict]:<7} {answer.question}: {answer.meaning}"]
    if answer.detail:
        lines.append(f"        {answer.detail}")
    seen = list(dict.fromkeys(answer.figures))
    shown = seen if answer.verdict == "broken" else seen[:_FIGURES]
    if shown:
        more = f" (and {len(seen) - len(shown)} more)" if len(seen) > len(shown) else ""
        lines.append(f"        measured: {'; '.join(shown)}{more}")
    return lines


def _plain(answer: Answer) -> dict[str, Any]:
    return {
        "question": answer.question,
        "meaning": answer.meaning,
        "verdict": answer.verdict,
        "kept": answer.kept,
        "detail": answer.detail,
        "figures": list(answer.figures),
    }


def _option(text: str) -> tuple[str, Any]:
    import yaml

    name, found, value = text.partition("=")
    if not found:
        raise UserError(f"--set '{text}': expected OPTION=VALUE.")
    return name, yaml.safe_load(value)
