"""From latents back to what made them, and from a model on to what it made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vaepipe import files
from vaepipe.errors import DataError, VaepipeError
from vaepipe.pipeline.references import open_tracker
from vaepipe.pipeline.stages.parts import MANIFEST as LATENTS
from vaepipe.pipeline.workspace import MANIFEST
from vaepipe.training import bundle

PREFIX = b"vaepipe."


def lineage(path: Path, workspace: str | Path, places: Sequence[Path] = ()) -> dict[str, Any]:
    """What a file or folder is, what it was made from, and what was made from its model.

    Args:
        path: latents (a folder or one of its files), an evaluation, a bundle or a stage's folder.
        workspace: where the tracker and the other artifacts are.
        places: other folders to look in, at any depth, for what the model made.

    Raises:
        DataError: nothing here was made by vaepipe.
    """
    made = _made(path)
    digest = made.get("model_digest")
    found = {"path": str(path.absolute()), **made}
    if folder := _bundle(path, made):
        found["model"] = _model(folder)
        digest = found["model"]["digest"]
    uri = made.get("model_uri")
    if uri is not None:
        found["mlflow_run_id"] = _origin(uri, workspace)
    users = {*_users(Path(workspace), digest), *_below(places, digest)} - {path.absolute()}
    found["made_with_this_model"] = sorted(map(str, users))
    return found


def _made(path: Path) -> dict[str, Any]:
    """What an artifact says of itself."""
    if path.is_file():
        return _of_file(path)
    for name in (LATENTS, MANIFEST):
        if (path / name).exists():
            manifest = files.read_json(path / name)
            kind = "latents" if name == LATENTS else manifest.get("kind", "artifact")
            dropped = ("parts", "splits", "golden", "metrics", "settings", "parameters")
            return {"kind": kind, **{k: v for k, v in manifest.items() if k not in dropped}}
    if (path / bundle.CARD).exists():
        return {"kind": "model"}
    raise DataError(
        f"{path}: expected latents, an evaluation, a model bundle or a stage's folder; it has no "
        f"{LATENTS}, {MANIFEST} or {bundle.CARD}."
    )


def _of_file(path: Path) -> dict[str, Any]:
    """The metadata of one file of latents."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error
    found = {k[len(PREFIX) :].decode(): v.decode() for k, v in metadata.items() if k[:8] == PREFIX}
    if not found:
        raise DataError(f"{path}: no file of ours: its schema has no `vaepipe.` metadata.")
    return {"kind": "latents file", **found}


def _bundle(path: Path, made: Mapping[str, Any]) -> Path | None:
    """The folder of the model, if it is still where it was."""
    named = [Path(made["model"])] if isinstance(made.get("model"), str) else []
    beside = path.parent if path.is_file() else path
    if path.is_file() and (beside / LATENTS).exists():
        named.append(Path(files.read_json(beside / LATENTS)["model"]))
    for folder in (*named, beside, beside / "model"):
        if (folder / bundle.CARD).exists():
            return folder
    return None


def _model(folder: Path) -> dict[str, Any]:
    """What a model's card says of where it comes from."""
    loaded = bundle.load(folder)
    card = loaded.card
    return {
        "folder": str(folder),
        "digest": loaded.digest,
        "stage": card["name"],
        "fingerprint": card["fingerprint"],
        "seed": card["seed"],
        "epoch": card["epoch"],
        "data_digest": card["data_digest"],
        "dataset": card["dataset"]["type"],
        "requirements": loaded.requirements,
    }


def _origin(uri: str, workspace: str | Path) -> str | None:
    """The run that logged the model; None if no tracker remembers."""
    if not uri.startswith(("models:/", "runs:/")):
        return None
    try:
        return open_tracker(workspace).origin(uri)
    except VaepipeError:
        return None


def _users(workspace: Path, digest: str | None) -> Iterator[Path]:
    """Folders of a workspace whose manifest names the model."""
    for name in (LATENTS, MANIFEST):
        for manifest in sorted(workspace.absolute().glob(f"*/*/{name}")):
            if _names(manifest, digest):
                yield manifest.parent


def _below(places: Sequence[Path], digest: str | None) -> Iterator[Path]:
    """Folders at any depth whose manifest names the model."""
    for place in places:
        for folder, inner, names in os.walk(place.absolute()):
            inner[:] = [name for name in inner if not name.startswith((".", "_"))]
            ours = {LATENTS, MANIFEST} & set(names)
            if any(_names(Path(folder, name), digest) for name in ours):
                yield Path(folder)


def _names(manifest: Path, digest: str | None) -> bool:
    """Whether a manifest is of something that the model made; it may be a stranger's."""
    try:
        content = files.read_json(manifest)
    except (OSError, ValueError):
        return False
    return bool(digest) and isinstance(content, Mapping) and content.get("model_digest") == digest
