"""Files that are either complete or absent: temporary name, fsync, rename."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp-"
TOKEN = secrets.token_hex(4)
"""In the names of this process's drafts: in another container a process may have the same id."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` only if the block succeeds.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with whole(target) as draft:
        ...     _ = draft.write_text("all of it")
        >>> target.read_text()
        'all of it'
    """
    draft = path.with_name(f"{_ours()}{path.name}")
    try:
        yield draft
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    finally:
        _remove(draft)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` only if the block succeeds."""
    draft = path.with_name(f"{_ours()}{path.name}")
    _remove(draft)
    draft.mkdir(parents=True)
    try:
        yield draft
        for file in (*draft.iterdir(), draft):
            sync(file)
        _replace_folder(draft, path)
    finally:
        _remove(draft)


def _replace_folder(draft: Path, path: Path) -> None:
    """Rename twice; if the second fails, the old folder comes back."""
    old = path.with_name(f"{TEMPORARY}old-{path.name}")
    _remove(old)
    if path.exists():
        path.rename(old)
    try:
        draft.rename(path)
    except BaseException:
        recover_folder(path)
        raise
    sync(path.parent)
    _remove(old)


def recover_folder(path: Path) -> None:
    """Put back a folder whose replacement by `whole_folder` was cut off between two renames."""
    old = path.with_name(f"{TEMPORARY}old-{path.name}")
    if old.exists() and not path.exists():
        old.rename(path)


def sync(path: Path) -> None:
    """Ask the filesystem to keep a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Any) -> None:
    """Write JSON in one piece."""
    with whole(path) as draft:
        draft.write_text(json.dumps(data, indent=2, allow_nan=True) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text())


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(data: Any) -> str:
    """Hexadecimal SHA-256 of JSON data; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def sweep_temporaries(folder: Path) -> None:
    """Remove what interrupted writers left directly in a folder; put back what they had moved.

    This process's own drafts stay: another thread may be writing them.
    """
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.name.startswith(f"{TEMPORARY}old-"):
            recover_folder(folder / path.name.removeprefix(f"{TEMPORARY}old-"))
        if not path.name.startswith(_ours()):
            _remove(path)


def _ours() -> str:
    """How the names of this process's drafts begin."""
    return f"{TEMPORARY}{TOKEN}-{os.getpid()}-"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
