"""From a constructor's signature to a checked set of options, and to their description.

The keyword-only parameters of a component's constructor are its options; their annotations are
the schema (ranges through `annotated_types`, so that a component imports no validator). What a
component receives is plain data: text, numbers, booleans, lists, mappings, null.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Optional, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic.errors import PydanticSchemaGenerationError

from vaepipe import wording
from vaepipe.errors import PluginError, UserError
from vaepipe.registry import PartSpec, options_signature
from vaepipe.wording import Fault


class Settings(BaseModel):
    """The base of everything that a pipeline file says: frozen, strict, plain spoken."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", serialize_by_alias=True, use_attribute_docstrings=True
    )

    @classmethod
    def crosschecks(cls, data: Mapping[str, Any]) -> Iterator[Fault]:
        """Mistakes that show only where fields are read together; `data` is what was written."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _speak(cls, data: Any, handler: Any) -> Any:
        crossed = list(cls.crosschecks(data)) if isinstance(data, Mapping) else []
        try:
            made = handler(data)
        except ValidationError as error:
            raise wording.invalid(
                cls.__name__, [*wording.reworded(error, expectations(cls)), *crossed]
            ) from None
        if crossed:
            raise wording.invalid(cls.__name__, crossed)
        return made


@cache
def expectations(settings: type[BaseModel]) -> Mapping[str, str]:
    """Each field of a model, by its name in files, with what it expects in words."""
    properties = settings.model_json_schema(mode="validation").get("properties", {})
    return {name: wording.phrase(schema) for name, schema in properties.items()}


def model(cls: type) -> type[Settings]:
    """The options of a component as a model: unknown, mistyped and out-of-range ones are refused.

    Raises:
        PluginError: the constructor takes `**kwargs`, or an annotation cannot stand in a file.

    Example:
        >>> from typing import Annotated
        >>> from annotated_types import Ge
        >>> class Mixture:
        ...     def __init__(self, *, components: Annotated[int, Ge(1)] = 10) -> None: ...
        >>> model(Mixture).model_validate({}).model_dump(by_alias=True)
        {'components': 10}
    """
    return _model(cls)


def validate(part: PartSpec) -> PartSpec:
    """The component with its options checked, coerced to plain data, and defaults filled in.

    Raises:
        UserError: an option is unknown, missing, of the wrong type or out of range.
        PluginError: the component cannot be loaded, or cannot be described.
    """
    try:
        return checked(part)
    except ValidationError as error:
        lines = [
            f"{part.group} '{part.type}': {'.'.join(map(str, each.loc))}: {each.message}"
            for each in wording.faults(error)
        ]
        raise UserError("\n".join(lines)) from None


def checked(part: PartSpec) -> PartSpec:
    """As `validate`, for use inside other models: raises pydantic's ValidationError."""
    options = model(part.load()).model_validate(dict(part.options))
    return replace(part, options=options.model_dump(mode="json", by_alias=True))


def schema(cls: type) -> dict[str, Any]:
    """JSON Schema of a component's options."""
    return model(cls).model_json_schema(by_alias=True)


def describe(cls: type) -> list[dict[str, Any]]:
    """Each option of a component: its name, what it expects in words, and its default."""
    found = schema(cls)
    required = found.get("required", [])
    return [
        {
            "name": name,
            "expects": wording.phrase(about),
            "required": name in required,
            "default": about.get("default"),
        }
        for name, about in found.get("properties", {}).items()
    ]


def numeric(value: Any) -> Any:
    """Text that reads as a number, as a number: YAML 1.1 takes `1e-4` for text."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def absolute(path: str) -> str:
    """A path from the root, because workers have another working directory; URIs as they are."""
    if "://" in path:
        return path
    return str(Path.cwd() / Path(path).expanduser())


Integer = Annotated[int, Strict()]
Flag = Annotated[bool, Strict()]
_NUMBER = (Strict(), Field(allow_inf_nan=False), BeforeValidator(numeric))
Number = Annotated[float, *_NUMBER]

_MARKS: dict[Any, tuple[Any, ...]] = {
    bool: (Strict(),),
    int: (Strict(),),
    float: _NUMBER,
    Path: (AfterValidator(absolute), Field(json_schema_extra={"format": "path"})),
}


@cache
def _model(cls: type) -> type[Settings]:
    parameters = options_signature(cls)
    kinds = _annotations(cls, parameters)
    fields: dict[str, Any] = {
        f"option_{name}": (strict(kinds[name]), Field(_default(parameter), alias=name))
        for name, parameter in parameters.items()
    }
    if "type" in parameters:
        raise PluginError(f"{_name(cls)}: an option cannot be called 'type', which names the part.")
    try:
        return create_model(cls.__name__, __base__=Settings, **fields)
    except (PydanticSchemaGenerationError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise PluginError(
            f"{_name(cls)}: an option has an annotation that no file can express: {reason}"
        ) from error


def _annotations(cls: type, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    if not parameters:
        return {}
    holder = types.SimpleNamespace(
        __annotations__={name: each.annotation for name, each in parameters.items()}
    )
    names = getattr(inspect.unwrap(cls.__init__), "__globals__", {})
    try:
        return typing.get_type_hints(holder, globalns=names, include_extras=True)
    except NameError as error:
        raise PluginError(
            f"{_name(cls)}: {error}: the annotations of options are read when a file is, so what "
            "they name must be imported for good."
        ) from error


def _default(parameter: inspect.Parameter) -> Any:
    return ... if parameter.default is parameter.empty else parameter.default


def _name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def strict(kind: Any, *marks: Any) -> Any:
    """An annotation made strict: no booleans for numbers, no text for integers, paths absolute."""
    origin, args = get_origin(kind), get_args(kind)
    if kind in _MARKS:
        base = str if kind is Path else kind
        return Annotated[(base, *marks, *_MARKS[kind])]  # type: ignore[return-value]
    if origin is Annotated:
        return strict(args[0], *args[1:], *marks)
    made = _container(kind, origin, args)
    return Annotated[(made, *marks)] if marks else made


def _container(kind: Any, origin: Any, args: tuple[Any, ...]) -> Any:
    if origin in (Union, types.UnionType):
        return _union([strict(each) for each in args if each is not types.NoneType], args)
    if not args or origin is typing.Literal:
        return kind
    return origin[tuple(strict(each) for each in args)]


def _union(members: list[Any], args: tuple[Any, ...]) -> Any:
    made: Any = Union[tuple(members)]  # noqa: UP007
    if len(members) > 1:
        made = Annotated[made, WrapValidator(_one_of(made))]
    return Optional[made] if types.NoneType in args else made  # noqa: UP045


def _one_of(union: Any) -> Any:
    def check(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise _union_error(error, union, value) from None

    return check


def _union_error(error: ValidationError, union: Any, value: Any) -> Exception:
    """One sentence instead of one for each member, which pydantic labels in the location."""
    details = error.errors(include_url=False)
    telling = [each for each in details if len(each["loc"]) > 1 or not wording.is_mismatch(each)]
    if telling:
        found = [replace(each, loc=each.loc[1:]) for each in wording.reworded(error, {})]
        kept = [found[details.index(each)] for each in telling]
        return wording.invalid("union", kept)
    about = TypeAdapter(union).json_schema()
    texts = [each for each in get_args(union) for each in get_args(each) if isinstance(each, str)]
    return wording.mistake(wording.expected(wording.phrase(about), value, texts))
