"""The same tables and the same bytes, however many workers made them."""

import json

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_one_two_and_three_workers_agree_to_the_last_bit(finished, tmp_path):
    model, data = finished.home / "final", finished.home / "digits"
    tables, parts = {}, {}
    for workers in (1, 2, 3):
        code, _, err = finished.vaepipe(
            "evaluate",
            "--model",
            model,
            "--data",
            data,
            "--split",
            "train",
            "--split",
            "test",
            "--k",
            30,
            "--workers",
            workers,
            "--output",
            tmp_path / f"scores-{workers}",
        )
        assert code == 0, err
        folder = tmp_path / f"scores-{workers}"
        tables[workers] = [
            pq.read_table(folder / f"{name}.parquet")
            for name in ("per_example", "per_dimension", "summary")
        ]
        code, _, err = finished.vaepipe(
            "encode",
            "--model",
            model,
            "--input",
            data,
            "--rows-per-file",
            300,
            "--workers",
            workers,
            "--with",
            "elbo,sample:1",
            "--output",
            tmp_path / f"codes-{workers}",
        )
        assert code == 0, err
        manifest = json.loads((tmp_path / f"codes-{workers}" / "_manifest.json").read_text())
        parts[workers] = {part["name"]: part["sha256"] for part in manifest["parts"]}
    assert all(a.equals(b) for a, b in zip(tables[1], tables[2], strict=True))
    assert all(a.equals(b) for a, b in zip(tables[1], tables[3], strict=True))
    assert parts[1] == parts[2] == parts[3]
    assert len(parts[1]) > 3
