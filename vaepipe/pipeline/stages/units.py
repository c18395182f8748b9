"""The plan of an encoding: which groups of which file become which part, computed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vaepipe import files
from vaepipe.data.sources import Piece
from vaepipe.errors import UserError

SHOWN = 8
"""Differences that are told."""


def plan(
    path: Path,
    pieces: Mapping[str, Sequence[Piece]],
    rows_per_file: int,
    common: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], str]:
    """Units of work, from the stored plan if there is one, and a digest of the plan.

    A unit is a range of row groups of one input file and becomes one output file; it never
    crosses a file, and has about `rows_per_file` rows unless a row group has more.

    Raises:
        UserError: the stored plan is of another model, input or settings; the message shows the
            differences.
    """
    now = {
        "metadata": dict(common["metadata"]),
        "config": dict(common["config"]),
        "files": {p.path: p.stamp for found in pieces.values() for p in found},
    }
    if path.exists():
        units = _stored(path, now)
    else:
        units = [u for split, found in pieces.items() for u in _units(split, found, rows_per_file)]
        for number, unit in enumerate(units):
            unit["part"] = f"part-{number:05d}-of-{len(units):05d}.parquet"
        files.write_json(path, {**now, "worker": dict(common), "units": units})
    stamped = [{**unit, "stamp": now["files"][unit["path"]]} for unit in units]
    return stamped, files.digest({**now, "units": units})


def _stored(path: Path, now: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        stored = files.read_json(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}. Start from nothing: --overwrite.") from error
    _refuse(path.parent, stored, now)
    return stored["units"]


def _units(split: str, pieces: Sequence[Piece], rows_per_file: int) -> Iterator[dict[str, Any]]:
    for piece in pieces:
        start, row = piece.start, 0
        for first, last, rows in _ranges(piece.about.groups, rows_per_file):
            yield {
                "split": split,
                "path": piece.path,
                "first": first,
                "last": last,
                "start": start,
                "row": row,
                "rows": rows,
            }
            start, row = start + rows, row + rows


def _ranges(groups: tuple[int, ...], most: int) -> Iterator[tuple[int, int, int]]:
    """First and last group and rows of runs of groups, each with `most` rows if groups allow.

    Example:
        >>> list(_ranges((3, 3, 3, 9, 1), 6))
        [(0, 1, 6), (2, 2, 3), (3, 3, 9), (4, 4, 1)]
    """
    first, count = 0, 0
    for group, rows in enumerate(groups):
        if count and count + rows > most:
            yield first, group - 1, count
            first, count = group, 0
        count += rows
    if count:
        yield first, len(groups) - 1, count


def _refuse(folder: Path, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    found = [
        line
        for section in ("metadata", "config", "files")
        for line in differences(stored[section], now[section])
    ]
    if found:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        lines = "\n  ".join([*found[:SHOWN], *more])
        raise UserError(
            f"{folder} holds latents of another model, input or settings:\n  {lines}\n"
            "Choose another output, give what was given then, or --overwrite."
        )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A line for each key whose values differ."""
    for key in sorted({*then, *now}):
        if then.get(key) != now.get(key):
            name = key.removeprefix("vaepipe.")
            yield f"{name}: was {then.get(key, 'absent')}, is {now.get(key, 'absent')}"
