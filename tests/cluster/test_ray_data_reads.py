"""Latents are plain Parquet for Ray Data, which reads vectors as tensors."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "encoding" / "helpers"))

from untrained import Run, images, rows_of, save_model, write

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_ray_data_reads_vectors_and_ids(cluster, tmp_path):
    """Of what the encoder wrote; records and plans beside the parts are passed over."""
    from ray import data

    cluster.resources()  # connects
    run, out = Run(save_model(tmp_path / "m")), tmp_path / "out"
    run(write(tmp_path / "x.parquet", images(200)), out, with_=["sample:1"])
    expected = {row["id"]: row for row in rows_of(out).to_pylist()}
    data.DataContext.get_current().enable_progress_bars = False
    rows = data.read_parquet(str(out)).take_all()
    assert sorted(row["id"] for row in rows) == list(range(200))
    for row in rows:
        for name in ("mean", "scale", "sample_0"):
            assert np.asarray(row[name]).tolist() == expected[row["id"]][name]
