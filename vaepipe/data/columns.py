"""Which columns of some files are the examples, the ids and the rest; and what does not agree."""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from vaepipe.core.spec import Shape
from vaepipe.data import layout, values
from vaepipe.data.places import shown
from vaepipe.data.unify import FROM_PATH, plain_type, unified, unified_from_paths
from vaepipe.errors import DataError, did_you_mean

TOLD = 8
"""Files that are named in a message."""


@dataclass(frozen=True)
class Variant:
    """Files with the same columns of the same types.

    Args:
        schema: of each of them.
        files: their paths or URIs.
    """

    schema: pa.Schema
    files: Sequence[str]

    def field(self, name: str) -> pa.Field | None:
        """Return a column, or None where the files have no such column."""
        return self.fields.get(name)

    @cached_property
    def fields(self) -> Mapping[str, pa.Field]:
        """Columns by name; the first of each name."""
        found: dict[str, pa.Field] = {}
        for field in self.schema:
            found.setdefault(field.name, field)
        return found

    @cached_property
    def repeated(self) -> frozenset[str]:
        """Names that several columns have."""
        counts = Counter(self.schema.names)
        return frozenset(name for name, count in counts.items() if count > 1)


@dataclass(frozen=True, slots=True)
class Types:
    """Types of the columns that are not examples, over all files.

    Args:
        schema: one type for each column that has one.
        conflicts: columns that have none, each with what the files say.
    """

    schema: pa.Schema
    conflicts: Mapping[str, str]


