"""One artifact as a section of a report: what its folder says, and what is still around it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vaepipe import files
from vaepipe.errors import DataError, UserError, VaepipeError
from vaepipe.journal import Journal
from vaepipe.pipeline import inputs, report
from vaepipe.pipeline.inputs import Input
from vaepipe.pipeline.report import words
from vaepipe.pipeline.report.section import Kind
from vaepipe.pipeline.stages.parts import MANIFEST as LATENTS
from vaepipe.pipeline.stages.parts import PLAN
from vaepipe.pipeline.stages.report import sample_from, sample_of, worst_of
from vaepipe.pipeline.watch import JOURNAL
from vaepipe.pipeline.workspace import MANIFEST
from vaepipe.training import bundle
from vaepipe.training.bundle import Bundle

EXPECTED = (
    "expected the folder of a pipeline (<workspace>/<pipeline>, it has run.json), of one of its "
    f"stages or an evaluation ({MANIFEST}), of latents ({LATENTS}), or of a model bundle "
    f"({bundle.CARD})"
)
NUMBERS: Mapping[str, tuple[str, ...]] = {
    "summary.parquet": ("value", "se"),
    "per_example.parquet": ("log_evidence", "elbo", "khat"),
    "per_dimension.parquet": ("rate", "variance_of_means"),
    "k_curve.parquet": ("k", "log_evidence", "se"),
}
"""Tables of an evaluation and their columns of numbers; without the first two there is none."""
NEEDED = {"summary.parquet": ("metric", "value"), "per_example.parquet": ("id", "log_evidence")}


@dataclass(frozen=True, slots=True)
class Given:
    """What a user names beside the artifact.

    Args:
        data: rows to show its model with.
        column: of files.
        id_column: of files.
        model: of an evaluation, where it is no longer where it was.
    """

    data: str | None = None
    column: str = "x"
    id_column: str | None = None
    model: Path | None = None


NOTHING = Given()


def section(folder: Path, given: Given = NOTHING) -> report.Section:
    """The section of an artifact.

    Raises:
        DataError: there is none, or it is not whole.
        UserError: what is given does not belong to it.
    """
    if (folder / MANIFEST).is_file():
        return _artifact(folder, _read(folder / MANIFEST), given)
    if (folder / LATENTS).is_file():
        _refuse(folder, given)
        return _latents(folder, _read(folder / LATENTS))
    if (folder / bundle.CARD).is_file():
        return _bundle(folder, given)
    begun = (folder / PLAN, folder / "parts", folder / JOURNAL)
    if any(path.exists() for path in begun):
        raise DataError(f"{folder} is not finished: run the same command again, then report.")
    missing = "does not exist" if not folder.exists() else "holds nothing to report"
    raise DataError(f"{folder} {missing}: {EXPECTED}.")


def _artifact(folder: Path, manifest: dict[str, Any], given: Given) -> report.Section:
    """A stage's folder, or the output of `evaluate`."""
    kind = manifest.get("kind")
    if kind == "evaluate":
        return _evaluation(folder, manifest, given)
    if kind in ("train", "sweep"):
        return _fit(folder, manifest, kind, given)
    _refuse(folder, given)
    if kind == "encode":
        return _latents(folder, manifest)
    if kind in ("data", "register"):
        data = sample_of(folder) if kind == "data" else None
        return report.Section(kind, folder.name, folder, manifest, data=data)
    raise DataError(f"{folder} is an artifact of kind '{words.plain(kind)}': {EXPECTED}.")


def _fit(folder: Path, manifest: dict[str, Any], kind: Kind, given: Given) -> report.Section:
    if given.model is not None:
        raise UserError(f"{folder} has its own model: leave --model out.")
    model = bundle.load(folder / manifest["model"])
    task = (folder / manifest["model"]).parent / "task.json"
    data = None if given.data is None else _examples(model, given)
    if data is None and task.is_file():
        source = Path(_read(task)["data"]["path"])
        data = sample_of(source) if (source / MANIFEST).is_file() else None
    return report.Section(kind, folder.name, folder, manifest, model, data)


def _latents(folder: Path, manifest: dict[str, Any]) -> report.Section:
    for path in folder.glob("part-*.parquet"):
        _opened(path)
    return report.Section("encode", folder.name, folder, manifest)


def _bundle(folder: Path, given: Given) -> report.Section:
    if given.model is not None:
        raise UserError(f"{folder} is a model: leave --model out.")
    model = bundle.load(folder)
    data = None if given.data is None else _examples(model, given)
    notes = [] if data else ["Give rows of its kind, --data PATH, to see what it makes of them."]
    name = str(model.card.get("name") or folder.name)
    return report.Section("model", name, folder, model.card, model, data, notes=notes)


