"""Model references: a bundle's folder, an artifact's folder, `runs:/…`, `models:/…`."""

from __future__ import annotations

import os
from pathlib import Path

from vaepipe import files, registry
from vaepipe.errors import BundleError
from vaepipe.tracking.base import Tracker


def open_tracker(workspace: str | Path, kind: str = "mlflow") -> Tracker:
    """The tracker of a workspace, without an experiment of its own."""
    tracker = registry.part("trackers", kind).build()
    tracker.connect(Path(workspace).expanduser().absolute())
    return tracker


def find_bundle(reference: str, workspace: str | Path) -> tuple[Path, str]:
    """The folder of a bundle, and what the model is called in files.

    Raises:
        BundleError: nothing is there; the message says what was looked for.
        UserError: the tracking server does not know the reference.
    """
    if reference.startswith(("models:/", "runs:/")):
        return open_tracker(workspace).fetch(reference), reference
    folder = Path(reference).expanduser().absolute()
    for candidate in (folder, folder / "model", *_winner(folder)):
        if (candidate / "model.json").exists():
            return candidate, candidate.as_uri()
    looked = "model.json" if folder.is_dir() else "the folder"
    raise BundleError(
        f"model '{reference}': {looked} does not exist. Expected a bundle's folder, the folder of "
        "a train or sweep stage, runs:/…, models:/name/version or models:/name@alias."
    )


def _winner(folder: Path) -> list[Path]:
    """The winning trial's bundle of a sweep's folder."""
    best = folder / "best.json"
    return [folder / files.read_json(best)["model"]] if best.exists() else []


def ensure_empty(output: Path, *, resumable: str) -> None:
    """An output folder is new, empty, or what an earlier call of the same kind left."""
    if output.exists() and any(os.scandir(output)) and not (output / resumable).exists():
        raise BundleError(f"{output} is not empty; choose another --output.")
