"""Artifacts in the columns that stages write, small enough to read."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vaepipe import registry
from vaepipe.compute.base import ModelSpec
from vaepipe.core import SUPPORTS, DataSpec, Stream, build, seeded
from vaepipe.data import schema
from vaepipe.pipeline.report import Sample, Section
from vaepipe.training import bundle

HELPERS = str(Path(__file__).parent / "helpers")
if HELPERS not in sys.path:
    sys.path.insert(0, HELPERS)


def table(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def epochs(count: int, best: float) -> list[dict]:
    return [
        {
            "epoch": e,
            "step": 10 * e,
            "train/bound": best - 20.0 / e,
            "val/log_evidence": best - 19.0 / e,
            "val/log_evidence_se": 0.5,
            "val/elbo": best - 22.0 / e,
            "val/rate": 3.0 - 1.0 / e,
        }
        for e in range(1, count + 1)
    ]


@pytest.fixture
def sweep(tmp_path):
    """Makes a sweep section from trial rows; each trial has a history."""

    def make(rows: list[dict], name: str = "tune", **manifest) -> Section:
        folder = tmp_path / "run" / "sweep"
        folder.mkdir(parents=True, exist_ok=True)
        if rows:
            table(folder / "trials.parquet", rows)
        for row in rows:
            if row["status"] != "failed":
                history = folder / "trials" / f"{row['trial']:05d}" / "history.parquet"
                table(history, epochs(3, row["val/log_evidence"] or 0.0))
        return Section("sweep", name, folder, manifest)

    return make


@pytest.fixture
def evaluation(tmp_path):
    """Makes an evaluation section from per-example evidences."""

    def make(values: list[float], name: str = "score", split: str = "test") -> Section:
        folder = tmp_path / "run" / "evaluation"
        rows = [
            {"id": i, "split": split, "log_evidence": v, "elbo": v - 3.0}
            for i, v in enumerate(values)
        ]
        table(folder / "per_example.parquet", rows)
        dims = [
            {"dim": d, "rate": r, "variance_of_means": r / 2, "active": r > 0.1}
            for d, r in enumerate((0.0, 2.0, 1.0))
        ]
        table(folder / "per_dimension.parquet", dims)
        mean, se = float(np.mean(values)), float(np.std(values) / len(values) ** 0.5)
        summary = {
            "model": "fit",
            "split": split,
            "metric": "log_evidence",
            "value": mean,
            "se": se,
            "n": len(values),
            "unit": "nats",
            "direction": "max",
            "estimator": "importance sampling",
            "k": 1000,
        }
        table(folder / "summary.parquet", [summary])
        return Section("evaluate", name, folder, {"created": 0.0, "fingerprint": "ab" * 32})

    return make


@pytest.fixture(scope="session")
def fitted(tmp_path_factory):
    """A 2-D model of 8 x 8 binary images, as it was initialised, and examples for it."""
    part = registry.part
    spec = DataSpec((1, 8, 8), SUPPORTS["boolean"], 100)
    parts = {
        "encoder": part("networks", "mlp", {"hidden": [16]}),
        "family": part("families", "diagonal_normal"),
        "prior": part("priors", "standard_normal"),
        "decoder": part("networks", "mlp", {"hidden": [16]}),
        "likelihood": part("likelihoods", "bernoulli"),
    }
    with seeded(Stream(0)):
        model = build((2,), spec, **parts)
        stored = torch.randint(0, 17, (30, 1, 8, 8), dtype=torch.uint8)
    card = {
        "model": ModelSpec((2,), **parts).to_dict(),
        "data": spec.to_dict(),
        "dataset": part("datasets", "digits", {"binarize": "dynamic", "seed": 0}).to_dict(),
        "objective": part("objectives", "elbo").to_dict(),
        "epoch": 3,
        "settings": {"epochs": 3},
    }
    folder = tmp_path_factory.mktemp("fit")
    dtype = next(model.parameters()).dtype
    bundle.save(folder / "model", model, card, (stored[:4] > 8).to(dtype))
    table(folder / "history.parquet", epochs(3, -20.0))
    labels = [i % 3 for i in range(29)] + [None]
    data = Sample(stored.numpy(), np.arange(30), labels)
    manifest = {"status": "done", "epochs": 3, "best_epoch": 3, "metrics": epochs(3, -20.0)[-1]}
    return Section("train", "fit", folder, manifest, bundle.load(folder / "model"), data)


@pytest.fixture
def codes(tmp_path):
    """Makes an encode section from means and labels, in two files."""

    def make(means: np.ndarray, labels: list | None = None, name: str = "codes") -> Section:
        folder = tmp_path / "run" / "codes"
        folder.mkdir(parents=True, exist_ok=True)
        half = len(means) // 2
        for number, rows in enumerate((slice(0, half), slice(half, None))):
            kind = pa.list_(pa.field("element", pa.float32(), nullable=False), means.shape[1])
            flat = pa.array(means[rows].astype(np.float32).reshape(-1))
            columns = {"mean": pa.FixedSizeListArray.from_arrays(flat, type=kind)}
            if labels is not None:
                columns["label"] = pa.array(labels[rows])
            pq.write_table(pa.table(columns), folder / f"part-{number:05d}-of-00002.parquet")
        return Section("encode", name, folder, {"rows": len(means)})

    return make


@pytest.fixture
def moved(tmp_path):
    """Makes the folder of a fit whose posteriors drift away from the origin."""

    def make(frames: int, labels: bool = False, d: int = 2, rows: int = 40) -> Path:
        folder = tmp_path / "moved"
        rng = np.random.default_rng(0)
        ends = rng.normal(size=(rows, d)).astype(np.float32)
        for epoch in range(1, frames + 1):
            mean = ends * epoch / frames
            columns = {"id": np.arange(rows)}
            if labels:
                columns["label"] = np.arange(rows) % 3
            field = schema.vector_field("mean", pa.float32(), (d,))
            drawn = pa.table(columns).append_column(field, schema.to_vectors(mean))
            (folder / "snapshots").mkdir(parents=True, exist_ok=True)
            pq.write_table(drawn, folder / "snapshots" / f"epoch-{epoch:05d}.parquet")
        table(folder / "history.parquet", epochs(frames, -20.0))
        return folder

    return make
