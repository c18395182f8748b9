"""Speed and value of the evidence: IWAE-5000 of MNIST test images, beside pythae's `get_nll`.

Trains 784-200-200-50 on dynamically binarized MNIST, evaluates test images with 5,000 samples each
through `vaepipe evaluate`, and estimates the same model on the first few of the same images with
`pythae.models.VAE.get_nll`, whose modules are given our weights. Without pythae that part is left
out: `pip install pythae`, at best in an environment of its own.

    python benchmarks/evaluate.py --workspace runs --workers 2      # needs VAEPIPE_DATA
    python benchmarks/evaluate.py --smoke                           # digits, under a minute

The gate: 10,000 images on two cores in at most 12 minutes (about 21 TFLOP).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml
from torch import Tensor, nn

from vaepipe.core import LatentModel
from vaepipe.data import shards
from vaepipe.evaluation import score
from vaepipe.registry import PartSpec
from vaepipe.training import bundle

K = 5000
SECONDS = 12 * 60


def main() -> int:
    """Train, evaluate, compare; exit code 1 if the gate is missed (not with a part of the rows)."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Path(args.workspace or scratch).absolute()
        home = _train(workspace, Path(scratch), smoke=args.smoke)
        data, rows = _some(home, Path(scratch), args.rows)
        line = _evaluate(home, data, rows, Path(scratch) / "scores", args.workers)
        print(json.dumps(line), flush=True)
        print(json.dumps(_beside_pythae(home, args.compare)), flush=True)
    whole = args.rows is None and not args.smoke
    return int(whole and line["seconds"] > SECONDS)


def _train(workspace: Path, scratch: Path, *, smoke: bool) -> Path:
    file = scratch / "evaluate.yaml"
    file.write_text(yaml.safe_dump(_pipeline(smoke=smoke)))
    command = [sys.executable, "-m", "vaepipe", "run", file, "--workspace", workspace]
    subprocess.run([*map(str, command)], check=True, stdout=sys.stderr)
    return workspace / "evaluate-benchmark"


def _some(home: Path, scratch: Path, rows: int | None) -> tuple[list[str], int]:
    """Arguments that choose the data, and how many rows they are; the first ones if not all."""
    split = shards.open_split(home / "data", "test")
    if rows is None or rows >= split.num_rows:
        return ["--data", str(home / "data"), "--split", "test"], split.num_rows
    path = scratch / "test.parquet"
    shards.write_table(path, split.sample(rows), 64)
    return ["--data", str(path), "--id-column", "id"], rows


def _evaluate(home: Path, data: list[str], rows: int, output: Path, workers: int) -> dict[str, Any]:
    command = ["evaluate", "--model", home / "fit" / "model", *data, "--k", K, "--output", output]
    command += ["--workers", workers, "--no-decompose"]
    begin = time.perf_counter()
    everything = [sys.executable, "-m", "vaepipe", *command]
    subprocess.run([*map(str, everything)], check=True, stdout=sys.stderr)
    seconds = time.perf_counter() - begin
    summary = pq.read_table(output / "summary.parquet").to_pylist()
    found = next(line for line in summary if line["metric"] == "log_evidence")
    return {
        "what": "vaepipe evaluate",
        "images": rows,
        "k": K,
        "workers": workers,
        "seconds": round(seconds, 1),
        "seconds_per_image": round(seconds / rows, 4),
        "log_evidence": round(found["value"], 3),
        "se": round(found["se"], 3),
    }


def _beside_pythae(home: Path, images: int) -> dict[str, Any]:
    """Both estimators on the same images, weights and threads (one), one after the other."""
    torch.set_num_threads(1)
    model, x, ids = _opened(home, images)
    line: dict[str, Any] = {"what": "one thread, same weights", "images": len(x), "k": K}
    score(model, x[:1], ids[:1], k=K)
    begin = time.perf_counter()
    ours = score(model, x, ids, k=K).log_evidence.mean().item()
    line |= {"vaepipe_seconds_per_image": _each(begin, x), "vaepipe": round(ours, 3)}
    try:
        theirs = _pythae(model, x.shape[1:].numel())
    except ImportError as error:
        return {**line, "pythae": f"left out: {error}"}
    torch.manual_seed(0)
    theirs.get_nll(x[:1], n_samples=K, batch_size=100)
    begin = time.perf_counter()
    with torch.no_grad():
        value = float(theirs.get_nll(x, n_samples=K, batch_size=100))
    seconds = _each(begin, x)
    ratio = seconds / line["vaepipe_seconds_per_image"]
    return {
        **line,
        "pythae_seconds_per_image": seconds,
        "pythae": round(value, 3),
        "times_faster": round(ratio, 2),
        "difference": round(ours - value, 3),
    }


def _each(begin: float, x: Tensor) -> float:
    return round((time.perf_counter() - begin) / len(x), 4)


def _pythae(model: LatentModel, size: int) -> Any:
    """pythae's VAE around our networks: the same functions of x and z."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.latent_dim = model.inference.head.latent_shape[0]

        def forward(self, x: Tensor) -> Any:
            q = model.inference(x.reshape(len(x), *model.inference.in_shape))
            return ModelOutput(embedding=q.mean, log_covariance=2 * q.stddev.log())

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            nn.Module.__init__(self)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=model.generator(z).mean.flatten(1))

    latent = model.inference.head.latent_shape[0]
    config = VAEConfig(input_dim=(size,), latent_dim=latent, reconstruction_loss="bce")
    return VAE(config, encoder=Encoder(), decoder=Decoder()).eval()


def _opened(home: Path, images: int) -> tuple[LatentModel, Tensor, list[int]]:
    model = bundle.load(home / "fit" / "model").model
    split = shards.open_split(home / "data", "test")
    ids, stored = shards.arrays(split.sample(images), split.shape)
    dataset = PartSpec.from_dict(shards.read_manifest(home / "data")["dataset"]).build()
    x = dataset.frozen(torch.tensor(np.ascontiguousarray(stored)), torch.tensor(ids))
    return model, x, ids.tolist()


def _pipeline(*, smoke: bool) -> dict[str, Any]:
    mlp = {"type": "mlp", "hidden": [200, 200], "activation": "tanh"}
    fit = {
        "kind": "train",
        "data": "data",
        "model": {
            "latent_shape": [50],
            "encoder": mlp,
            "family": {"type": "diagonal_normal"},
            "prior": {"type": "standard_normal"},
            "decoder": mlp,
            "likelihood": {"type": "bernoulli"},
        },
        "objective": {"type": "elbo"},
        "epochs": 2 if smoke else 10,
    }
    data = {"kind": "data", "dataset": {"type": "digits" if smoke else "mnist"}}
    head = {"version": 1, "name": "evaluate-benchmark", "seed": 7, "compute": {"type": "local"}}
    return {**head, "stages": {"data": data, "fit": fit}}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", help="where to keep the model; default: nowhere")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, help="only the first so many test images")
    parser.add_argument("--compare", type=int, default=20, help="images for both libraries")
    parser.add_argument("--smoke", action="store_true", help="the bundled digits")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
