"""Encoding throughput and memory: vaepipe beside a hand-tuned loop and Ray Data, in one run.

Shifted MNIST (uint8, 784 values a row, zstd Parquet) through a 784-512-512-(2 x 32) encoder; every
way writes id, mean, scale and rate with the same Parquet settings. The weights are not trained:
that changes no time. What is compared takes turns, each in a process of its own. Usage:

    python benchmarks/encode.py [--rows 1000000] [--pairs 3] [--no-ray-data]
    python benchmarks/encode.py --memory 4000000

Processes are kept to one or two cores (`taskset`), so that "a core" means one. Rows a second are of
the work: from the first row read to the last file written, without the start of processes; `wall`
has everything. Against Ray Data `wall` counts, for both
start processes. `of CPU` is rows a second of processor time, which neighbours on the machine change
less.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SHAPE, LATENT, HIDDEN = (784,), 32, 512
ROWS_PER_INPUT, ROWS_PER_GROUP, ROWS_PER_FILE, BATCH = 100_000, 10_000, 50_000, 1024


def make_model(folder: Path) -> None:
    """An untrained bundle whose encoder is 784-512-512-(2 x 32)."""
    import torch

    from vaepipe.core import DataSpec, build
    from vaepipe.core.spec import SUPPORTS
    from vaepipe.registry import part
    from vaepipe.training import bundle

    network = part("networks", "mlp", {"hidden": [HIDDEN, HIDDEN]})
    parts = {
        "encoder": network,
        "family": part("families", "diagonal_normal"),
        "prior": part("priors", "standard_normal"),
        "decoder": network,
        "likelihood": part("likelihoods", "continuous_bernoulli"),
    }
    data = DataSpec(SHAPE, SUPPORTS["unit_interval"], 60_000)
    torch.manual_seed(0)
    model = build((LATENT,), data, **parts)
    card = {
        "name": "benchmark",
        "fingerprint": "0" * 64,
        "seed": 0,
        "epoch": 0,
        "data_digest": "0" * 64,
        "model": {"latent_shape": [LATENT], **{k: v.to_dict() for k, v in parts.items()}},
        "data": data.to_dict(),
        "dataset": part("datasets", "mnist", {"binarize": "none"}).to_dict(),
        "objective": part("objectives", "elbo").to_dict(),
    }
    bundle.save(folder, model, card, torch.rand(4, *SHAPE))


def make_input(folder: Path, rows: int) -> None:
    """MNIST's training images, each time shifted by up to two pixels in both directions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vaepipe.data import schema
    from vaepipe.datasets.mnist import MNIST

    source = MNIST(binarize="none")
    source.prepare()
    stored = [b.column("x") for b in source.examples("train")]
    images = np.concatenate([schema.from_vectors(x, (28, 28)) for x in stored])
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, rows, ROWS_PER_INPUT)):
        ids = np.arange(start, min(rows, start + ROWS_PER_INPUT))
        x = images[ids % len(images)]
        down, right = rng.integers(-2, 3, 2)
        x = np.roll(x, (down, right), (1, 2)).reshape(len(x), -1)
        table = pa.table({"id": ids, "x": schema.to_vectors(x)})
        pq.write_table(
            table,
            folder / f"in-{number:04d}.parquet",
            row_group_size=ROWS_PER_GROUP,
            compression="zstd",
            use_dictionary=False,
        )


