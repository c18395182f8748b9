"""Where files are: paths, URIs and globs, on this machine or in an object store.

A URI is taken apart here and not by Arrow: what follows `?` is for the store, everything before it
is a name, in which `%xx` stands for a byte and nothing else is special.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from pyarrow import fs

from vaepipe.data import links
from vaepipe.errors import DataError, Unreachable, VaepipeError

CLIENTS = 64
"""Connections to stores that a process keeps."""
HIDDEN = (".", "_")
"""How names of files begin that are not rows of a table: Spark's `_SUCCESS`, say."""

_SECRET = re.compile("secret|token|password|signature|credential|account_key|^sig$", re.IGNORECASE)
_MAGIC = re.compile(r"[*?[]")


def filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """Arrow's filesystem of a path or URI, and the name in it; one client for each store.

    Raises:
        DataError: Arrow does not know this kind of place, or the URI carries credentials.
    """
    if "://" not in path:
        return fs.LocalFileSystem(), str(Path(path).absolute())
    with reaching(path):
        store = _split(path)
        system, root = _client(store._replace(path="/").geturl(), os.getpid())
        inside = unquote(store.path).strip("/")
        return system, f"{root.rstrip('/')}/{inside}" if inside else root


def address(path: str, name: str) -> str:
    """The path or URI of a file, given by its name in the filesystem of `path`.

    Example:
        >>> address("file:///data/?x=1", "/data/50 %.parquet")
        'file:///data/50%20%25.parquet?x=1'
    """
    if "://" not in path:
        return name
    store = _split(path)
    _, root = _client(store._replace(path="/").geturl(), os.getpid())
    inside = quote(below(name, root), safe="/=+,:@~")
    return store._replace(path=f"/{inside}").geturl()


def shown(path: str) -> str:
    """A path or URI as it may be told and recorded: without a query, and without credentials.

    Example:
        >>> shown("s3://bucket/images/?region=eu"), shown("s3://KEY:SECRET@bucket/images")
        ('s3://bucket/images/', 's3://…')
    """
    if "://" not in path:
        return path
    try:
        store = urlsplit(path, allow_fragments=False)
    except ValueError:
        return f"{path.partition('://')[0]}://…"
    hidden = _credentials(store)
    return f"{store.scheme}://…" if hidden else store._replace(query="").geturl()


def stem(path: str) -> str:
    """What to call the files of a place: the last part of its name, without an ending.

    Example:
        >>> stem("s3://bucket/images/?endpoint_override=http://localhost:9000"), stem("a/x.parquet")
        ('images', 'x')
    """
    return Path(shown(path).rstrip("/")).stem or "all"


@contextmanager
def reaching(path: str) -> Iterator[None]:
    """Errors of a filesystem or a store become ours.

    Raises:
        DataError: the place is not there, or cannot be opened.
        Unreachable: a store does not answer, or does not let us in.
    """
    try:
        yield
    except VaepipeError:
        raise
    except (OSError, ValueError) as error:
        remote = "://" in path and not path.startswith("file:")
        away = remote and isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        if away:
            raise Unreachable(f"{shown(path)}: out of reach: {error}") from error
        raise DataError(f"{shown(path)}: Arrow cannot open this place: {error}") from error


class Listing(NamedTuple):
    """What a folder or a glob names."""

    folder: str
    """The folder that was listed: the longest one without wildcards."""
    files: list[fs.FileInfo]
    """The files that are meant, sorted by name; also links to files that are not there."""
    names: list[str]
    """Everything that was found in the folder, hidden files and folders among them."""
    local: bool
    """Whether they are on this machine, where there are links."""

    def ending(self, endings: str | tuple[str, ...]) -> list[fs.FileInfo]:
        """Return the files whose names end so, in small or capital letters.

        Raises:
            DataError: one of them is a link to nothing, or two are the same file.
        """
        chosen = [i for i in self.files if i.path.lower().endswith(endings)]
        if self.local:
            links.check(chosen)
        return chosen


def listing(path: str, hidden: tuple[str, ...] = HIDDEN) -> Listing:
    """List a folder or a glob; links are followed.

    A glob may have `*`, `?` and `[…]` in every part, and `**` for any number of folders. A place
    that exists is meant literally.

    Args:
        path: the folder or glob, also as a URI.
        hidden: files and folders whose names begin so are not meant.
    """
    system, root = filesystem(path)
    with reaching(path):
        folder, pattern = _pattern(system, root)
        deep = len(pattern) > 1 or "**" in pattern
        local = system.type_name == "local"
        if local:
            found = system.get_file_info(list(links.walk(folder or "/", deep=deep)))
        else:
            chosen = fs.FileSelector(folder or "/", recursive=deep, allow_not_found=True)
            found = system.get_file_info(chosen)
    files = [i for i in found if i.type in (fs.FileType.File, fs.FileType.NotFound)]
    meant = [i for i in files if _fits(below(i.path, folder).split("/"), pattern, hidden)]
    return Listing(folder, sorted(meant, key=lambda i: i.path), [i.path for i in found], local)


def below(path: str, root: str) -> str:
    """A name relative to a folder."""
    return path.removeprefix(root).lstrip("/")


def _pattern(system: fs.FileSystem, root: str) -> tuple[str, Sequence[str]]:
    """The longest folder without wildcards, and the parts of the name after it."""
    if not _MAGIC.search(root) or system.get_file_info(root).type == fs.FileType.Directory:
        return root, ("**",)
    parts = root.split("/")
    first = next(i for i, part in enumerate(parts) if _MAGIC.search(part))
    return "/".join(parts[:first]), parts[first:]


def _fits(parts: Sequence[str], pattern: Sequence[str], hidden: tuple[str, ...]) -> bool:
    """Whether no part is hidden and each matches; `**` matches any number of parts."""
    return not any(part.startswith(hidden) for part in parts) and _match(parts, pattern)


def _match(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _match(parts, pattern[1:]) or (bool(parts) and _match(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _match(parts[1:], pattern[1:])


@lru_cache(CLIENTS)
def _client(store: str, process: int) -> tuple[fs.FileSystem, str]:
    """A client and the name of the store's root; not shared with forked processes."""
    return fs.FileSystem.from_uri(store)


def _split(path: str) -> SplitResult:
    store = urlsplit(path, allow_fragments=False)
    if _credentials(store):
        raise DataError(
            f"{shown(path)}: no credentials in URIs, they would be written to plans and manifests. "
            "Give them by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, say) or by "
            "the files and roles that the store's clients look for."
        )
    return store


def _credentials(store: SplitResult) -> bool:
    """A password before the host, a colon in the name of a bucket, or a secret in the query."""
    user, _, host = store.netloc.rpartition("@")
    named = ":" in user or (store.scheme in ("s3", "gs") and ":" in host)
    return named or any(_SECRET.search(name) for name, _ in parse_qsl(store.query))
