"""A report of whatever is finished in a pipeline's folder, without its file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaepipe import files
from vaepipe.errors import DataError
from vaepipe.pipeline import report
from vaepipe.pipeline.stages.report import sample_of, worst_of
from vaepipe.training import bundle


def draw(folder: Path, output: Path) -> Path:
    """Draw the page of every complete artifact in a folder.

    Raises:
        DataError: the folder was not made by a run, or nothing in it is complete.
    """
    path = folder / "run.json"
    if not path.exists():
        raise DataError(f"{folder} has no run.json: expected <workspace>/<pipeline>.")
    manifests = {
        name: files.read_json(folder / name / "manifest.json")
        for name, entry in files.read_json(path)["stages"].items()
        if entry["kind"] != "report" and (folder / name / "manifest.json").exists()
    }
    if not manifests:
        raise DataError(f"{folder}: no stage is finished yet.")
    output.mkdir(parents=True, exist_ok=True)
    sections = [_section(folder, name, manifests) for name in manifests]
    return report.build(output, sections, title=folder.name)


def _section(folder: Path, name: str, manifests: Mapping[str, dict[str, Any]]) -> report.Section:
    manifest, path = manifests[name], folder / name
    has_model = manifest["kind"] in ("train", "sweep")
    model = bundle.load(path / manifest["model"]) if has_model else None
    data = Path(_data_path(path, manifest)) if has_model else path
    wanted = has_model or manifest["kind"] == "data"
    return report.Section(
        kind=manifest["kind"],
        name=name,
        path=path,
        manifest=manifest,
        model=model,
        data=sample_of(data) if wanted and data.exists() else None,
        worst=_worst(folder, name, manifests) if manifest["kind"] == "evaluate" else None,
    )


def _worst(folder: Path, name: str, manifests: Mapping[str, dict[str, Any]]) -> report.Worst | None:
    """The worst examples, where model and data of an evaluation are in the same folder."""
    found = {}
    for other in manifests[name].get("inputs", ()):
        manifest = manifests.get(other, {})
        if "model" in manifest:
            found["model"] = folder / other / manifest["model"]
        elif manifest.get("kind") == "data":
            found["data"] = folder / other
    return worst_of(folder / name, **found) if len(found) == 2 else None


def _data_path(folder: Path, manifest: dict[str, Any]) -> str:
    task = (folder / manifest["model"]).parent / "task.json"
    return files.read_json(task)["data"]["path"]
