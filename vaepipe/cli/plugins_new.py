"""`vaepipe plugins new`: an installable package with a component that works."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

import click

from vaepipe import files, registry
from vaepipe.cli.options import echo_json, json_option
from vaepipe.errors import UserError, did_you_mean

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@click.command("new")
@click.argument("group")
@click.argument("name")
@click.option(
    "--into",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path(),
    show_default="this folder",
    help="Folder in which the package's folder is made.",
)
@json_option
def new_command(group: str, name: str, into: Path, as_json: bool) -> int:
    """Write a new plugin: the package `vaepipe-NAME` with one component of GROUP.

    It works as it is, and `vaepipe plugins check GROUP NAME` finds nothing to mend: change it until
    it is yours. NAME is what pipeline files will call it.
    """
    project = into / f"vaepipe-{name.replace('_', '-')}"
    written = create(group, name, project)
    if as_json:
        echo_json({"project": str(project), "files": written})
        return 0
    for each in written:
        click.echo(project / each)
    click.echo(f"Next: pip install -e {project} && vaepipe plugins check {group} {name}", err=True)
    return 0


def create(group: str, name: str, project: Path) -> list[str]:
    """Write the package in one piece; the names of its files.

    Raises:
        UserError: no such group, a bad or taken name, or the folder exists.
    """
    from vaepipe.cli import plugins_skeletons as skeletons

    if group not in skeletons.GROUPS:
        known = ", ".join(skeletons.GROUPS)
        raise UserError(
            f"no skeleton for group '{group}'.{did_you_mean(group, skeletons.GROUPS)} "
            f"Groups: {known}."
        )
    _check_name(group, name)
    if project.exists():
        raise UserError(f"{project} exists already: choose another name, or --into another folder.")
    contents = skeletons.files(group, name)
    with files.whole_folder(project) as draft:
        for path, text in contents.items():
            (draft / path).write_text(text, encoding="utf-8")
    return sorted(contents)


def _check_name(group: str, name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise UserError(
            f"'{name}' cannot be the name of a component: lower-case letters, digits and "
            "underscores, a letter first, as in 'student_t'."
        )
    owners = sorted(registry.distribution(p)[0] for p in registry.available(group).get(name, ()))
    if owners:
        raise UserError(f"{group} '{name}' is there already, in {owners[0]}: choose another name.")
