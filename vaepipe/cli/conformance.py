"""`vaepipe plugins check`: a component against the contract of its group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import click

from vaepipe.cli.options import echo_json, json_option
from vaepipe.errors import PluginError, UserError


class Answer(NamedTuple):
    """What a component said to one question of its contract."""

    question: str
    kept: bool
    detail: str


@click.command("check")
@click.argument("group")
@click.argument("name")
@click.option("--set", "sets", metavar="OPTION=V", multiple=True, help="An option. Repeatable.")
@json_option
def check_command(group: str, name: str, sets: Sequence[str], as_json: bool) -> int:
    """Ask a component the questions of its group's contract, in double precision.

    Shapes, gradients, densities that integrate to one, draws that follow the density, round trips
    of its state. Exit code 4 if it breaks a promise.
    """
    answers = list(conformance(group, name, dict(map(_option, sets))))
    if as_json:
        echo_json([answer._asdict() for answer in answers])
    else:
        for answer in answers:
            click.echo(f"{'ok    ' if answer.kept else 'BROKEN'}  {answer.question}")
            if answer.detail:
                click.echo(f"        {answer.detail}")
    broken = sum(not answer.kept for answer in answers)
    words = f"{len(answers) - broken} of {len(answers)} promises kept"
    click.echo(f"{group} {name}: {words}", err=True)
    return PluginError.exit_code if broken else 0


def conformance(group: str, name: str, options: Mapping[str, Any]) -> Iterator[Answer]:
    """Ask every question; an answer for each.

    Raises:
        UserError: an option does not fit.
    """
    from vaepipe import options as checked
    from vaepipe import registry, testing

    given = checked.validate(registry.part(group, name, options)).options
    contract = testing.contract_of(group, name, **given)
    with _double():
        for question in testing.questions(type(contract)):
            words = question.removeprefix("test_").replace("_", " ")
            try:
                testing.ask(contract, question)
            except Exception as error:  # whatever a plugin raises is its answer
                yield Answer(words, kept=False, detail=_line(error))
            else:
                yield Answer(words, kept=True, detail="")


@contextmanager
def _double() -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _line(error: Exception) -> str:
    """The first line of an error, and its type where it is not a broken promise."""
    text = (str(error).strip().splitlines() or ["no message"])[0]
    return text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"


def _option(text: str) -> tuple[str, Any]:
    import yaml

    name, found, value = text.partition("=")
    if not found:
        raise UserError(f"--set '{text}': expected OPTION=VALUE.")
    return name, yaml.safe_load(value)
