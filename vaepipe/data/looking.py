"""What files say of themselves before their rows are read: groups, columns, sizes, times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa

from vaepipe.core.spec import Shape
from vaepipe.data import columns, formats, values
from vaepipe.data.columns import Variant
from vaepipe.data.formats import About
from vaepipe.data.places import shown
from vaepipe.errors import DataError

LOOKERS = 32
"""Files that are looked at together: what a footer costs is waiting."""


class Piece(NamedTuple):
    """A file of a source, looked at."""

    path: str
    about: About
    start: int
    """Position of its first row among those of all files."""
    stamp: dict[str, Any]
    """Size and time of the last change."""


class Looked(NamedTuple):
    """What the files of a source say of themselves, taken together."""

    pieces: list[Piece]
    """Every file."""
    widths: Mapping[str, float]
    """Bytes per row of each column before compression, where rows are widest."""
    elements: Mapping[pa.DataType, str]
    """Types of single values of examples, each with a file that has it."""
    conflicts: Mapping[str, str]
    """Columns whose types do not agree, each with what the files say."""
    left: tuple[str, ...] = ()
    """Names of files beside them that are not read."""


def look_at(kind: str, files: Sequence[str]) -> tuple[Looked, list[Variant]]:
    """Look at files: what they say, and those with rows by their columns."""

    def one(path: str) -> tuple[dict[str, Any], About]:
        return formats.stamp(path), formats.FORMATS[kind].look(path)  # a change since is noticed

    pieces, widths, start = list[Piece](), dict[str, float](), 0
    groups: dict[tuple[bool, bytes], tuple[pa.Schema, list[str]]] = {}
    with ThreadPoolExecutor(LOOKERS) as pool:
        for path, (stamp, about) in zip(files, pool.map(one, files), strict=True):
            key = any(about.groups), about.schema.serialize().to_pybytes()
            groups.setdefault(key, (about.schema, []))[1].append(path)
            for name, width in about.widths.items():
                widths[name] = max(widths.get(name, 0.0), width)
            short = about._replace(schema=pa.schema([]), widths={})  # there may be many files
            pieces.append(Piece(path, short, start, stamp))
            start += sum(about.groups)
    filled = any(rows for rows, _ in groups)  # files without rows say nothing about types
    variants = [Variant(*found) for (rows, _), found in groups.items() if rows == filled]
    return Looked(pieces, widths, {}, {}), variants


def first_shape(
    kind: str, pieces: Sequence[Piece], variants: Sequence[Variant], column: Sequence[str]
) -> Shape:
    """The shape that examples have: of the columns' type, else of the first row that has values."""
    found = columns.layout_of(variants[0], column)
    if found is not None:
        return found
    for piece in pieces:
        groups = range(len(piece.about.groups))
        for batch in formats.FORMATS[kind].batches(piece.path, groups, column, formats.GROUP):
            length = values.length(shown(piece.path), batch.column(0))
            if length is not None:
                return (length,)
    raise DataError(
        f"{shown(pieces[0].path)}: no rows with values, so the shape of an example is unknown; "
        "give `shape`."
    )
