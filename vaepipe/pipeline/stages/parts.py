"""The folder of an encoding: who may write to it, which parts are there, what must not be."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from vaepipe import files
from vaepipe.compute.encode import BAD, RECORDS
from vaepipe.errors import UserError
from vaepipe.pipeline.workspace import local_folder

PLAN, MANIFEST, LOCK, LOGS = "_plan.json", "_manifest.json", "_lock", "_log"
HASHERS = 4
"""Threads that hash what an earlier run wrote."""

Again = Literal["resume", "overwrite", "fail"]
"""What becomes of an output folder that is not empty."""


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """No other process writes to the folder.

    Raises:
        UserError: one does.
    """
    with (output / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{output}: another encoder is at work on this folder; wait for it, or choose "
                "another output."
            ) from error
        yield


def check_output(output: str) -> Path:
    """A local folder that is new, or holds nothing but latents of ours, finished or not.

    Raises:
        UserError: it holds something else, or is no local folder.
    """
    folder = local_folder(output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; latents are a folder. Choose another output.")
    strange = folder.exists() and any(p.name not in (LOCK, LOGS) for p in folder.iterdir())
    if strange and not (folder / PLAN).exists():
        raise UserError(f"{folder} is not empty and holds no latents; choose another output.")
    return folder


def check_new(output: Path) -> None:
    """There is no encoding in the folder.

    Raises:
        UserError: there is one.
    """
    if (output / PLAN).exists():
        raise UserError(f"{output} already holds latents, and --fail-if-exists was given.")


def clear(output: Path) -> None:
    """Remove an encoding, in an order that may be cut off anywhere."""
    if (output / PLAN).exists():
        first, last = output / MANIFEST, output / PLAN
        rest = [p for p in output.iterdir() if p not in (first, last, output / LOCK, output / LOGS)]
        for path in (first, *rest, last):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def sweep(output: Path) -> None:
    """Remove what workers left that were killed."""
    for folder in (output, output / RECORDS, output / BAD, output / LOGS):
        files.sweep_temporaries(folder)


def missing(
    output: Path, planned: Sequence[Mapping[str, Any]], plan: str
) -> list[Mapping[str, Any]]:
    """Units whose part is not there; parts are hashed in parallel. No manifest outlives a part."""
    with ThreadPoolExecutor(HASHERS) as pool:
        there = list(pool.map(lambda unit: written(output, unit, plan), planned))
    found = [unit for unit, done in zip(planned, there, strict=True) if not done]
    if found:
        (output / MANIFEST).unlink(missing_ok=True)
    return found


def written(output: Path, unit: Mapping[str, Any], plan: str) -> bool:
    """Whether a part is there as a record of this plan says; nothing else counts as done."""
    path = output / unit["part"]
    try:
        record = known(output, unit)
        complete = record["rows"] + record["bad"] == unit["rows"] and record["plan"] == plan
        return complete and record["sha256"] == files.sha256(path)
    except (FileNotFoundError, ValueError, KeyError):
        return False


def known(output: Path, unit: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a part."""
    return files.read_json(output / RECORDS / f"{unit['part']}.json")
