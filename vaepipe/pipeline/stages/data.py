"""The data stage: a dataset's rows as Parquet shards, with digests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaepipe import files
from vaepipe.core import DataSpec
from vaepipe.data import shards
from vaepipe.data.lexicon import Lexicon
from vaepipe.datasets.base import Dataset
from vaepipe.errors import DataError
from vaepipe.pipeline.environment import Environment
from vaepipe.pipeline.plan import Step
from vaepipe.pipeline.settings import DataStage
from vaepipe.registry import PartSpec


def run(step: Step[DataStage], env: Environment, folder: Path) -> dict[str, Any]:
    """Write every split; the manifest's content."""
    part = step.settings.dataset.part("datasets")
    return write(part, folder)


def write(part: PartSpec, folder: Path) -> dict[str, Any]:
    """Write a dataset's splits to a folder; what its manifest says."""
    dataset: Dataset = part.build()
    dataset.prepare()
    splits = {}
    for split in dataset.splits:
        entries = shards.write_split(folder / split, dataset.examples(split))
        if not entries:
            raise DataError(f"split '{split}' of {part.type} has no rows; mend `splits`.")
        splits[split] = {"rows": sum(e["rows"] for e in entries), "files": entries}
    spec = _spec(dataset, splits)
    first = next(iter(splits))
    _write_mean(folder, dataset, "train" if "train" in splits else first, splits)
    return {
        "dataset": part.to_dict(),
        "spec": spec.to_dict(),
        "shape": list(spec.shape),
        "support": spec.support_name,
        "counts": {name: split["rows"] for name, split in splits.items()},
        "splits": splits,
        **_identity(splits, dataset.lexicon()),
        "view": dict(dataset.describe()),
    }


def _identity(splits: dict[str, Any], lexicon: Lexicon | None) -> dict[str, Any]:
    """The digest of what the rows hold and of what it says, where it is text."""
    rows = {k: [f["sha256"] for f in v["files"]] for k, v in splits.items()}
    if lexicon is None:
        return {"digest": files.digest(rows)}
    text = lexicon.to_dict()
    return {"digest": files.digest({"rows": rows, "lexicon": text}), "lexicon": text}


def _spec(dataset: Dataset, splits: dict[str, Any]) -> DataSpec:
    declared = dataset.spec
    rows = splits.get("train", next(iter(splits.values())))["rows"]
    return replace(declared, num_examples=rows)


def _write_mean(folder: Path, dataset: Dataset, split: str, splits: dict[str, Any]) -> None:
    """The mean example, where components may start."""
    names = tuple(entry["name"] for entry in splits[split]["files"])
    source = shards.Split(folder / split, names)
    total, count = torch.zeros(dataset.spec.shape, dtype=torch.float64), 0
    for unit in source.units:
        ids, x = source.take([unit])
        view = dataset.frozen(torch.tensor(x), torch.tensor(ids))
        total += view.double().sum(0)
        count += len(ids)
    with files.whole(folder / "mean.npy") as draft, draft.open("wb") as file:
        np.save(file, (total / count).float().numpy(), allow_pickle=False)
