"""Runs, data and models in MLflow: a server, or a database of our own in the workspace.

One process, the driver, writes. What it has to say goes through an `Outbox`, so that no training
step waits for a server and nothing is lost while it is away. MLflow is imported when a store is
first reached, quietly and without its telemetry.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import subprocess
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from vaepipe.errors import Unreachable
from vaepipe.tracking import address
from vaepipe.tracking.outbox import Outbox
from vaepipe.tracking.text import flatten

if TYPE_CHECKING:
    from vaepipe.tracking.catalog import Catalog
    from vaepipe.tracking.store import Store

UNSENT = "mlflow-unsent"
SECONDS = 10.0
"""How long a call waits for a server that may be slow but has not failed yet."""
PATIENCE = 300.0
"""The same where nothing can go on without it, or everything else is done."""
ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
}
"""For this process, where the user has not set them."""
FIRST_CALL = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "7"}
"""For the first call, which tells whether a server is there; instead of our own settings."""
NOISY = ("alembic", "mlflow")


@final
class MLflowRecord:
    """One run. Everything but `model` returns at once and is delivered in the background.

    Args:
        tracker: whose store it is in.
        key: our own name of the run, which holds before the server gives it an id.
        resumed: the id of a run that is continued.
    """

    def __init__(self, tracker: MLflowTracker, key: str, resumed: str | None) -> None:
        self._tracker, self._key, self._resumed = tracker, key, resumed
        self._step = 0

    @property
    def id(self) -> str:
        """The run's id; `pending-…` while the server has not created it, which works as well."""
        known = self._tracker.store.run_id(self._key)
        return known or self._resumed or f"pending-{self._key}"

    def params(self, values: Mapping[str, Any]) -> None:
        """Settings, flattened with dots."""
        self._log(params=flatten(values))

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags; a later value replaces an earlier one."""
        self._log(tags=dict(values))

    def metrics(self, step: int, values: Mapping[str, float], time: float) -> None:
        """Metrics at an optimiser step and a time."""
        self._step = max(self._step, step)
        self._log(metrics=_points(values, time, step, None))

    def dataset(self, name: str, source: str, digest: str, schema: str, context: str) -> None:
        """The data a run read; `schema` is the JSON of a data specification, or other text."""
        self._put(
            "dataset", name=name, source=source, digest=digest, schema=schema, context=context
        )

    def file(self, path: Path, folder: str | None = None) -> None:
        """A file or a folder; it must stay where it is until the run is finished."""
        self._put("file", path=str(path.absolute()), folder=folder)

    def model(self, bundle: Path) -> str:
        """Log a model bundle; its URI. The same bundle again has the same URI.

        Raises:
            Unreachable: the server does not answer.
        """
        from vaepipe.tracking.models import log

        run_id = self._tracker.delivered(self._key)
        return log(self._tracker.store, run_id, bundle.absolute())

    def score(self, model_uri: str, values: Mapping[str, float]) -> None:
        """Metrics that belong to a logged model, at the last step of its run."""
        model_id = model_uri.removeprefix("models:/")
        self._log(metrics=_points(values, time.time(), self._step, model_id))

    def finish(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        self._put("end", status=status, time=_milliseconds(time.time()))
        self._tracker.outbox.wait(SECONDS)

    def _log(self, **values: Any) -> None:
        self._put("log", **{"metrics": [], "params": {}, "tags": {}, **values})

    def _put(self, operation: str, /, **values: Any) -> None:
        self._tracker.outbox.put({"op": operation, "record": self._key, **values})


@final
class MLflowTracker:
    """Remembers in MLflow.

    Args:
        uri: http(s) of a server or an absolute sqlite URI; else $MLFLOW_TRACKING_URI, else
            `mlflow.db` in the workspace with `mlartifacts` beside it.
    """

    store: Store
    catalog: Catalog
    outbox: Outbox

    def __init__(self, *, uri: str | None = None) -> None:
        """Nothing is reached yet."""
        self.uri, self._option = uri or "", uri
        self._tags: dict[str, str] = {}

    def connect(self, workspace: Path) -> None:
        """Reach the store, to look and to fetch.

        Raises:
            Unreachable: no server answers at the URI; known within ten seconds.
            UserError: the URI is one that would lose runs, or the database cannot be opened.
        """
        workspace = workspace.absolute()
        self.uri = address.choose(self._option, workspace)
        _prepare_process()
        with address.exclusively(self.uri), _impatient():
            address.probe(self.uri)
            self.store, self.catalog = _connected(self.uri, workspace)

    def open(self, experiment: str, workspace: Path) -> None:
        """Create database and experiment, and deliver what earlier processes could not.

        Raises:
            Unreachable: no server answers at the URI; known within ten seconds.
            UserError: the URI is one that would lose runs, or the database cannot be opened.
        """
        self.connect(workspace)
        path = address.database_file(self.uri)
        folder = path.parent if path else workspace.absolute()
        artifacts = folder / "mlartifacts" if address.is_database(self.uri) else None
        with _impatient():
            self.store.select(experiment, artifacts)
        self._tags = _source_tags()
        self.outbox = Outbox(workspace.absolute() / UNSENT, self.uri, self.store.deliver)

    def start(
        self, name: str, *, parent: str | None = None, resume: str | None = None
    ) -> MLflowRecord:
        """A new run, a child of `parent`; or the run `resume` again, if it still exists."""
        record = uuid.uuid4().hex
        self.outbox.put(
            {
                "op": "start",
                "record": record,
                "name": name,
                "parent": parent,
                "resume": resume,
                "tags": self._tags,
                "time": _milliseconds(time.time()),
            }
        )
        self.outbox.wait(SECONDS)
        return MLflowRecord(self, record, resume)

    def register(
        self, model_uri: str, name: str, alias: str | None, tags: Mapping[str, str]
    ) -> str:
        """Register a logged model; its version. The same model again has the version it had."""
        return self.catalog.register(model_uri, name, alias, tags)

    def promote(self, name: str, version: str, alias: str) -> str | None:
        """Let an alias of a registered model point to a version; the version it was before."""
        return self.catalog.promote(name, version, alias)

    def fetch(self, model_uri: str) -> Path:
        """A local folder with the bundle of `runs:/…` or `models:/…`."""
        return self.catalog.fetch(model_uri)

    def pinned(self, model_uri: str) -> str:
        """The same model by its version or id, for an alias may move."""
        return self.catalog.pinned(model_uri)

    def origin(self, model_uri: str) -> str | None:
        """The id of the run that logged a model; None where the model has none."""
        return self.catalog.find(model_uri).run_id

    def datasets(self, run_id: str) -> Mapping[str, str]:
        """What a run read: the name of each dataset and the URI of its source."""
        return self.catalog.datasets(run_id)

    def delivered(self, key: str) -> str:
        """Wait until everything is delivered; the id of a record's run.

        Raises:
            Unreachable: the server does not answer.
        """
        done = self.outbox.wait(PATIENCE, insist=True)
        run_id = self.store.run_id(key)
        if run_id is None or not done:
            raise Unreachable(
                f"MLflow at {address.shown(self.uri)} does not answer, so the model cannot be "
                f"logged. {self.outbox.failing or ''} Run the same command again when it does."
            )
        return run_id

    def close(self) -> None:
        """Deliver what can be delivered; say how much could not."""
        if not hasattr(self, "outbox"):
            return
        left = self.outbox.close(SECONDS if self.outbox.failing else PATIENCE)
        if left:
            logging.getLogger("vaepipe.tracking").warning(
                "%d updates could not be delivered to MLflow at %s. They are kept in %s and sent "
                "by the next run in this workspace.",
                left,
                address.shown(self.uri),
                self.outbox.path,
            )


def _points(
    values: Mapping[str, float], moment: float, step: int, model: str | None
) -> list[list[Any]]:
    return [[name, float(v), _milliseconds(moment), step, model] for name, v in values.items()]


def _milliseconds(moment: float) -> int:
    return int(moment * 1000)


def _prepare_process() -> None:
    """Settings that MLflow reads when it is imported; what the user has set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in NOISY:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


def _connected(uri: str, workspace: Path) -> tuple[Store, Catalog]:
    from vaepipe.tracking.catalog import Catalog
    from vaepipe.tracking.store import Store

    with warnings.catch_warnings():  # of MLflow, about its own use of its database library
        warnings.simplefilter("ignore")
        store = Store(uri)
    return store, Catalog(store, workspace / ".models")


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Within it a server must answer at once, unless the user has set other limits."""
    ours = [name for name in FIRST_CALL if os.environ.get(name) == ENVIRONMENT[name]]
    os.environ.update({name: FIRST_CALL[name] for name in ours})
    try:
        yield
    finally:
        os.environ.update({name: ENVIRONMENT[name] for name in ours})


def _source_tags() -> dict[str, str]:
    """Who runs what from which commit, under MLflow's names."""
    tags = {
        "mlflow.source.name": "vaepipe",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
        "mlflow.source.git.commit": _commit(),
    }
    return {name: value for name, value in tags.items() if value}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in containers
        return str(os.getuid())


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
