"""What a model is evaluated on or encodes: splits of an artifact, or anybody's Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from vaepipe.compute.base import DataRef
from vaepipe.core import DataSpec
from vaepipe.data import formats, places, shards, sources, text
from vaepipe.data.decoding import Decoding
from vaepipe.data.lexicon import Lexicon
from vaepipe.data.sources import Piece, Source
from vaepipe.data.text import Words
from vaepipe.data.values import is_text
from vaepipe.datasets.base import Dataset
from vaepipe.errors import CompatibilityError, DataError, did_you_mean
from vaepipe.registry import PartSpec
from vaepipe.tracking.base import Record
from vaepipe.training.bundle import Bundle

LOOKED_AT = 10_000
"""Sentences behind a warning of what a model's words do not say."""
TEXT = (
    "Give the text itself, `vaepipe evaluate` or `vaepipe encode` with the `.txt` file: the model "
    "reads it with its own words."
)
"""What to do where numbers of words do not tell the words."""


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
    lexicon: Lexicon | None = None
    """The words of an artifact's numbers, where its examples are sentences."""
    unknown: Mapping[str, int | None] = field(default_factory=dict)
    """Words of each split of an artifact that are outside its lexicon; None: nobody counted."""
    warnings: tuple[str, ...] = ()
    """What the reader of a result must know of these rows."""

    def pieces(self) -> Mapping[str, Sequence[Piece]]:
        """The files of each split, looked at once."""
        return self.looked or {split: source.pieces() for split, source in self.sources.items()}

    def log(self, record: Record, context: str) -> None:
        """Tell a run what it read."""
        for split in self.sources:
            schema = json.dumps(self.spec.to_dict())
            name = f"{self.dataset.type}/{split}"
            record.dataset(name, f"{self.name}/{split}", self.digest, schema, context)


def of_artifact(data: DataRef, splits: Sequence[str] | None, model: Bundle) -> Input:
    """Splits of a data artifact, all of them by default, as a model reads them.

    Raises:
        DataError: there is no such split.
        CompatibilityError: their words are not known any more, see `in_words`.
    """
    manifest = shards.read_manifest(data.path)
    known = list(manifest["splits"])
    names = splits or known
    check_splits(names, known, data.path)
    found = {split: sources.of_split(data.path, split) for split in names}
    words, losses = manifest.get("lexicon"), manifest.get("losses", {})
    made = Input(
        data.path,
        found,
        data.dataset,
        DataSpec.from_dict(data.spec),
        data.digest,
        lexicon=None if words is None else Lexicon.from_dict(words),
        unknown={split: losses.get(split, {}).get("unknown") for split in names},
    )
    return in_words(made, model)


def of_path(
    path: str, model: Bundle, splits: Sequence[str] | None, column: str, id_column: str | None
) -> Input:
    """A data artifact's folder, or files that are seen as the model's own data were.

    Raises:
        DataError: there is no such file, column or split.
        CompatibilityError: an artifact's words are not known any more, see `in_words`.
    """
    if (Path(path) / "manifest.json").exists():
        return of_artifact(_artifact(path), splits, model)
    above, split = Path(path).parent, Path(path).name
    if (above / "manifest.json").exists() and split in shards.read_manifest(above).get(
        "splits", ()
    ):
        return of_artifact(_artifact(str(above)), [split], model)
    if splits:
        raise DataError(f"{path}: files have no splits; leave `--split` out, or name an artifact.")
    shape, names = model.data.shape, model.data.names
    source = sources.of_files(path, shape, column, id_column, named=names, decoding=decoding(model))
    split = places.stem(path)
    pieces = source.pieces()
    digest = sources.digest(pieces)
    looked, name = {split: pieces}, places.shown(path)
    left = formats.unread(name, source.look().left)
    said = (*left, *_warnings(name, source), *_bytes(name, source, model))
    return Input(name, {split: source}, model.dataset, model.data, digest, looked, warnings=said)


