"""Runs in an MLflow store: everything that is written about them, through one client."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, final
from urllib.parse import urlsplit

import numpy as np
import requests
from mlflow import MlflowClient
from mlflow.data.schema import TensorDatasetSchema
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.types import Schema, TensorSpec
from mlflow.utils.validation import (
    MAX_DATASET_DIGEST_SIZE,
    MAX_DATASET_NAME_SIZE,
    MAX_METRICS_PER_BATCH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
    MAX_TAG_VAL_LENGTH,
)

from vaepipe.errors import Unreachable, UserError
from vaepipe.tracking.address import shown
from vaepipe.tracking.outbox import Operation, RefusedError, Stumbled
from vaepipe.tracking.text import cut, key, text

PENDING = "pending-"
"""Begins the id of a run that the server has not created yet."""
RECORD = "vaepipe.record"
"""Tag with a name that we chose for a run, so that creating it twice can be noticed."""
MISSING = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
EXISTS = ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS")
T = TypeVar("T")


@contextlib.contextmanager
def reached(uri: str) -> Iterator[None]:
    """Every failure of MLflow as one of ours.

    Raises:
        Unreachable: no answer, or `Stumbled`: the server says that it failed.
        RefusedError: the server says that the request is wrong.
    """
    try:
        yield
    except (MlflowException, requests.RequestException, OSError) as error:
        status = _status(error)
        if 400 <= status < 500 and status not in (408, 429):
            raise RefusedError(f"MLflow at {shown(uri)} refuses: {_reason(error)}") from error
        if isinstance(error, RestException) and status == 500:
            raise Stumbled(f"MLflow at {shown(uri)} failed: {_reason(error)}") from error
        raise Unreachable(f"MLflow at {shown(uri)} does not answer: {_reason(error)}") from error


@final
class Store:
    """The runs of one experiment.

    Args:
        uri: of the tracking store, absolute.
    """

    def __init__(self, uri: str) -> None:
        """Connect; a database gets its tables here."""
        self.uri, self.experiment = uri, ""
        with reached(uri):
            self.client = MlflowClient(tracking_uri=uri)
        self._runs: dict[str, str] = {}

    def select(self, name: str, artifacts: Path | None) -> None:
        """Find or create the experiment.

        Raises:
            UserError: an experiment of this name was deleted.
        """
        with reached(self.uri):
            found = self.client.get_experiment_by_name(name) or self._created(name, artifacts)
        if found.lifecycle_stage == "deleted":
            raise UserError(
                f"the MLflow experiment '{name}' is deleted. Restore it with "
                f"`mlflow experiments restore -x {found.experiment_id}`, or rename the pipeline."
            )
        self.experiment = found.experiment_id

    def deliver(self, operation: Operation) -> None:
        """Carry out an operation of the outbox."""
        with reached(self.uri):
            getattr(self, f"_{operation['op']}")(operation)

    def run_id(self, record: str) -> str | None:
        """The run that was created for a record, if it was."""
        return self._runs.get(record)

    def _created(self, name: str, artifacts: Path | None) -> Any:
        location = None if artifacts is None else str(artifacts)
        try:
            self.client.create_experiment(name, artifact_location=location)
        except MlflowException as error:
            if error.error_code not in EXISTS:
                raise
        return self.client.get_experiment_by_name(name)

    def _start(self, operation: Operation) -> None:
        record, run = operation["record"], operation["resume"]
        if run is not None:
            run = self._resumed(self._known(run))
        if run is None and operation.get("again"):
            run = self._find(record)
        self._runs[record] = run or self._new(operation)

    def _resumed(self, run_id: str | None) -> str | None:
        try:
            if run_id is None or self.client.get_run(run_id).info.lifecycle_stage == "deleted":
                return None
            self.client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code in MISSING:
                return None
            raise
        return run_id

    def _new(self, operation: Operation) -> str:
        tags = {**operation["tags"], RECORD: operation["record"]}
        if operation["parent"] is not None:
            tags["mlflow.parentRunId"] = self._known(operation["parent"]) or operation["parent"]
        run = self.client.create_run(
            self.experiment,
            start_time=operation["time"],
            tags={k: cut(v, MAX_TAG_VAL_LENGTH) for k, v in tags.items()},
            run_name=operation["name"],
        )
        return run.info.run_id

    def _known(self, run_id: str) -> str | None:
        """A run id as it is; for a run that was created late, the id that it got."""
        if not run_id.startswith(PENDING):
            return run_id
        record = run_id.removeprefix(PENDING)
        return self._runs.get(record) or self._find(record)

    def _find(self, record: str) -> str | None:
        query = f"tags.`{RECORD}` = '{record}'"
        found = self.client.search_runs([self.experiment], query, max_results=1)
        return found[0].info.run_id if found else None

    def _run(self, operation: Operation) -> str:
        run = self._runs.get(operation["record"]) or self._find(operation["record"])
        if run is None:
            raise RefusedError(f"the run of this update was not created at {shown(self.uri)}.")
        return self._runs.setdefault(operation["record"], run)

    def _log(self, operation: Operation) -> None:
        run = self._run(operation)
        tags = [
            RunTag(key(k), cut(text(v), MAX_TAG_VAL_LENGTH)) for k, v in operation["tags"].items()
        ]
        for part in _chunks(tags, MAX_PARAMS_TAGS_PER_BATCH):
            self.client.log_batch(run, tags=part)
        metrics = [
            Metric(key(name), value, time, step, model_id=model, run_id=run)
            for name, value, time, step, model in operation["metrics"]
        ]
        for part in _chunks(metrics, MAX_METRICS_PER_BATCH):
            self.client.log_batch(run, metrics=part)
        params = [Param(k, cut(v, MAX_PARAM_VAL_LENGTH)) for k, v in operation["params"].items()]
        for part in _chunks(params, MAX_PARAMS_TAGS_PER_BATCH):
            self.client.log_batch(run, params=part)

    def _dataset(self, operation: Operation) -> None:
        data = Dataset(
            name=cut(operation["name"], MAX_DATASET_NAME_SIZE),
            digest=operation["digest"][:MAX_DATASET_DIGEST_SIZE],
            source_type=urlsplit(operation["source"]).scheme or "local",
            source=json.dumps({"uri": operation["source"]}),
            **_described(operation["schema"]),
        )
        context = InputTag("mlflow.data.context", operation["context"])
        self.client.log_inputs(self._run(operation), [DatasetInput(data, [context])])

    def _file(self, operation: Operation) -> None:
        path = Path(operation["path"])
        if path.is_dir():
            folder = operation["folder"] or path.name
            self.client.log_artifacts(self._run(operation), str(path), folder)
        elif path.exists():
            self.client.log_artifact(self._run(operation), str(path), operation["folder"])
        else:
            raise RefusedError(f"{path} was gone before it could be sent.")

    def _end(self, operation: Operation) -> None:
        run = self._run(operation)
        self.client.set_terminated(run, operation["status"], operation["time"])


def _described(text: str) -> dict[str, str]:
    """A data specification as the tensor schema and profile that MLflow shows."""
    try:
        spec = json.loads(text)
        features = Schema([TensorSpec(np.dtype("float32"), (-1, *spec["shape"]), "x")])
    except (ValueError, TypeError, KeyError):  # some other description of the data
        return {"schema": text}
    return {"schema": json.dumps(TensorDatasetSchema(features).to_dict()), "profile": text}


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _status(error: Exception) -> int:
    if isinstance(error, MlflowException):
        return error.get_http_status_code()
    response = getattr(error, "response", None)
    return 500 if response is None else response.status_code


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return cut(lines[0] if lines else type(error).__name__, 500)
