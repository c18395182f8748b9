"""A YAML file as plain data, and the line of everything in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vaepipe.errors import ConfigError, Problem
from vaepipe.wording import Fault, Loc

MAX_VALUES = 100_000
"""A file may not grow beyond this many values when its aliases are written out."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars: `1e-4` is a number; `on`, `010` and `2024-01-01` are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}


_SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "merge": r"<<",
}
for _tag, _pattern in _SCALARS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), None
    )


@dataclass(frozen=True, slots=True)
class Document:
    """A file's data, its lines, and the mistakes of the file as such (keys given twice)."""

    file: str
    data: Any
    faults: tuple[Fault, ...] = ()
    root: yaml.Node | None = field(default=None, compare=False, repr=False)

    def steps(self, path: str) -> Loc:
        """A dotted path as steps; keys of the file may hold dots."""
        return _steps(self.data, path.split("."))

    def line(self, loc: Loc) -> int | None:
        """The line of the value at a location, or of the nearest thing around it."""
        node, line = self.root, 1
        for step in loc:
            found = _child(node, step)
            if found is None:
                break
            node, line = found
        return line


def load(path: Path) -> Document:
    """Read a file.

    Raises:
        ConfigError: there is no such file, or it is not YAML.
    """
    try:
        return parse(path.read_bytes().decode("utf-8-sig"), str(path))
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 text (byte {error.start})"
    raise ConfigError([Problem(str(path), None, "", message)])


def parse(text: str, file: str) -> Document:
    """Plain data of a text; `file` is the name that its problems carry.

    Raises:
        ConfigError: the text is not YAML, or its keys or aliases cannot make a mapping.
    """
    try:
        return _parse(text, file)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError([Problem(file, _error_line(error, text), "", _reason(error))]) from None


def scalar(text: str) -> Any:
    """The value of a piece of YAML, as in `--set a.b=VALUE`; raises yaml.YAMLError."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _parse(text: str, file: str) -> Document:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return Document(file, None)
        _measure(root, {}, file)
        bad = [Problem(file, line, "", message) for line, message in _bad_keys(root)]
        if bad:
            raise ConfigError(bad)
        twice = tuple(_duplicates(root, ()))
        return Document(file, loader.construct_document(root), twice, root)
    finally:
        loader.dispose()


def _measure(node: yaml.Node, sizes: dict[int, int | None], file: str) -> int:
    """How many values a node stands for with its aliases written out."""
    known = sizes.get(id(node), 0)
    if known is None:
        raise ConfigError([Problem(file, _line(node), "", "an alias stands inside itself")])
    if not known:
        sizes[id(node)] = None
        known = 1 + sum(_measure(child, sizes, file) for child in _children(node))
        sizes[id(node)] = known
    if known > MAX_VALUES:
        message = f"aliases grow to more than {MAX_VALUES:,} values"
        raise ConfigError([Problem(file, _line(node), "", message)])
    return known


def _bad_keys(root: yaml.Node) -> Iterator[tuple[int, str]]:
    for node in _mappings(root):
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                yield _line(key), "a key must be text, not a list or a mapping"
            elif key.tag not in _KEYS:
                yield _line(key), f"a key must be text: write {key.value!r} in quotes"


_KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


def _duplicates(node: yaml.Node, loc: Loc) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for step, key, child in _entries(node):
        if key is not None and step in seen:
            yield Fault((*loc, step), f"given twice; the first stands at line {seen[str(step)]}")
        elif key is not None and key.tag != "tag:yaml.org,2002:merge":
            seen[str(step)] = _line(key)
        yield from _duplicates(child, (*loc, step))


def _entries(node: yaml.Node) -> Iterator[tuple[str | int, yaml.Node | None, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((key.value, key, value) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from ((index, None, value) for index, value in enumerate(node.value))


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    for _, key, child in _entries(node):
        if key is not None:
            yield key
        yield child


def _mappings(root: yaml.Node) -> Iterator[yaml.MappingNode]:
    stack, seen = [root], set()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield node
        stack.extend(_children(node))


def _child(node: yaml.Node | None, step: str | int) -> tuple[yaml.Node, int] | None:
    """The last entry wins, as in the data (merged entries stand before a mapping's own)."""
    found = [
        (child, _line(key or child))
        for name, key, child in (_entries(node) if node is not None else ())
        if name == step
    ]
    return found[-1] if found else None


def _steps(value: Any, rest: list[str]) -> Loc:
    for end in range(len(rest), 0, -1):
        key = ".".join(rest[:end])
        if isinstance(value, dict) and key in value:
            return (key, *_steps(value[key], rest[end:]))
    if isinstance(value, list) and rest and rest[0].isdigit() and int(rest[0]) < len(value):
        return (int(rest[0]), *_steps(value[int(rest[0])], rest[1:]))
    return tuple(rest)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _error_line(error: Exception, text: str) -> int | None:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return mark.line + 1
    position = getattr(error, "position", None)
    return None if position is None else text.count("\n", 0, position) + 1


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    if "'\\t'" in problem:
        return "not valid YAML: a tab cannot indent; use spaces"
    if "expected a single document" in str(error):
        return "holds more than one YAML document; a file is one pipeline"
    context = getattr(error, "context", None)
    return f"not valid YAML: {problem}" + (f" ({context})" if context else "")
