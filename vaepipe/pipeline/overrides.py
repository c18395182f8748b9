"""`--set a.b=value`: fields of a file given on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from vaepipe import wording
from vaepipe.errors import Problem
from vaepipe.pipeline import locate
from vaepipe.pipeline.locate import Document
from vaepipe.wording import Fault, Loc

SET = "--set"
"""The file's name in problems of the command line."""


@dataclass
class Source:
    """A file's data with what was set over them, and where everything comes from."""

    document: Document
    data: Any
    given: list[Loc] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, fault: Fault) -> Problem:
        """A mistake with its file and line."""
        loc, path = (*fault.loc, *fault.at), dotted(fault.loc)
        if any(loc[: len(given)] == given for given in self.given):
            return Problem(SET, None, path, fault.message)
        return Problem(self.document.file, self.document.line(loc), path, fault.message)


class _RefusedError(Exception):
    """A setting cannot be made; the text says why."""


def dotted(loc: Loc) -> str:
    """A location as people read it."""
    return ".".join(map(str, loc))


def apply(document: Document, sets: Sequence[str]) -> Source:
    """The document's data with settings made over them; what cannot be set becomes a problem."""
    source = Source(document, document.data)
    for text in sets if isinstance(document.data, Mapping) else ():
        path, _, value = text.partition("=")
        try:
            loc = _loc(source.data, path.strip(), text)
            source.data = _assigned(source.data, loc, _value(value))
            source.given.append(loc)
        except _RefusedError as refused:
            source.problems.append(Problem(SET, None, path.strip(), str(refused)))
    return source


def _value(text: str) -> Any:
    try:
        return locate.scalar(text)
    except (yaml.YAMLError, ValueError):
        raise _RefusedError(f"{wording.shown(text)} is not valid YAML; quote text") from None


def _loc(data: Mapping[str, Any], path: str, text: str) -> Loc:
    """A dotted path as steps; `fit.epochs` is short for `stages.fit.epochs`."""
    steps = path.split(".")
    if "=" not in text or not all(steps):
        raise _RefusedError(f"expected a.b=value, got {wording.shown(text)}")
    stages = data.get("stages")
    known = stages if isinstance(stages, Mapping) else {}
    if steps[0] not in data and steps[0] in known:
        steps = ["stages", *steps]
    if steps[0] == "stages" and len(steps) > 2 and steps[1] not in known:
        raise _RefusedError(wording.unknown("stage", steps[1], list(known)))
    return _steps(data, steps)


def _steps(value: Any, steps: Sequence[str]) -> Loc:
    """Keys may hold dots (the paths of a space): the longest key that is there is taken."""
    if not steps:
        return ()
    if isinstance(value, list) and steps[0].isdigit() and int(steps[0]) < len(value):
        return (int(steps[0]), *_steps(value[int(steps[0])], steps[1:]))
    if value is not None and not isinstance(value, Mapping):
        raise _RefusedError(f"there is no '{steps[0]}' in {wording.shown(value)}")
    key = _longest(value or {}, steps) or steps[0]
    inner, rest = (value or {}).get(key), steps[key.count(".") + 1 :]
    if key == "space" and rest and not _longest(inner or {}, rest):
        return (key, ".".join(rest))
    return (key, *_steps(inner, rest))


def _longest(entries: Any, steps: Sequence[str]) -> str | None:
    keys = (".".join(steps[:end]) for end in range(len(steps), 0, -1))
    return next((key for key in keys if isinstance(entries, Mapping) and key in entries), None)


def _assigned(data: Any, loc: Loc, value: Any) -> Any:
    """A copy along the path: what an alias shares elsewhere stays as it is."""
    if not loc:
        return value
    step, *rest = loc
    if isinstance(step, int):
        return [_assigned(v, tuple(rest), value) if i == step else v for i, v in enumerate(data)]
    below = data or {}
    return {**below, step: _assigned(below.get(step), tuple(rest), value)}
