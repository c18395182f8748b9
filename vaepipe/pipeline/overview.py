"""A report of whatever is finished in a folder, without its pipeline file."""

from __future__ import annotations

from pathlib import Path

from vaepipe import files
from vaepipe.errors import DataError, StorageError, UserError, VaepipeError
from vaepipe.pipeline import report, single
from vaepipe.pipeline.single import NOTHING, Given
from vaepipe.pipeline.workspace import MANIFEST

RUN = "run.json"


def draw(folder: Path, output: Path, given: Given = NOTHING) -> Path:
    """Draw the page of every complete artifact of a pipeline, or of one artifact.

    Args:
        folder: of a pipeline, a stage, an evaluation, latents or a bundle.
        output: where the page goes.
        given: what belongs to one artifact and lies elsewhere.

    Raises:
        DataError: there is nothing complete in the folder.
        StorageError: the page cannot be written.
    """
    whole = (folder / RUN).is_file()
    sections = _stages(folder, given) if whole else [single.section(folder, given)]
    try:
        output.mkdir(parents=True, exist_ok=True)
        return report.build(output, sections, title=folder.name if whole else sections[0].name)
    except VaepipeError:
        raise
    except OSError as error:
        raise StorageError(f"{output} cannot be written: {error}. Give --output.") from error


def _stages(folder: Path, given: Given) -> list[report.Section]:
    if given != NOTHING:
        raise UserError(f"{folder} is a pipeline's: --data and --model are for one evaluation.")
    names = [
        name
        for name, entry in files.read_json(folder / RUN)["stages"].items()
        if entry["kind"] != "report" and (folder / name / MANIFEST).exists()
    ]
    if not names:
        raise DataError(f"{folder}: no stage is finished yet.")
    return [single.section(folder / name) for name in names]
