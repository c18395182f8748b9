"""Planning an encoding of very many files: how long, how large, how many metadata operations.

Makes small Parquet files (64 rows of 4 bytes in one row group), looks at all of them and writes the
plan. Usage:

    python benchmarks/plan_files.py [--files 100000]
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vaepipe.data import schema, sources
from vaepipe.pipeline.stages import units

FOLDERS = 100


def make(place: Path, files: int) -> None:
    """The same few rows again and again."""
    data = io.BytesIO()
    table = pa.table({"id": np.arange(64), "x": schema.to_vectors(np.zeros((64, 4), np.uint8))})
    pq.write_table(table, data)
    for number in range(files):
        path = place / f"{number % FOLDERS:03d}" / f"{number:07d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "in", args.files)
        seconds = {}
        begin = time.perf_counter()
        source = sources.of_files(str(Path(folder) / "in"), (4,), "x", None)
        seconds["listing"] = time.perf_counter() - begin
        begin = time.perf_counter()
        pieces = source.pieces()
        seconds["footers"] = time.perf_counter() - begin
        begin = time.perf_counter()
        common = {"metadata": {"digest": sources.digest(pieces)}, "config": {}}
        path = Path(folder) / "_plan.json"
        planned, _ = units.plan(path, {"all": pieces}, 65536, common)
        seconds["plan"] = time.perf_counter() - begin
        begin = time.perf_counter()
        units.plan(path, {"all": pieces}, 65536, common)
        seconds["plan read again"] = time.perf_counter() - begin
        found = {
            "files": args.files,
            "units": len(planned),
            "plan_mb": round(path.stat().st_size / 1e6, 1),
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            "total_seconds": round(sum(seconds.values()), 2),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
