"""Ids that several rows have: nothing can be joined by them, and their draws are the same."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa


def repeated(table: pa.Table) -> int:
    """Count the rows that repeat an `id` of their `split`.

    Example:
        >>> repeated(pa.table({"split": ["a", "a", "b", "a"], "id": [1, 1, 1, 2]}))
        1
    """
    return table.num_rows - table.group_by(["split", "id"]).aggregate([]).num_rows


def repetitions(table: pa.Table) -> Iterator[str]:
    """Yield a warning where rows repeat an `id` of their `split`."""
    count = repeated(table)
    if count:
        rows = "1 row repeats" if count == 1 else f"{count:,} rows repeat"
        yield (
            f"{rows} an id of their split: rows of one id have the same random numbers, and cannot "
            "be joined with other tables. Name unique integers with --id-column, or rename the "
            "column `id`, so that rows are numbered."
        )
