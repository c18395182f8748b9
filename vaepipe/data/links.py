"""Folders on this machine, through links: what is in them, and whether a file is there once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyarrow import fs

from vaepipe.errors import DataError


def walk(folder: str, *, deep: bool) -> Iterator[str]:
    """Yield the paths of everything in a folder, in no order; nothing where there is none.

    Links are followed, also those to nothing; except links to a folder that they lie in, which
    have no end.
    """
    if Path(folder).is_dir():
        yield from _walk(folder, frozenset(), deep=deep)


def check(files: Sequence[fs.FileInfo]) -> None:
    """Raise `DataError` if a file is a link to nothing, or if two files are the same."""
    gone = next((i.path for i in files if i.type == fs.FileType.NotFound), None)
    if gone is not None:
        raise DataError(
            f"{gone}: a link to a file that is not there. Bring the file there, or remove the link."
        )
    folders = {name: Path(name).resolve() for name in {i.path.rpartition("/")[0] for i in files}}
    seen: dict[str, str] = {}
    for path in (i.path for i in files):
        folder, _, name = path.rpartition("/")
        linked = Path(path).is_symlink()
        real = str(Path(path).resolve()) if linked else f"{folders[folder]}/{name}"
        if real in seen:
            raise DataError(
                f"{seen[real]} and {path} are the same file, through a link: its rows would be "
                "read twice. Remove the link, or give only one of the two places."
            )
        seen[real] = path


def _walk(folder: str, above: frozenset[tuple[int, int]], *, deep: bool) -> Iterator[str]:
    about = Path(folder).stat()
    own = about.st_dev, about.st_ino
    if own in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.path
            if deep and entry.is_dir():
                yield from _walk(entry.path, above | {own}, deep=deep)
