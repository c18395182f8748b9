"""Model references: a bundle's folder, an artifact's folder, `runs:/…`, `models:/…`."""

from __future__ import annotations

from pathlib import Path

from vaepipe import files, registry
from vaepipe.errors import BundleError, UserError
from vaepipe.tracking.base import Tracker


def open_tracker(workspace: str | Path, kind: str = "mlflow") -> Tracker:
    """The tracker of a workspace, without an experiment of its own."""
    tracker = registry.part("trackers", kind).build()
    tracker.connect(Path(workspace).expanduser().absolute())
    return tracker


def find_bundle(reference: str, workspace: str | Path) -> tuple[Path, str]:
    """The folder of a bundle, and what the model is called in files; an alias is its version.

    Raises:
        BundleError: nothing is there; the message says what was looked for.
        UserError: the tracking server does not know the reference.
    """
    if reference.startswith(("models:/", "runs:/")):
        tracker = open_tracker(workspace)
        return tracker.fetch(reference), tracker.pinned(reference)
    folder = Path(reference).expanduser().absolute()
    for candidate in (folder, folder / "model", *_winner(folder)):
        if (candidate / "model.json").exists():
            return candidate, candidate.as_uri()
    looked = "model.json" if folder.is_dir() else "the folder"
    raise BundleError(
        f"model '{reference}': {looked} does not exist. Expected a bundle's folder, the folder of "
        "a train or sweep stage, runs:/…, models:/name/version or models:/name@alias."
    )


def find_data(reference: str, workspace: str | Path) -> str:
    """A path or URI of data; `runs:/ID` or `runs:/ID/NAME` is what that MLflow run logged it read.

    Raises:
        UserError: the run is unknown, or logged several datasets and none was named.
    """
    if not reference.startswith("runs:/"):
        return reference
    run_id, _, name = reference.removeprefix("runs:/").partition("/")
    known = open_tracker(workspace).datasets(run_id)
    chosen = {n: uri for n, uri in known.items() if name in ("", n)}
    if len(set(chosen.values())) == 1:
        return next(iter(chosen.values()))
    offer = ", ".join(f"runs:/{run_id}/{n}" for n in sorted(known)) or "none"
    raise UserError(f"'{reference}' names {len(chosen)} datasets. Logged: {offer}.")


def _winner(folder: Path) -> list[Path]:
    """The winning trial's bundle of a sweep's folder."""
    best = folder / "best.json"
    return [folder / files.read_json(best)["model"]] if best.exists() else []