def choose(variant: Variant, column: str, named: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the columns of the examples.

    Args:
        variant: files that have them.
        column: a column, or several or globs of them, separated by commas.
        named: the columns that a model was fitted to, which then are meant, in this order; unless
            `column` is one column of vectors, which have no names.

    Raises:
        DataError: there is no such column.
    """
    known = variant.fields
    if named and not _is_vector(variant, column, named):
        _check_named(variant, named)
        return tuple(named)
    found = list[str]()
    for name in [column] if column in known else column.split(","):
        matching = [name] if name in known else [n for n in known if fnmatch.fnmatchcase(n, name)]
        if not matching:
            raise no_column(variant.files[0], name, list(known))
        found += matching
    return tuple(dict.fromkeys(found))


def _is_vector(variant: Variant, column: str, named: Sequence[str]) -> bool:
    """Check that a column of vectors is meant; `x`, the default, only where names are missing."""
    field = variant.field(column)
    if field is None or not values.is_list(plain_type(field.type)):
        return False
    return column != "x" or any(variant.field(name) is None for name in named)


def _check_named(variant: Variant, named: Sequence[str]) -> None:
    """Raise `DataError` unless the files have all columns that a model was fitted to."""
    missing = [name for name in named if variant.field(name) is None]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        known = [name for name in variant.fields if name not in set(named)]
        raise DataError(
            f"{shown(variant.files[0])}: no column '{missing[0]}'{more}, which the model reads."
            f"{did_you_mean(missing[0], known)} Give files with the model's columns "
            f"({', '.join(named[:TOLD])}{', …' if len(named) > TOLD else ''}), in any order."
        )


def check(variants: Sequence[Variant], column: Sequence[str], id_column: str | None) -> None:
    """Raise `DataError` unless all files have columns of examples and of ids of one kind.

    One message names everything that is wrong.
    """
    first = variants[0]
    names = [*column, *filter(None, [id_column])]
    found = [line for variant in variants for line in _problems(variant, first, names)]
    if id_column is not None:
        found += _id_problems(variants, id_column)
    if found:
        raise DataError("\n".join(dict.fromkeys(found)))


def check_layout(variants: Sequence[Variant], column: Sequence[str], shape: Shape) -> None:
    """Raise `DataError` unless the examples of all files can be read as examples of a shape."""
    size = math.prod(shape)
    for variant in variants:
        where = shown(variant.files[0])
        if len(column) > 1 and len(column) != size:
            raise DataError(
                f"{where}: examples of {size} values expected, got {len(column)} columns."
            )
        layout.check(where, layout_of(variant, column), shape)


def layout_of(variant: Variant, column: Sequence[str]) -> Shape | None:
    """Return the shape of the examples; None for images and lists of any length."""
    if len(column) > 1:
        return (len(column),)
    field = variant.field(column[0])
    return None if field is None else layout.layout(field)


def others(variants: Sequence[Variant], column: Sequence[str]) -> Types:
    """Return the types of all other columns of the first file over all files."""
    chosen, first = set(column), variants[0]
    names = [name for name in dict.fromkeys(first.schema.names) if name not in chosen]
    fields, conflicts = list[pa.Field](), dict[str, str]()
    for name in names:
        found = _unified(variants, name)
        if isinstance(found, pa.DataType):
            fields.append(pa.field(name, found))
        else:
            conflicts[name] = found
    return Types(pa.schema(fields), conflicts)


def elements(variants: Sequence[Variant], column: Sequence[str]) -> dict[pa.DataType, str]:
    """Return the types of single values of examples, each with a file that has it."""
    found: dict[pa.DataType, str] = {}
    for variant in variants:
        for name in column:
            field = variant.field(name)
            if field is not None:
                found.setdefault(values.element(field.type), variant.files[0])
    return found


def no_column(path: str, name: str, known: Sequence[str]) -> DataError:
    """Return the error of a file that has no such column."""
    listed = ", ".join(known) if len(known) <= 50 else f"{', '.join(known[:50])}, … ({len(known)})"
    return DataError(
        f"{shown(path)}: no column '{name}'.{did_you_mean(name, known)} Columns: {listed}."
    )


def no_words(path: str, name: str) -> DataError:
    """Return the error of text where there are no words to read it with."""
    return DataError(
        f"{shown(path)}: column '{name}': expected numbers, got text. A model that was fitted to "
        "sentences reads text; a dataset of type `text` makes numbers of it."
    )


def _problems(variant: Variant, first: Variant, names: Sequence[str]) -> Iterator[str]:
    path = variant.files[0]
    for name in names:
        if name in variant.repeated:
            yield _twice(path, name)
        expected, got = first.fields[name].type, variant.field(name)
        if got is None or values.sort(got.type) != values.sort(expected):
            yield (
                f"{shown(path)}: column '{name}': expected {expected} as in "
                f"{shown(first.files[0])}, got {got.type if got else 'no such column'}"
                f"{_more(variant.files)}. Give files of one kind, or leave this column out."
            )


def _id_problems(variants: Sequence[Variant], name: str) -> Iterator[str]:
    kinds = [(v.files[0], field.type) for v in variants if (field := v.field(name)) is not None]
    for path, kind in kinds:
        if not pa.types.is_integer(kind):
            yield f"{shown(path)}: column '{name}': ids must be integers, got {kind}."
    found = unified([kind for _, kind in kinds])
    if found is None and all(pa.types.is_integer(kind) for _, kind in kinds):
        yield _said(variants, name)


def _unified(variants: Sequence[Variant], name: str) -> pa.DataType | str:
    """Return the type of a column over all files, or why there is none."""
    for variant in variants:
        if name in variant.repeated:
            return _twice(variant.files[0], name)
    fields = [variant.field(name) for variant in variants]
    there = [field for field in fields if field is not None]
    from_paths = all((field.metadata or {}).items() >= FROM_PATH.items() for field in there)
    join: Callable[[Sequence[pa.DataType]], pa.DataType | None]
    join = unified_from_paths if from_paths else unified
    found = join([field.type for field in there])
    return _said(variants, name) if found is None or len(there) < len(fields) else found


def _said(variants: Sequence[Variant], name: str) -> str:
    """Say which type a column has in which files."""
    by_type: dict[str, list[str]] = {}
    for variant in variants:
        field = variant.field(name)
        kind = "no such column" if field is None else str(field.type)
        by_type.setdefault(kind, []).extend(variant.files)
    told = [f"{kind} in {shown(paths[0])}{_more(paths)}" for kind, paths in by_type.items()]
    return f"column '{name}': the files disagree: {'; '.join(told)}."


def _more(files: Sequence[str]) -> str:
    """Name further files, as far as there is room."""
    if len(files) == 1:
        return ""
    rest = ", ".join(map(shown, files[1:TOLD]))
    return f" (also {rest}{f' and {len(files) - TOLD} more' if len(files) > TOLD else ''})"


def _twice(path: str, name: str) -> str:
    return f"{shown(path)}: two columns are called '{name}'. Rename one, or leave both out."