def _evaluation(folder: Path, manifest: dict[str, Any], given: Given) -> report.Section:
    """With its model and its worst examples, as far as they are around."""
    _check_tables(folder)
    model, said = _model(folder, manifest, given)
    worst = None
    if model is not None:
        rows, said = _rows(folder, manifest, given, model)
        worst = None if rows is None else worst_of(folder, model, rows)
    when = [event["time"] for event in Journal(folder / JOURNAL).read() if "time" in event]
    known = {"created": when[-1], **manifest} if when else manifest
    notes = [said] if said else []
    return report.Section("evaluate", folder.name, folder, known, model, worst=worst, notes=notes)


def _model(folder: Path, manifest: Mapping[str, Any], given: Given) -> tuple[Bundle | None, str]:
    """The model that was evaluated, or None and why it is not shown.

    Raises:
        UserError: the model that is given is another one.
    """
    wanted = manifest.get("model_digest")
    if given.model is not None:
        loaded = bundle.load(given.model)
        if loaded.digest != wanted:
            raise UserError(f"--model {given.model}: not the model that {folder} evaluated.")
        return loaded, ""
    places = [Path(str(manifest.get("model", ""))), *_beside(folder, manifest, "model")]
    reason = "it is not where it was"
    for place in (place for place in places if (place / bundle.CARD).is_file()):
        try:
            loaded = bundle.load(place)
        except VaepipeError as error:
            reason = str(error)
            continue
        if loaded.digest == wanted:
            return loaded, ""
        reason = "there is another one where it was"
    if given.data is not None:
        raise UserError(f"{folder}: its model is needed for --data, and {reason}. Give --model M.")
    return None, f"The model is not shown: {reason}. --model names it."


def _rows(
    folder: Path, manifest: Mapping[str, Any], given: Given, model: Bundle
) -> tuple[Input | None, str]:
    """What was evaluated, or None and why it is not shown."""
    wanted = manifest.get("data_digest")
    if given.data is not None:
        found = _input(model, given)
        if found.digest == wanted:
            return found, ""
        return _renamed(
            found, manifest
        ), "The rows of --data are not, or no longer, those evaluated."
    for place in _beside(folder, manifest, "data"):
        found = inputs.of_path(str(place), model, None, "x", None)
        if found.digest == wanted:
            return found, ""
    return None, "The rows are not in this folder: --data PATH shows the worst examples themselves."


def _renamed(found: Input, manifest: Mapping[str, Any]) -> Input:
    """Files have one split, called after them; a copy may have another name."""
    splits = manifest.get("splits") or ()
    if len(splits) != 1 or len(found.sources) != 1:
        return found
    return replace(found, sources={splits[0]: next(iter(found.sources.values()))})


def _beside(folder: Path, manifest: Mapping[str, Any], what: str) -> Iterator[Path]:
    """Models or data that are inputs of a stage, in the folder of its pipeline."""
    for name in manifest.get("inputs") or ():
        path = folder.parent / name
        other = _read(path / MANIFEST) if (path / MANIFEST).is_file() else {}
        if what == "model" and "model" in other:
            yield path / other["model"]
        elif what == "data" and other.get("kind") == "data":
            yield path


def _input(model: Bundle, given: Given) -> Input:
    found = inputs.of_path(str(given.data), model, None, given.column, given.id_column)
    inputs.check_input(model, found)
    return found


def _examples(model: Bundle, given: Given) -> report.Sample:
    """Rows of a split that the model was not fitted to, where there is one."""
    found = _input(model, given)
    return replace(sample_from(found.sources), dataset=found.dataset)


def _check_tables(folder: Path) -> None:
    """The tables of an evaluation can be read, and say something.

    Raises:
        DataError: naming the table.
    """
    for name, numeric in NUMBERS.items():
        path, needed = folder / name, NEEDED.get(name, ())
        if not path.is_file() and not needed:
            continue
        table = _table(path)
        if needed and not table.num_rows:
            raise DataError(f"{path} has no rows: nothing was evaluated, so nothing can be shown.")
        for column in needed:
            if column not in table.column_names:
                raise DataError(f"{path} has no column '{column}'; evaluate again.")
        for column in (c for c in numeric if c in table.column_names):
            _check_numbers(path, table.schema.field(column))


def _check_numbers(path: Path, column: pa.Field) -> None:
    kind = column.type
    known = (pa.types.is_floating, pa.types.is_integer, pa.types.is_null)
    if not any(is_such(kind) for is_such in known):
        raise DataError(f"{path}: column '{column.name}' is {kind}, expected numbers.")


def _table(path: Path) -> pa.Table:
    """The columns that hold one value a row; vectors are many times as large."""
    file = _opened(path)
    plain = [field.name for field in file.schema_arrow if not pa.types.is_nested(field.type)]
    try:
        return file.read(columns=plain)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _opened(path: Path) -> pq.ParquetFile:
    """The file, of which the footer has been read."""
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise DataError(f"{path.parent} is not whole: it has no {path.name}.") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _refuse(folder: Path, given: Given) -> None:
    if given.data is not None or given.model is not None:
        raise UserError(f"{folder}: --data and --model are for an evaluation or a model.")


def _read(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: it is none.
    """
    try:
        found = files.read_json(path)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is damaged: it holds no mapping.")
    return found
