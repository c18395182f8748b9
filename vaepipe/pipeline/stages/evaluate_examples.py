"""The table of examples: written from its parts, of which a few are held at a time.

A row has some numbers, and vectors that are many times as large. Only the numbers of all rows are
ever in memory together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vaepipe import files
from vaepipe.data import schema, shards


def numbers(part: Path) -> pa.Table:
    """A part without its vectors."""
    fields = pq.read_schema(part)
    return pq.read_table(part, columns=[f.name for f in fields if not pa.types.is_nested(f.type)])


def rates(part: Path) -> pa.Table:
    """The rate of each example and that of its dimensions."""
    return pq.read_table(part, columns=["id", "split", "rate", "rate_per_dim"])


def write(path: Path, parts: Sequence[Path], about: Mapping[str, str]) -> None:
    """All columns of all parts, in row groups of the usual size.

    Args:
        path: of the table.
        parts: at least one, in the order of their rows.
        about: metadata of the table.
    """
    plain = [pq.read_schema(part).remove_metadata() for part in parts]
    whole = pa.unify_schemas(plain).with_metadata(dict(about))
    options = schema.write_options(whole)
    with files.whole(path) as draft, pq.ParquetWriter(draft, whole, **options) as writer:
        for table in _groups(parts, whole):
            writer.write_table(table, row_group_size=shards.ROWS_PER_GROUP)


def _groups(parts: Sequence[Path], whole: pa.Schema) -> Iterator[pa.Table]:
    """The rows of the parts, some whole row groups at a time; columns that one lacks are null."""
    held = whole.empty_table()
    for part in parts:
        held = pa.concat_tables([held, pq.read_table(part)], promote_options="default")
        full = len(held) // shards.ROWS_PER_GROUP * shards.ROWS_PER_GROUP
        if full:
            yield held.slice(0, full)
            held = held.slice(full)
    if len(held):
        yield held
