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


WAYS = {
    "encoding": ("encode", "--refine", 3, "--with", "elbo,sir:4", "--precision", "bfloat16"),
    "refined": ("evaluate", "--k", 20, "--proposal", "refined", "--refine-steps", 3),
}


@pytest.mark.parametrize("way", WAYS)
def test_workers_agree_on_refined_posteriors_and_proposals(finished, tmp_path, way):
    """One worker is this process, three are a cluster; they share out several units."""
    command, *words = WAYS[way]
    rows = pq.read_table(finished.home / "digits" / "val" / "part-00000.parquet").slice(0, 120)
    pq.write_table(rows, tmp_path / "x.parquet", row_group_size=30)
    source = {"encode": "--input", "evaluate": "--data"}[command], tmp_path / "x.parquet"
    common = ["--model", finished.home / "final", *source, "--id-column", "id", *words]
    if command == "encode":
        common += ["--rows-per-file", 30]
    found = []
    for workers in (1, 3):
        out = tmp_path / str(workers)
        code, _, err = finished.vaepipe(command, *common, "--workers", workers, "--output", out)
        assert code == 0, err
        found.append(encoded(out) if command == "encode" else evaluated(out))
    assert found[0] == found[1]


def encoded(folder):
    """SHA-256 of each part."""
    manifest = json.loads((folder / "_manifest.json").read_text())
    parts = {part["name"]: part["sha256"] for part in manifest["parts"]}
    assert len(parts) == 4
    return parts


def evaluated(folder):
    """The tables."""
    return [
        pq.read_table(folder / f"{name}.parquet")
        for name in ("per_example", "per_dimension", "summary")
    ]
