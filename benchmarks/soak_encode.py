"""Random kills of drivers and workers while latents are written: nothing lost, doubled, different.

An encoding is killed (SIGKILL) at random moments and started again, until it was killed often
enough and then ends by itself. Its files are compared, by SHA-256, with those of a run that nobody
disturbed. Usage:

    python benchmarks/soak_encode.py [--kills 50] [--workers 2] [--seed 0]

With one worker everything is one process; with more, workers of a Ray cluster of this machine are
killed, and now and then the driver, which takes its cluster along.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROWS, ROWS_PER_FILE, ROWS_PER_GROUP = 6000, 120, 40
SECONDS = 300.0
"""How long one start may take to get to where it is killed."""


def soak(model: Path, source: Path, place: Path, kills: int, workers: int, seed: int) -> Counter:
    """Kill and start again; what happened, and how the result differs from an undisturbed one."""
    whole, torn = model.parent / "undisturbed", place / "killed"
    if not (whole / "_manifest.json").exists():
        _finish(_start(model, source, whole, 1))
    rng, counts = random.Random(seed), Counter()
    while counts["driver"] + counts["worker"] < kills:
        process = _start(model, source, torn, workers)
        counts["starts"] += 1
        _disturb(process, torn, rng, kills, counts, workers)
    _finish(_start(model, source, torn, workers))
    counts.update(compare(whole, torn))
    return counts


def _disturb(
    process: subprocess.Popen[str],
    output: Path,
    rng: random.Random,
    kills: int,
    counts: Counter,
    workers: int,
) -> None:
    """Kill workers of a run, then its driver, unless it ended before."""
    while process.poll() is None and counts["driver"] + counts["worker"] < kills:
        _wait(process, output, rng)
        victims = _workers(process.pid) if workers > 1 and rng.random() < 0.6 else []
        if victims:
            counts["worker"] += _kill(rng.choice(victims))
            continue
        family = [process.pid, *_descendants(process.pid)]
        counts["driver"] += process.poll() is None
        process.kill()
        process.communicate()
        _reap(family[1:])
    if process.poll() is not None:
        if process.returncode == 0:  # all is done: take something away, so that there is work
            for path in sorted(output.glob("part-*"))[:: rng.randrange(2, 5)]:
                path.unlink()
        return
    process.kill()
    family = _descendants(process.pid)
    process.communicate()
    _reap(family)


def compare(whole: Path, torn: Path) -> dict[str, int]:
    """Rows lost and doubled, files that differ, and what is left that should not be."""
    ids = [
        [i for path in sorted(folder.glob("part-*")) for i in pq.read_table(path)["id"].to_pylist()]
        for folder in (whole, torn)
    ]
    digests = [
        {part["name"]: part["sha256"] for part in json.loads(text)["parts"]}
        for text in ((folder / "_manifest.json").read_text() for folder in (whole, torn))
    ]
    temporary = sorted(torn.rglob(".tmp-*"))
    for path in temporary:
        print(f"left behind: {path.relative_to(torn)}", file=sys.stderr)
    return {
        "lost": len(set(ids[0]) - set(ids[1])),
        "doubled": len(ids[1]) - len(set(ids[1])),
        "different": sum(digests[0][n] != digests[1].get(n) for n in digests[0]),
        "temporary": len(temporary),
        "rows": len(ids[1]),
    }


def _start(model: Path, source: Path, output: Path, workers: int) -> subprocess.Popen[str]:
    words = ["--model", model, "--input", source, "--output", output, "--with", "elbo,sample:1"]
    words += ["--rows-per-file", ROWS_PER_FILE, "--batch-size", 16, "--workers", workers]
    command = [sys.executable, "-m", "vaepipe", "encode", *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=SECONDS)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}:\n{said}")


def _wait(process: subprocess.Popen[str], output: Path, rng: random.Random) -> None:
    """Until some more parts are there, or at times only until the folder is taken."""
    wanted = len(list(output.glob("part-*"))) + rng.choice([0, 1, 2, 3, 5])
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        if (output / "_lock").exists() and len(list(output.glob("part-*"))) >= wanted:
            break
        time.sleep(0.005)
    time.sleep(rng.random() * 0.05)


def _workers(driver: int) -> list[int]:
    """Processes of a cluster in which an encoder lives."""
    return [pid for pid in _descendants(driver) if b"_Actor" in _read(pid, "cmdline")]


def _descendants(pid: int) -> list[int]:
    """Children, their children and so on, from /proc."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            status = _read(int(entry.name), "stat").rpartition(b") ")[2].split()
            if status:
                parents.setdefault(int(status[1]), []).append(int(entry.name))
    return list(_below(parents, pid))


def _below(children: dict[int, list[int]], pid: int) -> Iterator[int]:
    for child in children.get(pid, []):
        yield child
        yield from _below(children, child)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _kill(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _reap(pids: list[int]) -> None:
    """A cluster dies with its driver; what is slow to notice is ended, by its id."""
    end = time.monotonic() + 5
    while time.monotonic() < end and any(_read(pid, "cmdline") for pid in pids):
        time.sleep(0.05)
    for pid in pids:
        _kill(pid)


def make(place: Path) -> tuple[Path, Path]:
    """A small model that nobody fitted, and rows for it."""
    import numpy as np
    import pyarrow as pa
    from encode import make_model

    from vaepipe.data import schema

    make_model(place / "model")
    x = np.random.default_rng(0).integers(0, 256, (ROWS, 784), dtype=np.uint8)
    table = pa.table({"id": np.arange(ROWS), "x": schema.to_vectors(x)})
    pq.write_table(table, place / "x.parquet", row_group_size=ROWS_PER_GROUP)
    return place / "model", place / "x.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, source = make(Path(folder))
        found: dict[str, Any] = soak(
            model, source, Path(folder), args.kills, args.workers, args.seed
        )
    print(json.dumps(found))
    harm = [found[name] for name in ("lost", "doubled", "different", "temporary")]
    sys.exit(1 if any(harm) else 0)


if __name__ == "__main__":
    main()
