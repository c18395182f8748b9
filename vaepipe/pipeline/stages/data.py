"""The data stage: a dataset's rows as Parquet shards, with digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaepipe import files
from vaepipe.core import DataSpec
from vaepipe.data import shards, text
from vaepipe.data.lexicon import Lexicon
from vaepipe.data.moments import Narrowing, Running, check_scale
from vaepipe.data.text import Words
from vaepipe.datasets.base import Dataset
from vaepipe.errors import DataError, VaepipeError
from vaepipe.pipeline.environment import Environment
from vaepipe.pipeline.plan import Step
from vaepipe.pipeline.settings import DataStage
from vaepipe.registry import PartSpec


def run(step: Step[DataStage], env: Environment, folder: Path) -> dict[str, Any]:
    """Write every split; the manifest's content."""
    part = step.settings.dataset.part("datasets")
    manifest = write(part, folder)
    for said in manifest.get("warnings", ()):
        env.screen.event(step.name, None, {"event": "warning", "text": said})
    return manifest


def write(part: PartSpec, folder: Path) -> dict[str, Any]:
    """Write a dataset's splits to a folder; what its manifest says."""
    dataset: Dataset = part.build()
    dataset.prepare()
    state = dataset.state()
    splits = {}
    reference = "train" if "train" in dataset.splits else dataset.splits[0]
    for split in dataset.splits:
        narrow = Narrowing()
        entries = shards.write_split(folder / split, dataset.examples(split), narrow)
        if split == reference and dataset.spec.support_name == "real":
            narrow.check(f"split '{split}' of {part.type}", dataset.spec.names)
        if not entries:
            raise DataError(f"split '{split}' of {part.type} is empty; adjust `splits`.")
        splits[split] = {"rows": sum(e["rows"] for e in entries), "files": entries}
    part = replace(part, options={**part.options, **dataset.settled()})
    spec = _spec(dataset, splits)
    names = tuple(entry["name"] for entry in splits[reference]["files"])
    _write_moments(folder, dataset, shards.Split(folder / reference, names))
    return {
        "dataset": part.to_dict(),
        "spec": spec.to_dict(),
        "shape": list(spec.shape),
        "support": spec.support_name,
        "counts": {name: split["rows"] for name, split in splits.items()},
        "splits": splits,
        **_identity(splits, dataset.lexicon()),
        **_told(dataset),
        "view": dict(dataset.describe()),
        **({} if state is None else {"state": state}),
    }


def is_stale(part: PartSpec, manifest: Mapping[str, Any]) -> bool:
    """Check whether somebody wrote to the source since a stage's rows were taken from it.

    A source that is gone, or out of reach, says nothing: the rows are here.
    """
    if "state" not in manifest:
        return False
    dataset: Dataset = part.build()
    try:
        return dataset.state() != manifest["state"]
    except VaepipeError:
        return False


def _told(dataset: Dataset) -> dict[str, Any]:
    """What a reader of results must know of the source, where there is something."""
    lost = _lost(dataset)
    said = [*dataset.warnings(), *lost.get("warnings", ())]
    return {**lost, **({"warnings": said} if said else {})}


def _lost(dataset: Dataset) -> dict[str, Any]:
    """What numbers do not say of sentences, and warnings where that is much of training."""
    found = {split: dataset.losses(split) for split in dataset.splits}
    losses = {split: each for split, each in found.items() if each is not None}
    reading, lexicon = dataset.reading(), dataset.lexicon()
    if not losses or reading is None or lexicon is None:
        return {}
    split = "train" if "train" in losses else next(iter(losses))
    (length,) = dataset.spec.shape
    told = {name: each.to_dict() for name, each in losses.items()}
    unknown, cut = (told[split][name] for name in ("unknown_words", "cut_sentences"))
    own = Words(reading, lexicon)
    said = text.warnings(f"split '{split}'", unknown, cut, own, length)
    return {"losses": told, "warnings": list(said)}


def _identity(splits: dict[str, Any], lexicon: Lexicon | None) -> dict[str, Any]:
    """The digest of what the rows hold and of what it says, where it is text."""
    rows = {k: [f["sha256"] for f in v["files"]] for k, v in splits.items()}
    if lexicon is None:
        return {"digest": files.digest(rows)}
    words = lexicon.to_dict()
    return {"digest": files.digest({"rows": rows, "lexicon": words}), "lexicon": words}


def _spec(dataset: Dataset, splits: dict[str, Any]) -> DataSpec:
    declared = dataset.spec
    rows = splits.get("train", next(iter(splits.values())))["rows"]
    return replace(declared, num_examples=rows)


def _write_moments(folder: Path, dataset: Dataset, source: shards.Split) -> None:
    """Write mean and standard deviation of a split, where components start.

    The mean of real numbers is float64: one that is large beside the standard deviation would lose
    digits that the examples have. Integers without a largest value get those of log(1 + x) as well.
    """
    spec = dataset.spec
    plain, logs = Running(spec.shape), Running(spec.shape)
    for unit in source.units:
        ids, x = source.take([unit])
        view = dataset.frozen(torch.tensor(x), torch.tensor(ids)).double().numpy()
        plain.add(view)
        if spec.counts:
            logs.add(np.log1p(view))
    kind = np.float64 if spec.support_name == "real" else np.float32
    check_scale(f"split '{source.folder.name}'", plain.scale, spec.names)
    shards.write_array(folder / shards.MEAN, plain.mean.astype(kind))
    shards.write_array(folder / shards.SCALE, plain.scale)
    if spec.counts:
        shards.write_array(folder / shards.LOGS, np.stack([logs.mean, logs.scale]))
