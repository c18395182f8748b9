"""JSON Schema of the pipeline file, with the options of what is installed: for editors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from vaepipe import options, registry
from vaepipe.errors import PluginError
from vaepipe.pipeline.config import VERSION, Pipeline
from vaepipe.pipeline.fields import STAGE_NAME
from vaepipe.pipeline.settings import KINDS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema of a pipeline file.

    It imports the installed components for their options; one that is broken keeps its name and
    loses its options.
    """
    schema = Pipeline.model_json_schema()
    found: dict[str, Any] = {}
    kinds = [_stage(kind, found) for kind in KINDS]
    schema["properties"]["version"] = {"const": VERSION}
    schema["properties"]["stages"] = {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": f"^{STAGE_NAME}$"},
        "additionalProperties": {"oneOf": kinds},
    }
    for group in filter(_names, registry.GROUPS):
        found[group] = {"oneOf": [_component(group, name, found) for name in _names(group)]}
    return _linked({"$schema": DIALECT, **schema, "$defs": found})


def _stage(kind: str, found: dict[str, Any]) -> dict[str, Any]:
    """A stage's schema; what it is made of goes to `found`."""
    schema = KINDS[kind].model_json_schema()
    found.update(schema.pop("$defs", {}))
    if kind == "train":  # what another stage's settings say need not be said again
        needed = [name for name in schema["required"] if name != "kind"]
        schema["required"] = ["kind"]
        schema["anyOf"] = [{"required": needed}, {"required": ["settings"]}]
        found["ModelSettings"].pop("required", None)
    return schema


def _names(group: str) -> list[str]:
    """Names that stand for one component each."""
    return [name for name, points in registry.available(group).items() if len(points) == 1]


def _component(group: str, name: str, found: dict[str, Any]) -> dict[str, Any]:
    try:
        cls = registry.load(group, name)
        schema = options.schema(cls)
    except PluginError as error:
        return {
            "type": "object",
            "properties": {"type": {"const": name}},
            "required": ["type"],
            "description": str(error),
        }
    found.update(schema.pop("$defs", {}))
    return {
        **schema,
        "description": (inspect.getdoc(cls) or "").split("\n\n")[0],
        "properties": {"type": {"const": name}, **schema.get("properties", {})},
        "required": ["type", *schema.get("required", [])],
    }


def _linked(schema: Any) -> Any:
    """Fields that hold a component refer to the components of their group."""
    if isinstance(schema, Mapping):
        if schema.get("format") == "component":
            return {"$ref": f"#/$defs/{schema['group']}"}
        return {key: _linked(value) for key, value in schema.items()}
    return [_linked(each) for each in schema] if isinstance(schema, list) else schema
