"""The kinds of fields that stages are made of: names, references, components, tagged settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, final

from annotated_types import Ge, Gt, MinLen
from pydantic import AfterValidator
from pydantic_core import CoreSchema, ValidationError, core_schema

from vaepipe import options, registry, wording
from vaepipe.errors import UnknownComponent, did_you_mean
from vaepipe.options import Integer, Number, Settings
from vaepipe.registry import PartSpec
from vaepipe.wording import Fault

Whole = Annotated[Integer, Ge(0)]
"""An integer that may be zero."""
Count = Annotated[Integer, Ge(1)]
"""A positive integer."""
Positive = Annotated[Number, Gt(0)]
"""A positive number."""

MAX_NAME = 100
STAGE_NAME = "[A-Za-z0-9_][A-Za-z0-9_-]*"
FOLDER_NAME = "[A-Za-z0-9_][A-Za-z0-9_.-]*"
ALIAS = "[A-Za-z0-9_-]+"


@final
@dataclass(frozen=True, slots=True)
class Component:
    """A component as a file names it, `{type: name, **options}`, its options checked."""

    spec: PartSpec

    def part(self, group: str) -> PartSpec:
        """The component as data for workers, with every default filled in."""
        if self.spec.group != group:
            raise LookupError(f"'{self.type}' is one of the {self.spec.group}, not of the {group}")
        return self.spec

    @property
    def type(self) -> str:
        """The name in the file."""
        return self.spec.type

    def written(self) -> dict[str, Any]:
        """As it would stand in a file, with every option."""
        return {"type": self.spec.type, **self.spec.options}


@final
@dataclass(frozen=True, slots=True)
class Group:
    """Marks a field that holds a component of an entry-point group."""

    name: str

    def parse(self, value: Any) -> Component:
        """Look the component up and check its options."""
        if isinstance(value, Component):
            return value
        if not isinstance(value, Mapping):
            raise wording.mistake(wording.expected("a mapping such as {type: ...}", value))
        kind = value.get("type")
        if not isinstance(kind, str):
            raise self._typeless(value)
        given = {key: each for key, each in value.items() if key != "type"}
        return Component(options.checked(self._find(kind, given)))

    def _find(self, kind: str, given: Mapping[str, Any]) -> PartSpec:
        try:
            return registry.part(self.name, kind, given)
        except UnknownComponent as error:
            near = did_you_mean(kind, registry.available(self.name))
            hint = "" if near else " Choose one of these, or install the plugin that provides it."
            raise wording.mistake(f"{error}{hint}", at=("type",)) from None

    def _typeless(self, value: Mapping[str, Any]) -> ValidationError:
        known = ", ".join(registry.available(self.name)) or "none"
        what = f"the name of one of the {self.name}: {known}"
        found = wording.expected(what, value["type"]) if "type" in value else ""
        return wording.invalid(
            "component", [Fault(("type",), found or f"missing; expected {what}")]
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Parse with `parse`, write with `written`."""
        return core_schema.no_info_plain_validator_function(
            self.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(Component.written),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        """A marker that `vaepipe.pipeline.schema` replaces by what is installed."""
        return {"type": "object", "format": "component", "group": self.name}


@final
@dataclass(frozen=True, slots=True)
class Takes:
    """Marks a field that refers to other stages, and the kinds of stages that fit."""

    kinds: tuple[str, ...]

    def __init__(self, *kinds: str) -> None:
        object.__setattr__(self, "kinds", kinds)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        """The field's own schema; a single reference says what it refers to."""
        found = handler(schema)
        if found.get("type") == "string":
            found |= {"format": "stage", "kinds": list(self.kinds)}
        return found


@final
class Tagged:
    """Marks a field whose settings depend on its `type`: `{type: sgd, momentum: 0.9}`.

    Args:
        what: the field in words, for messages.
        default: the type where none is given.
        models: by the name of the type.
    """

    def __init__(self, what: str, default: str, models: Mapping[str, type[Settings]]) -> None:
        self.what, self.default, self.models = what, default, dict(models)

    def parse(self, value: Any) -> Settings:
        """Check the settings against the model of their type."""
        if isinstance(value, tuple(self.models.values())):
            return value
        if not isinstance(value, Mapping):
            raise wording.mistake(wording.expected("a mapping such as {type: ...}", value))
        kind = value.get("type", self.default)
        if not isinstance(kind, str) or kind not in self.models:
            raise wording.mistake(wording.unknown(self.what, kind, tuple(self.models)), ("type",))
        return self.models[kind].model_validate(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Parse with `parse`; write as any model."""
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        """One of the models."""
        models = [model.model_json_schema() for model in self.models.values()]
        return {"type": "object", "anyOf": models}


def _stage_name(name: str) -> str:
    return _matched(STAGE_NAME, name, "letters, digits, '_' and '-'")


def _folder_name(name: str) -> str:
    what = "letters, digits, '_', '-' and '.', not beginning with '.' or '-'"
    return _matched(FOLDER_NAME, name, what)


def _alias(name: str) -> str:
    if name.lower() == "latest" or re.fullmatch(r"[vV]\d+", name):
        raise wording.mistake(
            f"{wording.shown(name)} means a version to MLflow and cannot be an alias; "
            "call it what it is for, as in 'challenger'"
        )
    return _matched(ALIAS, name, "letters, digits, '_' and '-'")


def _matched(pattern: str, name: str, what: str) -> str:
    if len(name) > MAX_NAME:
        raise wording.mistake(f"takes at most {MAX_NAME} characters, got {len(name)}")
    if not re.fullmatch(pattern, name):
        raise wording.mistake(wording.expected(f"a name of {what}", name))
    return name


StageName = Annotated[str, AfterValidator(_stage_name)]
"""A stage's name: it is a folder, and a step of dotted paths."""
FolderName = Annotated[str, AfterValidator(_folder_name)]
"""A name that is safe as a folder, and in MLflow."""
Alias = Annotated[str, AfterValidator(_alias)]
"""An alias that MLflow takes."""


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise wording.mistake(f"names {wording.shown(twice[0])} twice")
    return names


Names = Annotated[tuple[FolderName, ...], MinLen(1), AfterValidator(_unique)]
"""One name or more, each once."""
