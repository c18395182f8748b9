"""The one-layer column of Burda et al. (2016), DReG, two layers and the VampPrior, at large batch.

Trains each model on MNIST binarized anew at every visit, with batches of 1,000 and 3,280 epochs
(the number of the paper, whose batches had 20), evaluates the evidence of all test images with
5,000 samples, and compares with published figures. It wants a GPU: 196,800 updates a model.

    python benchmarks/iwae_table.py --workspace runs            # needs VAEPIPE_DATA and a GPU
    python benchmarks/iwae_table.py --smoke                     # digits, one minute on a CPU

References: Burda et al., table 1 (stochastic MNIST); nbip's reproduction for DReG; Tomczak and
Welling (2018), table 1 (dynamic MNIST).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import yaml


class Row(NamedTuple):
    """A model of the table: its name, what it changes, the published figure and the gate."""

    name: str
    settings: Mapping[str, Any]
    published: float
    gate: float


TWO_LAYERS = {
    "latent_shape": [150],
    "encoder": {"type": "mlp", "hidden": [200, 200], "activation": "tanh"},
    "family": {"type": "hierarchical", "top": 50, "hidden": [100, 100]},
    "prior": {"type": "hierarchical", "top": 50, "hidden": [100, 100]},
    "decoder": {"type": "mlp", "hidden": [200, 200], "activation": "tanh", "reads": [0, 100]},
}
IWAE_50 = {"type": "iwae", "k": 50}
WARM_UP = {"type": "elbo", "warmup_epochs": 100}
GATED = {"type": "mlp", "hidden": [300, 300], "kind": "gated"}
VAMP = {
    "latent_shape": [40],
    "encoder": GATED,
    "prior": {"type": "vamp", "components": 500},
    "decoder": GATED,
}
TABLE = (
    Row("vae_k1", {"objective": {"type": "iwae", "k": 1}}, -86.76, -87.1),
    Row("iwae_k5", {"objective": {"type": "iwae", "k": 5}}, -85.54, -85.7),
    Row("iwae_k50", {"objective": IWAE_50}, -84.78, -84.9),
    Row("dreg_k50", {"objective": {"type": "dreg", "k": 50}}, -84.32, -84.6),
    Row("two_layers_k50", {"objective": IWAE_50, "model": TWO_LAYERS}, -82.90, -83.2),
    Row("vamp", {"objective": WARM_UP, "model": VAMP}, -82.38, -82.7),
)


def main() -> int:
    """Train, evaluate, print the table; exit code 1 if a gate is missed (not with `--smoke`)."""
    args = _arguments()
    rows = [row for row in TABLE if not args.only or row.name in args.only]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "iwae_table.yaml"
        file.write_text(yaml.safe_dump(pipeline(rows, smoke=args.smoke, seed=args.seed)))
        workspace = Path(args.workspace or scratch) / "iwae-table"
        command = [sys.executable, "-m", "vaepipe", "run", file, "--workspace", workspace]
        subprocess.run([*map(str, command)], check=True)
        found = [_measured(workspace / "iwae-table", row) for row in rows]
    for row, line in zip(rows, found, strict=True):
        print(json.dumps(line if args.smoke else {**line, **_compared(row, line)}))
    return (
        0
        if args.smoke or all(_compared(*pair)["passes"] for pair in zip(rows, found, strict=True))
        else 1
    )


def pipeline(rows: Sequence[Row], *, smoke: bool, seed: int) -> dict[str, Any]:
    """A pipeline with a train and an evaluate stage for each row."""
    first, *others = rows
    base: dict[str, Any] = {
        "kind": "train",
        "data": "data",
        "model": {
            "latent_shape": [50],
            "encoder": {"type": "mlp", "hidden": [200, 200], "activation": "tanh"},
            "family": {"type": "diagonal_normal"},
            "prior": {"type": "standard_normal"},
            "decoder": {"type": "mlp", "hidden": [200, 200], "activation": "tanh"},
            "likelihood": {"type": "bernoulli"},
        },
        "optimizer": {"type": "adam", "lr": 2.0e-3, "eps": 1.0e-4, "schedule": "cosine"},
        "batch_size": 100 if smoke else 1000,
        "epochs": 2 if smoke else 3280,
        "workers": 1,
        "validation": {"every": 1 if smoke else 40},
    }
    stages: dict[str, Any] = {
        "data": {"kind": "data", "dataset": {"type": "digits" if smoke else "mnist"}},
        first.name: _merged(base, first.settings),
    }
    for row in others:
        stages[row.name] = _merged(base, row.settings)
    for row in rows:
        stages[f"score_{row.name}"] = {
            "kind": "evaluate",
            "model": row.name,
            "data": "data",
            "evidence": {"k": 50 if smoke else 5000},
        }
    compute = {"type": "local"}
    return {"version": 1, "name": "iwae-table", "seed": seed, "compute": compute, "stages": stages}


def _merged(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    model = {**base["model"], **settings.get("model", {})}
    return {**base, **settings, "model": model}


def _measured(home: Path, row: Row) -> dict[str, Any]:
    summary = pq.read_table(home / f"score_{row.name}" / "summary.parquet").to_pylist()
    found = next(line for line in summary if line["metric"] == "log_evidence")
    seconds = json.loads((home / "run.json").read_text())["stages"][row.name]["seconds"]
    return {
        "model": row.name,
        "log_evidence": round(found["value"], 2),
        "se": round(found["se"], 2),
        "k": found["k"],
        "train_seconds": seconds,
    }


def _compared(row: Row, line: Mapping[str, Any]) -> dict[str, Any]:
    passes = line["log_evidence"] >= row.gate
    return {"published": row.published, "gate": row.gate, "passes": passes}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", help="where to keep the artifacts; default: nowhere")
    parser.add_argument("--smoke", action="store_true", help="two epochs on the bundled digits")
    parser.add_argument("--only", nargs="*", choices=[row.name for row in TABLE])
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
