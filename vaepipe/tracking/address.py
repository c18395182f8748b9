"""Where a tracking store is, and whether anything answers there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from vaepipe.errors import Unreachable, UserError

VARIABLE = "MLFLOW_TRACKING_URI"
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
SECONDS = 3.0
SQLITE = "sqlite:///"


def choose(uri: str | None, workspace: Path) -> str:
    """The option, else $MLFLOW_TRACKING_URI, else a database in the workspace.

    Raises:
        UserError: the URI means something else in another working directory, or a file store.

    Example:
        >>> choose("http://tracking:5000/", Path("/w"))
        'http://tracking:5000'
    """
    chosen = uri or os.environ.get(VARIABLE)
    if not chosen:
        return f"{SQLITE}{workspace.absolute() / 'mlflow.db'}"
    problem = _problem(chosen)
    if problem:
        source = "tracking.uri" if uri else f"${VARIABLE}"
        raise UserError(
            f"{source} is '{chosen}': {problem}. Use http(s)://host:port of a tracking server, or "
            "an absolute sqlite:////folder/mlflow.db; without either the workspace gets its own."
        )
    return chosen.rstrip("/")


def database_file(uri: str) -> Path | None:
    """The file of a sqlite URI.

    Example:
        >>> database_file("sqlite:////w/mlflow.db")
        PosixPath('/w/mlflow.db')
    """
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def is_database(uri: str) -> bool:
    """Whether this process talks to the database itself, without a server in between."""
    return urlsplit(uri).scheme.partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")


@contextlib.contextmanager
def exclusively(uri: str) -> Iterator[None]:
    """Processes that open a fresh database together break it; within this they queue.

    Raises:
        UserError: the database's folder cannot be written.
    """
    path = database_file(uri)
    with contextlib.ExitStack() as stack:
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(path.with_name(f".{path.name}.lock").open("a"))
            except OSError as error:
                raise UserError(f"the tracking database {path} is out of reach: {error}") from error
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def probe(uri: str) -> None:
    """Open a connection and close it.

    Raises:
        Unreachable: nothing listens at the URI's host and port.
        UserError: a database file cannot be created or is none.
    """
    path = database_file(uri)
    if path is not None:
        _probe_file(path)
        return
    parts = urlsplit(uri)
    port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
    if parts.hostname and port:
        _probe_port(uri, parts.hostname, port)


def _probe_port(uri: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), SECONDS).close()
    except OSError as error:
        raise Unreachable(
            f"the MLflow tracking server {shown(uri)} does not answer: {error}. Is it running, "
            f"and is ${VARIABLE} (or tracking.uri) right?"
        ) from error


def _probe_file(path: Path) -> None:
    try:
        connection = sqlite3.connect(path)
        try:
            connection.execute("PRAGMA schema_version")
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"the tracking database {path} cannot be opened: {error}.") from error


def shown(uri: str) -> str:
    """The URI without a password.

    Example:
        >>> shown("https://me:secret@host:5000/x")
        'https://me:***@host:5000/x'
    """
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


def _problem(uri: str) -> str | None:
    if uri.startswith("databricks"):
        return None
    if uri.startswith("file:"):
        return "MLflow has put file stores out of service"
    if "://" not in uri:
        return "it is a relative path or no URI"
    path = database_file(uri)
    if path is not None and not path.is_absolute():
        return "a relative path is another database in every working directory"
    if uri.startswith("sqlite:") and (path is None or ":memory:" in uri):
        return "it names no file"
    return None