def by_hand(model: Path, data: Path, output: Path) -> dict[str, float]:
    """One loop, one process: iter_batches, inference_mode, ParquetWriter."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from vaepipe.data import schema

    torch.set_num_threads(1)
    net = _network(model)
    begin, used, rows, writer = time.perf_counter(), time.process_time(), 0, None
    with torch.inference_mode():
        for path in sorted(data.glob("*.parquet")):
            for batch in pq.ParquetFile(path).iter_batches(BATCH, use_threads=False):
                table = pa.table(_columns(net, batch, schema))
                if rows % ROWS_PER_FILE < BATCH or writer is None:
                    if writer:
                        writer.close()
                    options = schema.write_options(table.schema)
                    writer = pq.ParquetWriter(output / f"{rows}.parquet", table.schema, **options)
                writer.write_table(table)
                rows += len(table)
    if writer:
        writer.close()
    used = time.process_time() - used
    return {"rows": rows, "seconds": time.perf_counter() - begin, "cpu": used}


def _columns(net: Any, batch: Any, schema: Any) -> dict[str, Any]:
    """id, mean, scale and rate of a batch, as one would write them in a script."""
    import pyarrow as pa
    import torch

    stored = batch.column("x").flatten().to_numpy().reshape(batch.num_rows, -1)
    mean, raw = net(torch.from_numpy(stored).float() / 255).chunk(2, -1)
    scale = torch.nn.functional.softplus(raw)
    rate = 0.5 * (scale.square() + mean.square() - 1 - 2 * scale.log()).sum(-1)
    return {
        "id": batch.column("id"),
        "mean": schema.to_vectors(mean.numpy()),
        "scale": schema.to_vectors(scale.numpy()),
        "rate": pa.array(rate.numpy()),
    }


def _network(model: Path) -> Any:
    """The encoder as a plain torch module."""
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(784, HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN, HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN, 2 * LATENT),
    )


def ray_data(model: Path, data: Path, output: Path, workers: int) -> dict[str, float]:
    """read_parquet, map_batches, write_parquet."""
    import pyarrow as pa
    import ray

    ray.init(num_cpus=workers + 1, include_dashboard=False, log_to_driver=False)

    class Encode:
        def __init__(self) -> None:
            import torch

            torch.set_num_threads(1)
            self.net = _network(model)

        def __call__(self, table: pa.Table) -> pa.Table:
            import torch

            from vaepipe.data import schema

            with torch.inference_mode():
                made = [pa.table(_columns(self.net, b, schema)) for b in table.to_batches()]
            return pa.concat_tables(made)

    begin = time.perf_counter()
    found = ray.data.read_parquet(str(data)).map_batches(
        Encode, batch_size=8192, batch_format="pyarrow", concurrency=workers, zero_copy_batch=True
    )
    found.write_parquet(str(output), compression="zstd")
    seconds = time.perf_counter() - begin
    return {"rows": ray.data.read_parquet(str(output)).count(), "seconds": seconds}


class Timed:
    """A compute that remembers when the first unit began and the last one ended."""

    def __init__(self, compute: Any) -> None:
        self.compute, self.begin, self.end = compute, float("inf"), 0.0
        self.seconds: dict[str, float] = {}
        self.peak = 0.0

    def map(self, *args: Any) -> Iterator[dict[str, Any]]:
        """The results as they come."""
        for result in self.compute.map(*args):
            self.peak = max(self.peak, result["peak_mb"])
            self.end = time.perf_counter()
            self.begin = min(self.begin, self.end - result["seconds"]["wall"])
            for name, value in result["seconds"].items():
                self.seconds[name] = self.seconds.get(name, 0.0) + value
            yield result


def ours(model: Path, data: Path, output: Path, workers: int) -> dict[str, Any]:
    """`vaepipe encode`, with its plan, records, digests and manifest."""
    from vaepipe import registry
    from vaepipe.pipeline import inputs
    from vaepipe.pipeline.stages import encode
    from vaepipe.training import bundle

    loaded = bundle.load(model)
    kind = "ray" if workers > 0 else "local"
    compute = Timed(registry.part("computes", kind, {"workers": max(1, workers)}).build())
    begin = time.perf_counter()
    job = encode.Encoding(
        model=model,
        model_uri=model.as_uri(),
        data=inputs.of_path(str(data), loaded, None, "x", "id"),
        keep=None,
        columns=encode.Columns(),
        seed=0,
        batch_size=BATCH,
        rows_per_file=ROWS_PER_FILE,
        output=output,
    )
    used = time.process_time()
    manifest = encode.encode(job, compute)
    used, wall = time.process_time() - used, time.perf_counter() - begin
    compute.compute.close()
    return {
        "rows": manifest["rows"],
        "seconds": compute.end - compute.begin,
        "wall": wall,
        "cpu": used,
        "worker_mb": compute.peak,
        "split": {k: round(v, 2) for k, v in compute.seconds.items()},
    }


WAYS = {
    "by hand": by_hand,
    "vaepipe, in process": lambda m, d, o: ours(m, d, o, 0),
    "vaepipe, 1 worker": lambda m, d, o: ours(m, d, o, 1),
    "vaepipe, 2 workers": lambda m, d, o: ours(m, d, o, 2),
    "Ray Data, 1 actor": lambda m, d, o: ray_data(m, d, o, 1),
    "Ray Data, 2 actors": lambda m, d, o: ray_data(m, d, o, 2),
}


def measure(way: str, cores: int, place: Path, data: str = "input") -> dict[str, Any]:
    """One way in a process of its own, on so many cores."""
    output = place / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    command = [sys.executable, __file__, "--way", way, "--place", str(place), "--data", data]
    chosen = ",".join(str(c) for c in sorted(os.sched_getaffinity(0))[:cores])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        ["taskset", "-c", chosen, *command], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def child(way: str, place: Path, data: str) -> None:
    """What the process does; its figures as JSON."""
    from vaepipe.compute.encode import peak_mb

    begin = time.perf_counter()
    found = WAYS[way](place / "model", place / data, place / "output")
    found.setdefault("wall", time.perf_counter() - begin)
    found["peak_mb"] = peak_mb()
    print(json.dumps(found))


def compare(rounds: int, place: Path, ways: list[tuple[str, int]]) -> dict[str, list[float]]:
    """Rows a second of each way, the ways taking turns."""
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        for way, cores in ways:
            name = f"{way}, {cores} core{'s' if cores > 1 else ''}"
            one = measure(way, cores, place)
            found.setdefault(name, []).append(one["rows"] / one["seconds"])
            found.setdefault(f"{name}, wall", []).append(one["rows"] / one["wall"])
            if "cpu" in one:
                found.setdefault(f"{name}, of CPU", []).append(one["rows"] / one["cpu"])
            busy = f"wall {one['wall']:6.1f} s, peak {one['peak_mb']:5.0f} MB"
            print(f"{number} {name:<30} {found[name][-1]:9,.0f} rows/s   {busy}", flush=True)
            if "split" in one:
                print(f"    seconds {one['split']}", flush=True)
    return found


def ratio(found: dict[str, list[float]], one: str, other: str) -> None:
    """The median of the ratios of each round."""
    if one in found and other in found:
        each = [a / b for a, b in zip(found[one], found[other], strict=True)]
        words = f"{statistics.median(each):.2f} ({min(each):.2f} - {max(each):.2f})"
        print(f"{one} / {other}: {words}")


def memory(place: Path, rows: int) -> None:
    """Peaks of the process that drives and of its worker, for a quarter of the rows and for all."""
    for count in (rows // 4, rows):
        name = f"input-{count}"
        if not (place / name).exists():
            make_input(place / name, count)
        for way in ("vaepipe, in process", "vaepipe, 2 workers"):
            one = measure(way, 2, place, name)
            peaks = f"driver {one['peak_mb']:.0f} MB, worker {one.get('worker_mb', 0):.0f} MB"
            print(f"{count:,} rows, {way}: {peaks}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--place", type=Path, help="Keep model, input and output here.")
    parser.add_argument("--no-ray-data", action="store_true")
    parser.add_argument("--memory", type=int, metavar="ROWS", help="Measure peaks instead.")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--data", default="input", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        child(args.way, args.place, args.data)
        return
    with tempfile.TemporaryDirectory() as folder:
        place = args.place or Path(folder)
        if not (place / "model").exists():
            make_model(place / "model")
        if args.memory:
            memory(place, args.memory)
            return
        if not (place / "input").exists():
            make_input(place / "input", args.rows)
        ways = [("by hand", 1), ("vaepipe, in process", 1), ("vaepipe, in process", 2)]
        ways += [("vaepipe, 1 worker", 1), ("vaepipe, 2 workers", 2)]
        ways += [] if args.no_ray_data else [("Ray Data, 2 actors", 2)]
        found = compare(args.pairs, place, ways)
    ratio(found, "vaepipe, in process, 1 core", "by hand, 1 core")
    ratio(found, "vaepipe, in process, 1 core, of CPU", "by hand, 1 core, of CPU")
    ratio(found, "vaepipe, 2 workers, 2 cores", "vaepipe, 1 worker, 1 core")
    ratio(found, "vaepipe, 2 workers, 2 cores, wall", "Ray Data, 2 actors, 2 cores, wall")


if __name__ == "__main__":
    main()
