"""What a model is evaluated on or encodes: splits of an artifact, or anybody's Parquet files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vaepipe.compute.base import DataRef
from vaepipe.core import DataSpec
from vaepipe.data import places, shards, sources
from vaepipe.data.sources import Piece, Source
from vaepipe.errors import CompatibilityError, DataError, did_you_mean
from vaepipe.registry import PartSpec
from vaepipe.tracking.base import Record
from vaepipe.training.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Input:
    """Sources by split, and the view through which the model sees them."""

    name: str
    sources: Mapping[str, Source]
    dataset: PartSpec
    spec: DataSpec
    digest: str
    looked: Mapping[str, Sequence[Piece]] | None = None
    """The files, if they were looked at for the digest."""

    def pieces(self) -> Mapping[str, Sequence[Piece]]:
        """The files of each split, looked at once."""
        return self.looked or {split: source.pieces() for split, source in self.sources.items()}

    def log(self, record: Record, context: str) -> None:
        """Tell a run what it read."""
        for split in self.sources:
            schema = json.dumps(self.spec.to_dict())
            name = f"{self.dataset.type}/{split}"
            record.dataset(name, f"{self.name}/{split}", self.digest, schema, context)


def of_artifact(data: DataRef, splits: Sequence[str] | None) -> Input:
    """Splits of a data artifact; all of them by default."""
    known = list(shards.read_manifest(data.path)["splits"])
    names = splits or known
    check_splits(names, known, data.path)
    found = {split: sources.of_split(data.path, split) for split in names}
    return Input(data.path, found, data.dataset, DataSpec.from_dict(data.spec), data.digest)


def of_path(
    path: str, model: Bundle, splits: Sequence[str] | None, column: str, id_column: str | None
) -> Input:
    """A data artifact's folder, or Parquet files that are seen as the model's own data were."""
    if (Path(path) / "manifest.json").exists():
        return of_artifact(_artifact(path), splits)
    above, split = Path(path).parent, Path(path).name
    if (above / "manifest.json").exists() and split in shards.read_manifest(above).get(
        "splits", ()
    ):
        return of_artifact(_artifact(str(above)), [split])
    if splits:
        raise DataError(f"{path}: files have no splits; leave `--split` out, or name an artifact.")
    source = sources.of_files(path, model.data.shape, column, id_column, named=model.data.names)
    split = places.stem(path)
    pieces = source.pieces()
    digest = sources.digest(pieces)
    looked, name = {split: pieces}, places.shown(path)
    return Input(name, {split: source}, model.dataset, model.data, digest, looked)


def check_input(model: Bundle, data: Input) -> None:
    """The model can read the data.

    Raises:
        CompatibilityError: another shape, support or number of levels.
    """
    check_examples(model.data, data.spec, f"model {model.path} and data {data.name}")


def check_examples(reads: DataSpec, has: DataSpec, where: str) -> None:
    """A model that reads such examples can read those that the data have.

    Raises:
        CompatibilityError: another shape, support or number of levels.
    """
    if reads.shape != has.shape:
        raise CompatibilityError(
            f"{where}: the model reads examples of shape {reads.shape}, the data have {has.shape}."
        )
    if reads.support is not has.support:
        raise CompatibilityError(
            f"{where}: the model was fitted to {reads.support_name} values, the data are "
            f"{has.support_name}. Encode the data through the view the model was fitted with."
        )
    if reads.names and has.names and reads.names != has.names:
        raise CompatibilityError(f"{where}: {_other_names(reads.names, has.names)}")
    if reads.levels != has.levels:
        raise CompatibilityError(
            f"{where}: the model was fitted to {_levels(reads)}, the data have {_levels(has)}. "
            "Encode the data through the view the model was fitted with."
        )


def _other_names(reads: Sequence[str], has: Sequence[str]) -> str:
    """Say which columns differ."""
    missing = [name for name in reads if name not in set(has)]
    if missing:
        return f"the model reads the column '{missing[0]}', which the data do not have."
    at = next(i for i, (one, other) in enumerate(zip(reads, has, strict=False)) if one != other)
    return (
        f"value {at} of an example is '{reads[at]}' for the model and '{has[at]}' in the data. "
        "Write the data with the model's columns in the model's order."
    )


def _levels(spec: DataSpec) -> str:
    return "values without an end" if spec.levels is None else f"{spec.levels} levels"


def _artifact(path: str) -> DataRef:
    manifest = shards.read_manifest(path)
    if manifest.get("kind") != "data":
        raise DataError(f"{path} is a '{manifest.get('kind')}' artifact, expected a data artifact.")
    dataset = PartSpec.from_dict(manifest["dataset"])
    return DataRef(str(Path(path).absolute()), dataset, manifest["spec"], manifest["digest"])


def check_splits(wanted: Sequence[str], known: Sequence[str], where: str) -> None:
    """Every split that is asked for exists.

    Raises:
        DataError: naming the nearest one that does.
    """
    for split in wanted:
        if split not in known:
            raise DataError(
                f"{where}: no split '{split}'.{did_you_mean(split, known)} "
                f"Splits: {', '.join(known)}."
            )
