"""A sweep that fits the same settings with several seeds."""

import json
import math
from statistics import fmean, stdev

import pyarrow.parquet as pq

from vaepipe.pipeline.report import curves

METRIC = "val/log_evidence"


def test_settings_are_ranked_by_the_mean_over_seeds(place):
    place.edit(tune={"repeats": 3}, final=None, score=None, codes=None)
    code, out, err = place.vaepipe("plan", place.file, "--json")
    assert code == 0, err
    planned = {row["stage"]: row for row in json.loads(out)["stages"]}
    assert planned["tune"]["trials"] == 6
    code, _, err = place.run("--only", "tune")
    assert code == 0, err
    folder = place.home / "tune"
    rows = pq.read_table(folder / "trials.parquet").to_pylist()
    groups = {}
    for row in rows:
        groups.setdefault(row["setting.objective"], []).append(row[METRIC])
    assert [len(values) for values in groups.values()] == [3, 3]
    assert all(len(set(values)) == 3 for values in groups.values())  # seeds of their own
    best = json.loads((folder / "best.json").read_text())
    values = max(groups.values(), key=fmean)
    assert best["mean"] == fmean(values)
    assert best["mean_se"] == stdev(values) / math.sqrt(3)
    assert best["value"] == max(values)
    table = pq.read_table(folder / "trials.parquet").to_pydict()
    board = curves.over_seeds(curves.trials(table), METRIC)
    assert [row.seeds for row in board] == [3, 3]
    assert max(row.metric(METRIC) for row in board) == best["mean"]
    assert all(row.label.endswith("3 seeds") for row in board)
    code, _, err = place.run("--only", "tune")
    assert code == 0, err
    assert pq.read_table(folder / "trials.parquet").to_pylist() == rows
