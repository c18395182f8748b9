"""Logged models: a bundle behind a pyfunc, as an output of the run that fitted it."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

from vaepipe import files
from vaepipe.tracking.pyfunc import DEFAULTS
from vaepipe.tracking.store import Store, reached
from vaepipe.training.bundle import CARD, WEIGHTS

with warnings.catch_warnings():  # MLflow warns about its own type hints when it is imported
    warnings.simplefilter("ignore")
    import mlflow.pyfunc

DIGEST = "vaepipe.bundle"
"""Tag with the digest of the bundle that was logged."""


def log(store: Store, run_id: str, bundle: Path) -> str:
    """The URI of a bundle as an output of a run; a bundle that it logged before keeps its URI.

    Raises:
        Unreachable: the server does not answer.
    """
    digest = bundle_digest(bundle)
    with reached(store.uri):
        run = store.client.get_run(run_id)
        model_id = _logged(store.client, run, digest) or _log(store.client, run, bundle, digest)
    return f"models:/{model_id}"


def save(target: Path, bundle: Path, described: Model) -> None:
    """Write a bundle as an MLflow model whose loader is ours: no Python object is pickled."""
    card = files.read_json(bundle / CARD)
    inputs, example = _inputs(int(np.prod(card["data"]["shape"])), card["data"].get("names"))
    latent = int(np.prod(card["model"]["latent_shape"]))
    params = [ParamSpec(name, kind, value) for name, (kind, value) in DEFAULTS.items()]
    mlflow.pyfunc.save_model(
        str(target),
        loader_module="vaepipe.tracking.pyfunc",
        data_path=str(bundle),
        mlflow_model=described,
        signature=ModelSignature(inputs, _rows(latent), ParamSchema(params)),
        input_example=example,
        pip_requirements=requirements(card),
    )


def requirements(card: Mapping[str, Any]) -> list[str]:
    """What pip must install to open a bundle: vaepipe, torch, and the plugins it names."""
    model = [part for part in card["model"].values() if isinstance(part, Mapping)]
    parts = [*model, card["dataset"], card["objective"]]
    found = {f"{part['distribution']}=={part['version']}" for part in parts}
    torch = version("torch").partition("+")[0]
    return sorted({f"vaepipe=={version('vaepipe')}", f"torch=={torch}", *found})


def bundle_digest(folder: Path) -> str:
    """The digest of a bundle, without opening it."""
    return files.digest([files.sha256(folder / name) for name in (CARD, WEIGHTS)])


def _inputs(
    size: int, names: Sequence[str] | None
) -> tuple[Schema, np.ndarray | dict[str, np.ndarray]]:
    """What MLflow takes, with an example: columns by their names, where values have names."""
    if names is None:
        return _rows(size), np.zeros((2, size), np.float32)
    columns: list[ColSpec | TensorSpec] = [
        TensorSpec(np.dtype("float32"), (-1,), name) for name in names
    ]
    return Schema(columns), {name: np.zeros(2, np.float32) for name in names}


def _rows(size: int) -> Schema:
    return Schema([TensorSpec(np.dtype("float32"), (-1, size))])


def _logged(client: MlflowClient, run: Any, digest: str) -> str | None:
    """A model that this run logged from the same bundle."""
    for output in run.outputs.model_outputs if run.outputs else []:
        model = client.get_logged_model(output.model_id)
        if model.tags.get(DIGEST) == digest and str(model.status) == "READY":
            return model.model_id
    return None


def _log(client: MlflowClient, run: Any, bundle: Path, digest: str) -> str:
    model = client.create_logged_model(
        run.info.experiment_id,
        name="vae",
        source_run_id=run.info.run_id,
        tags={DIGEST: digest},
        params=run.data.params,
        model_type="vae",
    )
    described = Model(
        artifact_path=model.artifact_location,
        run_id=run.info.run_id,
        model_uuid=model.model_id,
        model_id=model.model_id,
    )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        save(target, bundle, described)
        client.log_model_artifacts(model.model_id, str(target))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model.model_id