def decoding(model: Bundle) -> Decoding:
    """Return how pictures and sentences are read, as those that a model was fitted to."""
    dataset: Dataset = model.dataset.build()
    reading, lexicon = dataset.reading(), model.lexicon
    words = None if reading is None or lexicon is None else Words(reading, lexicon)
    return Decoding(dataset.pictures(), words)


def in_words(data: Input, model: Bundle) -> Input:
    """Return an artifact's sentences in the numbers that a model has for their words.

    A word has its number from a lexicon, and every artifact has its own. The model's numbers are
    known for all words that the artifact's lexicon has; they are not known for words outside it,
    unless the model does not know these either.

    Raises:
        CompatibilityError: the same sentences would be other numbers if the model read their text.
    """
    words, where = decoding(model).words, f"model {model.path} and data {data.name}"
    if words is None and data.lexicon is None:
        return data
    reading = data.dataset.build().reading()
    if words is None or data.lexicon is None or reading is None:
        one, other = "sentences", "numbers that are not words"
        fitted, has = (one, other) if words is not None else (other, one)
        raise CompatibilityError(f"{where}: the model was fitted to {fitted}, the data hold {has}.")
    one, other = ((each.level, each.lowercase) for each in (words.reading, reading))
    if one != other:
        raise CompatibilityError(
            f"{where}: the model reads text with `level: {one[0]}, lowercase: {str(one[1]).lower()}"
            f"`, the data were written with `level: {other[0]}, lowercase: "
            f"{str(other[1]).lower()}`. {TEXT}"
        )
    if words.lexicon == data.lexicon:
        return data
    _check_known(where, words.lexicon, data)
    own = replace(words, stored=data.lexicon)
    found = {
        split: replace(source, decoding=Decoding(words=own))
        for split, source in data.sources.items()
    }
    said = tuple(line for split, source in found.items() for line in _warnings(split, source))
    spec = replace(data.spec, levels=model.data.levels)
    return replace(data, sources=found, spec=spec, warnings=said)


def _warnings(where: str, source: Source) -> Iterator[str]:
    """What a model's words do not say of sentences, going by the first of them."""
    words = source.decoding.words
    if words is None:
        return
    texts = any(map(is_text, source.look().elements))
    if words.stored is None and not texts:
        yield (
            f"{where}: numbers are taken for those of the model's own words. If another lexicon "
            "made them, give the text."
        )
    unknown, cut = words.lexicon.lost(_first(source))
    yield from text.warnings(where, unknown, cut, words, source.shape[0])


def _bytes(where: str, source: Source, model: Bundle) -> Iterator[str]:
    """Say how bytes are read by a model of numbers in [0, 1] that were not bytes."""
    grey = model.data.support_name == "unit_interval" and model.card.get("stored") == "float32"
    if grey and pa.uint8() in source.look().elements:
        yield (
            f"{where}: bytes are read as grey levels, 255 being 1; the model was fitted to other "
            "numbers in [0, 1]. Write bits as booleans, or values as floating point numbers."
        )


def _first(source: Source) -> np.ndarray:
    """Some of the first rows that can be read, `[n, *shape]`."""
    found, wanted = [np.zeros((0, *source.shape))], LOOKED_AT
    with suppress(DataError):  # of what cannot be read the command itself tells
        for piece in source.pieces():
            groups = range(len(piece.about.groups))
            for batch in source.stream(piece.path, groups, piece.start, (), formats.GROUP, 0):
                found.append(batch.x[:wanted])
                wanted -= len(found[-1])
                if wanted <= 0:
                    return np.concatenate(found)
    return np.concatenate(found)


def _check_known(where: str, model: Lexicon, data: Input) -> None:
    """Raise `CompatibilityError` if a word may be known to a model and not to the data."""
    assert data.lexicon is not None
    more = sorted(set(model.words) - set(data.lexicon.words))
    lost = [split for split, count in data.unknown.items() if count != 0]
    if more and lost:
        raise CompatibilityError(
            f"{where}: the model has {len(more)} words that are outside the vocabulary of the data "
            f"('{more[0]}' is one), and in split '{lost[0]}' words outside it were written as "
            f"<unk>: which, is not known any more. {TEXT}"
        )


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
