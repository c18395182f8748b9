"""A handful of rows goes through every stage: each split has a row, and every row is trained on."""

import json

import numpy as np
import pyarrow.parquet as pq


def test_six_rows_are_fitted_evaluated_encoded_and_reported(place):
    np.save(place.folder / "x.npy", np.random.default_rng(0).normal(size=(6, 3)).astype("f"))
    splits = {"train": 0.9, "val": 0.05, "test": 0.05}
    source = {"type": "npy", "path": str(place.folder / "x.npy"), "support": "real"}
    place.edit(digits=None, tune=None, final=None)
    place.edit(
        rows={"kind": "data", "dataset": {**source, "splits": splits}},
        fit={"data": "rows", "batch_size": 3},
        score={"model": "fit", "data": "rows"},
        codes={"model": "fit", "data": "rows"},
        page={"kind": "report", "of": ["fit", "score", "codes"]},
    )
    code, _, err = place.run("--set", "stages.fit.model.likelihood={type: gaussian}")
    assert code == 0, err
    assert place.manifest("rows")["counts"] == {"train": 4, "val": 1, "test": 1}
    start = json.loads((place.home / "fit" / "journal.jsonl").read_text().splitlines()[0])
    assert start["steps_per_epoch"] == 2
    summary = pq.read_table(place.home / "score" / "summary.parquet").to_pandas()
    one = summary[(summary.metric == "log_evidence") & (summary.split == "val")].iloc[0]
    assert one.n == 1 and np.isnan(one.se)
    codes = pq.read_table(sorted((place.home / "codes").glob("part-*.parquet")))
    assert sorted(codes["id"].to_pylist()) == list(range(6))


def test_two_rows_for_three_splits_are_refused_with_the_number_that_is_needed(place):
    np.save(place.folder / "x.npy", np.ones((2, 3), "f"))
    source = {"type": "npy", "path": str(place.folder / "x.npy"), "support": "boolean"}
    place.edit(digits={"dataset": source})
    code, _, err = place.run("--only", "digits")
    assert code == 2 and "need at least 3" in err and "Traceback" not in err
    assert not (place.home / "digits").exists()
