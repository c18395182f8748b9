"""The evaluator against the truth: a 2-D latent model of MNIST, whose evidence a grid knows.

Trains 784-200-200-2 on dynamically binarized MNIST, takes log p(x) of test images by quadrature
(801 x 801 points on [-6, 6]^2, checked against a coarser grid), and compares each proposal at the
same number of evaluations of p(x | z) an image, those of the refinement included.

    python benchmarks/evaluator_truth.py --workspace runs       # needs VAEPIPE_DATA
    python benchmarks/evaluator_truth.py --smoke                # digits, under a minute

The gate: mean error at least -0.02 nats and worst at least -0.5 with the best proposal.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from vaepipe.core import LatentModel
from vaepipe.data import shards
from vaepipe.evaluation import Scores, score
from vaepipe.evaluation.adaptive import evaluations
from vaepipe.evaluation.proposals import REFINE_STEPS, ProposalName
from vaepipe.registry import PartSpec
from vaepipe.training import bundle

BUDGET = 5000
PROPOSALS: tuple[ProposalName, ...] = ("posterior", "defensive", "refined")


def main() -> int:
    """Train, take the truth, compare; exit code 1 if the gate is missed (not with `--smoke`)."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "truth.yaml"
        file.write_text(yaml.safe_dump(_pipeline(smoke=args.smoke)))
        workspace = Path(args.workspace or scratch).absolute()
        command = [sys.executable, "-m", "vaepipe", "run", file, "--workspace", workspace]
        subprocess.run([*map(str, command)], check=True, stdout=sys.stderr)
        found = compare(workspace / "evaluator-truth", 20 if args.smoke else args.images)
    for line in found:
        print(json.dumps(line))
    best = found[-1]
    return 0 if args.smoke or (best["mean"] >= -0.02 and best["worst"] >= -0.5) else 1


def compare(home: Path, images: int) -> list[dict[str, Any]]:
    """Errors of each proposal on the first test images, after the errors of the grid itself."""
    model, x, ids = _opened(home, images)
    truth, coarse = quadrature(model, x, 801), quadrature(model, x, 401)
    grid = (truth - coarse).abs().max().item()
    return [{"images": len(x), "grid_error": round(grid, 5)}] + [
        _errors(name, model, x, ids, truth) for name in PROPOSALS
    ]


def _errors(
    name: ProposalName, model: LatentModel, x: Tensor, ids: list[int], truth: Tensor
) -> dict[str, Any]:
    k = BUDGET - (evaluations(REFINE_STEPS, 2) if name == "refined" else 0)
    begin = time.perf_counter()
    found: Scores = score(model, x, ids, k=k, proposal=name)
    seconds = time.perf_counter() - begin
    error = (found.log_evidence - truth).numpy()
    return {
        "proposal": name,
        "k": k,
        "evaluations": BUDGET,
        "mean": round(float(error.mean()), 4),
        "median": round(float(np.median(error)), 4),
        "worst": round(float(error.min()), 3),
        "largest": round(float(error.max()), 3),
        "off_by_more_than_0.1": round(float((np.abs(error) > 0.1).mean()), 3),
        "khat_above_0.7": round(float((found.khat > 0.7).double().mean()), 3),
        "seconds": round(seconds, 1),
    }


@torch.no_grad()
def quadrature(model: LatentModel, x: Tensor, points: int, half: float = 6.0) -> Tensor:
    """log p(x) by a sum over an even grid on [-half, half]^2, float64 `[n]`."""
    axis = torch.linspace(-half, half, points)
    total = torch.full((len(x),), -torch.inf, dtype=torch.double)
    p = model.p_z().z
    for z in torch.cartesian_prod(axis, axis).split(4096):
        logits = model.generator(z).logits.flatten(1)
        log_lik = logits @ x.flatten(1).T - torch.nn.functional.softplus(logits).sum(1, True)
        joint = log_lik.double() + p.log_prob(z).double().unsqueeze(1)
        total = torch.logaddexp(total, joint.logsumexp(0))
    return total + 2 * math.log(2 * half / (points - 1))


def _opened(home: Path, images: int) -> tuple[LatentModel, Tensor, list[int]]:
    torch.set_num_threads(1)
    model = bundle.load(home / "fit" / "model").model
    split = shards.open_split(home / "data", "test")
    ids, stored = shards.arrays(split.sample(images), split.shape)
    dataset = PartSpec.from_dict(shards.read_manifest(home / "data")["dataset"]).build()
    x = dataset.frozen(torch.tensor(stored), torch.tensor(ids))
    return model, x, ids.tolist()


def _pipeline(*, smoke: bool) -> dict[str, Any]:
    mlp = {"type": "mlp", "hidden": [200, 200], "activation": "tanh"}
    fit = {
        "kind": "train",
        "data": "data",
        "model": {
            "latent_shape": [2],
            "encoder": mlp,
            "family": {"type": "diagonal_normal"},
            "prior": {"type": "standard_normal"},
            "decoder": mlp,
            "likelihood": {"type": "bernoulli"},
        },
        "objective": {"type": "elbo"},
        "epochs": 5 if smoke else 15,
    }
    data = {"kind": "data", "dataset": {"type": "digits" if smoke else "mnist"}}
    stages = {"data": data, "fit": fit}
    head = {"version": 1, "name": "evaluator-truth", "seed": 7, "compute": {"type": "local"}}
    return {**head, "stages": stages}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", help="where to keep the model; default: nowhere")
    parser.add_argument("--smoke", action="store_true", help="the bundled digits, 20 images")
    parser.add_argument("--images", type=int, default=200)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
