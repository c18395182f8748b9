"""A report of whatever is finished in a pipeline's folder, without its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vaepipe import files
from vaepipe.errors import DataError
from vaepipe.pipeline import report
from vaepipe.pipeline.stages.report import sample_of
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
    sections = [_section(folder, name, manifest) for name, manifest in manifests.items()]
    return report.build(output, sections, title=folder.name)


def _section(folder: Path, name: str, manifest: dict[str, Any]) -> report.Section:
    has_model = manifest["kind"] in ("train", "sweep")
    model = bundle.load(folder / name / manifest["model"]) if has_model else None
    data = Path(_data_path(folder / name, manifest)) if has_model else folder / name
    wanted = has_model or manifest["kind"] == "data"
    sample = sample_of(data) if wanted and data.exists() else None
    path = folder / name
    return report.Section(manifest["kind"], name, path, manifest, model, sample)


def _data_path(folder: Path, manifest: dict[str, Any]) -> str:
    task = (folder / manifest["model"]).parent / "task.json"
    return files.read_json(task)["data"]["path"]
