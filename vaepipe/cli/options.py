"""Options that several commands share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def default_workspace() -> str:
    """`$VAEPIPE_WORKSPACE`, or `./vaepipe-runs`."""
    return os.environ.get("VAEPIPE_WORKSPACE") or "vaepipe-runs"


def workspace_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--workspace DIR`."""
    return click.option(
        "--workspace",
        metavar="DIR",
        default=default_workspace,
        show_default="$VAEPIPE_WORKSPACE or ./vaepipe-runs",
        help="Where artifacts are.",
    )(command)


def set_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--set a.b=v`, repeatable."""
    return click.option(
        "--set",
        "sets",
        metavar="A.B=V",
        multiple=True,
        help="Override a field of the file, as in --set stages.fit.epochs=3. Repeatable.",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def file_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """The pipeline file."""
    return click.argument("file", type=click.Path(path_type=Path, dir_okay=False))(command)


def echo_json(value: Any) -> None:
    """JSON on stdout."""
    click.echo(json.dumps(value, indent=2, default=str))
