"""`vaepipe plugins`: installed components, their options and abilities."""

from __future__ import annotations

import enum
import inspect
from typing import Any

import click

from vaepipe import registry
from vaepipe.cli.conformance import check_command
from vaepipe.cli.options import echo_json, json_option
from vaepipe.cli.plugins_new import new_command


@click.group("plugins")
def command() -> None:
    """Installed components, their options, abilities and promises; new ones."""


@command.command("list")
@click.argument("group", required=False)
@json_option
def list_command(group: str | None, as_json: bool) -> int:
    """List the components of GROUP, or of all groups; imports none of them."""
    rows = [row for each in ([group] if group else registry.GROUPS) for row in _rows(each)]
    if as_json:
        echo_json(rows)
        return 0
    columns = ("group", "name", "distribution", "version")
    widths = [
        max(len(row[column]) for row in [*rows, {c: c for c in columns}]) for column in columns
    ]
    for row in [{column: column.upper() for column in columns}, *rows]:
        cells = (f"{row[column]:<{width}}" for column, width in zip(columns, widths, strict=True))
        note = f"  {row['note']}" if row.get("note") else ""
        click.echo(f"{'  '.join(cells).rstrip()}{note}")
    return 0


@command.command("show")
@click.argument("group")
@click.argument("name")
@json_option
def show_command(group: str, name: str, as_json: bool) -> int:
    """Show one component: what it is, its options, what it needs and provides."""
    facts = describe(group, name)
    if as_json:
        echo_json(facts)
    else:
        click.echo("\n".join(_page(facts)))
    return 0


def describe(group: str, name: str) -> dict[str, Any]:
    """Everything that is known about a component; imports its module."""
    from vaepipe import options

    part = registry.part(group, name)
    cls = part.load()
    return {
        "group": group,
        "name": name,
        "distribution": part.distribution,
        "version": part.version,
        "target": part.target,
        "doc": inspect.getdoc(cls) or "",
        "options": options.describe(cls),
        "abilities": _abilities(cls),
    }


def _rows(group: str) -> list[dict[str, str]]:
    """A row for each entry point; a name that two distributions claim has to be pinned."""
    rows = []
    for name, points in registry.available(group).items():
        for point in points:
            dist, version = registry.distribution(point)
            row = {"group": group, "name": name, "distribution": dist, "version": version}
            pin = {"note": f"claimed twice: pin as '{dist}:{name}'"} if len(points) > 1 else {}
            rows.append(row | pin)
    return rows


def _abilities(cls: type) -> dict[str, Any]:
    """What the class declares: `provides` and `needs` as lists of words, `support` as a word."""
    declared = {word: getattr(cls, word, None) for word in ("provides", "needs", "support")}
    return {word: _words(value) for word, value in declared.items() if value is not None}


def _words(value: Any) -> Any:
    if isinstance(value, enum.Flag):
        return [str(flag.name).lower() for flag in value]
    from vaepipe.core.spec import SUPPORTS

    names = [name for name, support in SUPPORTS.items() if support is value]
    return names[0] if names else str(value)


def _page(facts: dict[str, Any]) -> list[str]:
    head = f"{facts['group']} {facts['name']}  ({facts['distribution']} {facts['version']})"
    lines = [head, facts["target"], "", *facts["doc"].splitlines(), "", "Options:"]
    width = max((len(option["name"]) for option in facts["options"]), default=0)
    for option in facts["options"]:
        default = "required" if option["required"] else f"default {_shown(option['default'])}"
        lines.append(f"  {option['name']:<{width}}  {option['expects']}; {default}")
    lines += [] if facts["options"] else ["  none"]
    for word, value in facts["abilities"].items():
        text = ", ".join(value) or "nothing" if isinstance(value, list) else value
        lines.append(f"{word.capitalize()}: {text}")
    return lines


def _shown(value: Any) -> str:
    from vaepipe.wording import shown

    return shown(value)


command.add_command(check_command)
command.add_command(new_command)
