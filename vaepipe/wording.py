"""The voice in which mistakes are told: what was expected, what stands there, what is near.

Every settings model of vaepipe passes its validation errors through `reworded`, so that whoever
reads a problem reads a sentence about a file and nothing about the validator behind it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from vaepipe.errors import did_you_mean

Loc = tuple[str | int, ...]

_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "frozen_set_type": "a list",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_type": "an integer",
    "is_instance_of": "a list",
    "list_type": "a list",
    "mapping_type": "a mapping",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "none_required": "null",
    "sequence_str": "a list",
    "set_type": "a list",
    "string_type": "text",
    "tuple_type": "a list",
}

_LIMITS = {
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "multiple_of": "must be a multiple of {multiple_of:g}",
    "string_too_long": "takes at most {max_length} characters",
    "string_too_short": "needs at least {min_length} characters",
    "too_long": "takes at most {max_length} items",
    "too_short": "needs at least {min_length} items",
}

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Fault:
    """One mistake in plain data: at which location, what.

    `at` leads on from the location to the value that is wrong, where the location is told without
    it: a component of an unknown type is told at the component, and shown at its `type`.
    """

    loc: Loc
    message: str
    at: Loc = ()

    def under(self, *prefix: str | int) -> Fault:
        """The same mistake seen from further out."""
        return Fault((*prefix, *self.loc), self.message, self.at)


def mistake(message: str, at: Loc = ()) -> PydanticCustomError:
    """An error for validators to raise whose words are final."""
    return PydanticCustomError("house", "{message}", {"message": message, "at": at})


def faults(error: ValidationError) -> list[Fault]:
    """The mistakes that a settings model has found."""
    return _faults(error, {})


def invalid(title: str, found: Iterable[Fault]) -> ValidationError:
    """The inverse of `faults`: an error that validators may raise, with several mistakes."""
    lines: list[InitErrorDetails] = [
        {"type": mistake(fault.message, fault.at), "loc": fault.loc, "input": None}
        for fault in found
    ]
    return ValidationError.from_exception_data(title, lines)


def reworded(error: ValidationError, fields: Mapping[str, str]) -> list[Fault]:
    """The mistakes of a model in the house's words; `fields` maps names to what they expect."""
    return _faults(error, fields)


def is_mismatch(detail: ErrorDetails) -> bool:
    """Whether a value is of another kind than expected, not merely out of range."""
    return detail["type"] in _EXPECTED or detail["type"] in ("literal_error", "enum")


def expected(what: str, got: Any, near: Iterable[str] = ()) -> str:
    """`expected an integer, got 'ten'`, and the nearest word that would do."""
    hint = did_you_mean(got, near) if isinstance(got, str) else ""
    return f"expected {what}, got {shown(got)}{'.' if hint else ''}{hint}"


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """`unknown field 'setps'. Did you mean 'steps'?`; all known names where none is near."""
    hint = did_you_mean(name, known) or f" Known: {', '.join(known) or 'none'}."
    return f"unknown {kind} {shown(name)}.{hint}"


def words(items: Sequence[str], last: str = "or") -> str:
    """`a, b or c`."""
    return f" {last} ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def shown(value: Any) -> str:
    """A value as it stands in a file, or what it is where it is long."""
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…")
    text = "".join(islice(json.JSONEncoder(default=str).iterencode(value), _SHOWN))
    if len(text) <= _SHOWN:
        return text
    return "a mapping" if isinstance(value, Mapping) else "a long list"


def phrase(schema: Mapping[str, Any]) -> str:
    """A JSON Schema in words: `an integer at least 1`, `a number, 'learned' or null`.

    Example:
        >>> phrase({"type": "array", "items": {"type": "integer", "minimum": 1}})
        'a list of integers, each at least 1'
    """
    return words(_phrases(schema))


def _phrases(schema: Mapping[str, Any]) -> list[str]:
    if "anyOf" in schema:
        return [each for member in schema["anyOf"] for each in _phrases(member)]
    if "enum" in schema or "const" in schema:
        return [shown(each) for each in schema.get("enum", [schema.get("const")])]
    if schema.get("format") == "stage":
        return [f"the name of a stage of kind {words(schema['kinds'])}"]
    kind = schema.get("format", "") if schema.get("format") in _KINDS else schema.get("type", "")
    return [_KINDS.get(kind, "a value") + _items(schema.get("items", {})) + _range(schema)]


def _items(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "")
    limits = _range(schema)
    return f" of {_PLURALS[kind]}{f', each{limits}' if limits else ''}" if kind in _PLURALS else ""


_KINDS = {
    "array": "a list",
    "boolean": "true or false",
    "component": "a component, {type: ...}",
    "integer": "an integer",
    "null": "null",
    "number": "a number",
    "object": "a mapping",
    "path": "a path",
    "string": "text",
}

_PLURALS = {"integer": "integers", "number": "numbers", "string": "text"}

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "greater than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}


def _range(schema: Mapping[str, Any]) -> str:
    bounds = [f"{text} {schema[key]:g}" for key, text in _BOUNDS.items() if key in schema]
    return f" {' and '.join(bounds)}" if bounds else ""


def _faults(error: ValidationError, fields: Mapping[str, str]) -> list[Fault]:
    details = error.errors(include_url=False)
    return [_fault(detail, fields) for detail in details if not _miscounted(detail)]


def _miscounted(detail: ErrorDetails) -> bool:
    """A list that is "too short" only because its wrong items were not counted."""
    least = detail.get("ctx", {}).get("min_length", 0)
    return detail["type"] == "too_short" and len(detail["input"]) >= least


def _fault(detail: ErrorDetails, fields: Mapping[str, str]) -> Fault:
    context = detail.get("ctx", {})
    if detail["type"] == "house":
        return Fault(detail["loc"], context["message"], context["at"])
    return Fault(detail["loc"], _sentence(detail, context, fields))


def _sentence(detail: ErrorDetails, context: Mapping[str, Any], fields: Mapping[str, str]) -> str:
    kind, got = detail["type"], detail["input"]
    if kind == "missing" and isinstance(detail["loc"][-1], int):
        return "missing; the list is too short"
    if kind == "missing":
        what = fields.get(str(detail["loc"][-1]))
        return f"missing; expected {what}" if what else "missing"
    if kind == "extra_forbidden":
        return unknown("field", str(detail["loc"][-1]), list(fields))
    if kind in _EXPECTED:
        return expected(_EXPECTED[kind], got)
    if kind in ("literal_error", "enum"):
        return expected(context["expected"], got, re.findall(r"'([^']*)'", context["expected"]))
    if kind in _LIMITS:
        limit = _LIMITS[kind].format(**context).replace(" 1 items", " 1 item")
        return f"{limit}, got {shown(got)}"
    if "error" in context:
        return str(context["error"])
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, got {shown(got)}"
