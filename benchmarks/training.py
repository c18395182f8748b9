"""Training throughput: vaepipe's fit beside a hand-written torch loop, in one run.

The same model (784-256-256-50, tanh, Bernoulli, ELBO), data (random bytes in MNIST's shape, bits
drawn anew at every visit), batch size, optimiser and number of threads; the two take turns, and
the figure is the ratio of each pair. Usage:

    python benchmarks/training.py [--epochs 3] [--pairs 5] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vaepipe import files
from vaepipe.compute.base import DataRef, ModelSpec, TrainTask
from vaepipe.compute.local import LocalCompute
from vaepipe.data import schema, shards
from vaepipe.journal import Journal
from vaepipe.registry import part

ROWS, HIDDEN, LATENT, BATCH = 20_000, 256, 50, 128


class ByHand(nn.Module):
    """The model as one would write it in a script."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(784, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, 2 * LATENT),
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, 784),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The negative ELBO, averaged over the batch."""
        mean, log_variance = self.encoder(x).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        log_lik = -nn.functional.binary_cross_entropy_with_logits(
            self.decoder(z), x, reduction="none"
        ).sum(-1)
        rate = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(-1)
        return (rate - log_lik).mean()


def by_hand(images: torch.Tensor, epochs: int) -> float:
    """Examples a second of the script."""
    model = ByHand().to(images.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    begin = time.perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(images), device=images.device)
        for rows in order.split(BATCH)[: len(images) // BATCH]:
            grey = images[rows].float() / 255
            x = (torch.rand_like(grey) < grey).float()
            optimizer.zero_grad(set_to_none=True)
            model(x).backward()
            optimizer.step()
    if images.is_cuda:
        torch.cuda.synchronize()
    return epochs * (len(images) // BATCH) * BATCH / (time.perf_counter() - begin)


def ours(data: DataRef, output: Path, epochs: int, device: str) -> float:
    """Examples a second of a fit without validation: the mean over its epochs."""
    network = part("networks", "mlp", {"hidden": [HIDDEN, HIDDEN], "activation": "tanh"})
    model = ModelSpec(
        (LATENT,),
        network,
        part("families", "diagonal_normal"),
        part("priors", "standard_normal"),
        network,
        part("likelihoods", "bernoulli"),
    )
    optimizer = {
        "type": "adam",
        "lr": 1e-3,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_steps": 0,
        "clip": None,
    }
    task = TrainTask(
        "fit",
        str(output),
        data,
        model,
        part("objectives", "elbo"),
        optimizer,
        BATCH,
        epochs,
        7,
        output.name,
        validation={"examples": 0, "k": 1, "every": epochs},
    )
    LocalCompute(gpus_per_worker=0 if device == "cpu" else "auto").train(task)
    events = Journal(output / "journal.jsonl").read()
    return statistics.mean(
        e["metrics"]["examples_per_second"] for e in events if e["event"] == "epoch"
    )


def dataset(folder: Path) -> DataRef:
    """Random bytes, mostly dark as MNIST's, as a data artifact of the `mnist` view."""
    rng = np.random.default_rng(0)
    x = (rng.random((ROWS, 1, 28, 28)) ** 8 * 255).astype(np.uint8)
    entries = shards.write_split(folder / "train", [schema.record(np.arange(ROWS), x)])
    spec = {"shape": [1, 28, 28], "support": "boolean", "num_examples": ROWS}
    files.write_json(
        folder / "manifest.json",
        {"kind": "data", "spec": spec, "splits": {"train": {"rows": ROWS, "files": entries}}},
    )
    return DataRef(str(folder), part("datasets", "mnist"), spec, "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        data = dataset(Path(place) / "data")
        _, stored = shards.open_split(data.path, "train").take(
            shards.open_split(data.path, "train").units
        )
        images = torch.tensor(stored, device=args.device).flatten(1)
        ratios = []
        for pair in range(args.pairs):
            script = by_hand(images, args.epochs)
            fit = ours(data, Path(place) / f"fit-{pair}", args.epochs, args.device)
            ratios.append(fit / script)
            print(
                f"pair {pair}: by hand {script:9,.0f}/s   vaepipe {fit:9,.0f}/s   "
                f"ratio {ratios[-1]:.3f}"
            )
    print(
        f"vaepipe / by hand: median {statistics.median(ratios):.3f} "
        f"(min {min(ratios):.3f}, max {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
