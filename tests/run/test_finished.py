"""What a finished pipeline leaves behind: SPEC section 3, column by column."""

import json

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

FLOAT_VECTOR = pa.list_(pa.field("element", pa.float32(), nullable=False), 2)


def table(place, *path):
    return pq.read_table(place.home.joinpath(*path))


def test_every_stage_is_done_and_listed_with_its_artifact(finished):
    stages = finished.stages()
    assert list(stages) != [] and {s["status"] for s in stages.values()} == {"done"}
    assert {"digits", "fit", "tune", "final", "score", "codes", "page", "publish"} == set(stages)
    for name, entry in stages.items():
        assert set(entry) >= {
            "kind",
            "status",
            "fingerprint",
            "artifact",
            "mlflow_run_id",
            "seconds",
        }
        assert entry["artifact"] == (finished.home / name).as_uri()
        assert finished.manifest(name)["fingerprint"] == entry["fingerprint"]


def test_results_go_to_stdout_and_progress_to_stderr(finished):
    assert str(finished.home) in finished.out
    assert "running" in finished.err and "running" not in finished.out
    assert "\x1b" not in finished.err + finished.out


def test_other_libraries_are_not_heard(finished):
    for noise in ("alembic", "INFO", "WARNING", "Warning", "mlflow", "ray"):
        assert noise not in finished.err


def test_per_example_has_every_row_once_and_agrees_with_the_summary(finished):
    rows = table(finished, "score", "per_example.parquet").to_pandas()
    expected = {
        "id",
        "split",
        "label",
        "elbo",
        "log_lik",
        "rate",
        "log_evidence",
        "log_evidence_se",
        "ess",
    }
    assert expected <= set(rows.columns)
    counts = {k: v["rows"] for k, v in finished.manifest("digits")["splits"].items()}
    assert rows.groupby("split").size().to_dict() == {k: counts[k] for k in ("val", "test")}
    assert rows["id"].is_unique
    summary = table(finished, "score", "summary.parquet").to_pandas()
    assert {
        "model",
        "split",
        "metric",
        "value",
        "se",
        "n",
        "unit",
        "direction",
        "estimator",
        "k",
    } <= set(summary.columns)
    for metric in ("elbo", "log_lik", "rate", "log_evidence"):
        for split in ("val", "test"):
            line = summary[(summary.metric == metric) & (summary.split == split)].iloc[0]
            mine = rows[rows.split == split][metric]
            assert abs(line.value - mine.mean()) < 1e-6
            assert abs(line.se - mine.std() / np.sqrt(len(mine))) < 1e-9
    assert np.allclose(rows.elbo, rows.log_lik - rows.rate, atol=1e-5)
    assert rows.log_evidence.mean() >= rows.elbo.mean()
    assert ((rows.ess >= 1 - 1e-9) & (rows.ess <= 20 + 1e-9)).all()


def test_per_dimension_adds_up_to_the_rate(finished):
    dimensions = table(finished, "score", "per_dimension.parquet").to_pandas()
    assert list(dimensions.columns) == ["dim", "rate", "variance_of_means", "active"]
    rows = table(finished, "score", "per_example.parquet").to_pandas()
    assert abs(dimensions.rate.sum() - rows.rate.mean()) < 1e-5
    assert (dimensions.active == (dimensions.variance_of_means > 0.01)).all()


def test_latents_have_every_row_once_in_portable_types(finished):
    folder = finished.home / "codes"
    manifest = json.loads((folder / "_manifest.json").read_text())
    tables = [pq.read_table(folder / part["name"]) for part in manifest["parts"]]
    codes = pa.concat_tables(tables)
    assert sorted(codes["id"].to_pylist()) == list(range(1797))
    for name in ("mean", "scale", "sample_0", "sample_1"):
        assert codes.schema.field(name).type == FLOAT_VECTOR
    assert {"label", "rate", "elbo", "split"} <= set(codes.schema.names)
    metadata = tables[0].schema.metadata
    assert metadata[b"vaepipe.model_digest"].decode() == manifest["model_digest"]
    assert metadata[b"vaepipe.latent_shape"] == b"[2]"
    assert {
        b"vaepipe.version",
        b"vaepipe.model_uri",
        b"vaepipe.config_hash",
        b"vaepipe.input_digest",
    } <= set(metadata)
    assert not list(folder.glob(".tmp-*"))


def test_float_columns_of_latents_are_split_by_byte_without_a_dictionary(finished):
    part = next((finished.home / "codes").glob("part-*.parquet"))
    group = pq.read_metadata(part).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    mean = next(c for name, c in columns.items() if name.startswith("mean"))
    assert mean.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in mean.encodings
    assert not any("DICTIONARY" in encoding for encoding in mean.encodings)


@pytest.mark.parametrize("stage", ["score", "codes"])
def test_other_readers_see_the_same_rows(finished, stage):
    name = "per_example.parquet" if stage == "score" else "part-00000-of-00003.parquet"
    path = str(finished.home / stage / name)
    rows = pq.read_table(path)
    assert polars.read_parquet(path)["id"].to_list() == rows["id"].to_pylist()
    assert pd.read_parquet(path)["id"].tolist() == rows["id"].to_pylist()
    found = duckdb.sql(f"select count(*), sum(id) from '{path}'").fetchall()[0]
    assert found == (rows.num_rows, sum(rows["id"].to_pylist()))


def test_trials_are_a_table_and_the_best_has_the_largest_evidence(finished):
    trials = table(finished, "tune", "trials.parquet").to_pandas()
    assert {
        "trial",
        "status",
        "error",
        "setting.objective",
        "val/log_evidence",
        "epochs",
        "seconds",
        "mlflow_run_id",
        "model",
    } <= set(trials.columns)
    assert json.loads(trials["setting.objective"][1]) == {"type": "iwae", "k": 3}
    best = json.loads((finished.home / "tune" / "best.json").read_text())
    assert best["value"] == trials["val/log_evidence"].max()
    assert best["trial"] == trials.trial[trials["val/log_evidence"].idxmax()]


def test_the_final_fit_has_the_winners_settings_and_its_own_epochs(finished):
    best = json.loads((finished.home / "tune" / "best.json").read_text())
    task = json.loads((finished.home / "final" / "task.json").read_text())
    assert task["objective"]["type"] == best["settings"]["objective"]["type"]
    assert task["epochs"] == 3
    history = table(finished, "final", "history.parquet").to_pandas()
    assert history.epoch.tolist() == [1, 2, 3]


def test_no_file_of_a_run_is_a_pickle(finished):
    suspicious = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".bin")
    for path in finished.workspace.rglob("*"):
        if path.is_file():
            assert path.suffix not in suspicious, path
            assert path.read_bytes()[:2] != b"\x80\x05", path


def test_running_again_does_nothing_and_says_so(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.workspace.rglob("*") if p.is_file()}
    code, out, _ = finished.run()
    assert code == 0
    assert "Nothing to do: all 8 stages are done" in out
    after = {p: p.stat().st_mtime_ns for p in finished.workspace.rglob("*") if p.is_file()}
    assert before == after


def test_plan_and_check_show_it_and_write_nothing(finished):
    before = sorted(finished.folder.rglob("*"))
    code, out, _ = finished.vaepipe("plan", finished.file, "--json")
    assert code == 0
    assert {row["status"] for row in json.loads(out)["stages"]} == {"done"}
    code, out, _ = finished.vaepipe("plan", finished.file, "--set", "stages.final.epochs=4")
    assert code == 0
    status = {line.split()[0]: line.split()[2] for line in out.splitlines()[1:]}
    assert status["tune"] == "done" and status["final"] == "to" and status["score"] == "to"
    code, out, _ = finished.vaepipe("check", finished.file)
    assert code == 0 and "parameters" in out
    assert sorted(finished.folder.rglob("*")) == before


def test_runs_lists_it(finished):
    code, out, _ = finished.vaepipe("runs", "--json")
    assert code == 0
    assert set(json.loads(out)["small"]) == set(finished.stages())


def test_mlflow_has_parent_children_datasets_model_and_alias(finished):
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{finished.workspace}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id])
    stages = finished.stages()
    children = [
        r for r in runs if r.data.tags.get("mlflow.parentRunId") == stages["tune"]["mlflow_run_id"]
    ]
    assert len(children) == 2
    for child in children:
        assert child.info.status == "FINISHED"
        contexts = {t.value for d in child.inputs.dataset_inputs for t in d.tags}
        assert contexts == {"training", "validation"}
        assert "val/log_evidence" in child.data.metrics
        assert child.data.params["objective.type"] in ("elbo", "iwae")
    version = client.get_model_version_by_alias("small-vae", "challenger")
    assert version.version == "1" or version.version == 1
    history = client.get_metric_history(stages["final"]["mlflow_run_id"], "val/log_evidence")
    assert [m.step for m in history] == [12, 24, 36, 36]
    assert history[-1].value == finished.manifest("final")["metrics"]["val/log_evidence"]
    model = client.search_logged_models([experiment.experiment_id])[0]
    assert model.metrics


def test_a_registered_model_encodes_and_evaluates_from_the_command_line(finished, tmp_path):
    out_dir = tmp_path / "codes"
    code, out, err = finished.vaepipe(
        "encode",
        "--model",
        "models:/small-vae@challenger",
        "--input",
        finished.home / "digits",
        "--output",
        out_dir,
        "--with",
        "elbo,sample:2",
        "--json",
    )
    assert code == 0, err
    assert json.loads(out)["rows"] == 1797
    mine = pq.read_table(next(out_dir.glob("part-00000*.parquet")))
    theirs = pq.read_table(next((finished.home / "codes").glob("part-00000*.parquet")))
    assert mine["mean"].equals(theirs["mean"])
    code, out, err = finished.vaepipe(
        "evaluate",
        "--model",
        finished.home / "final",
        "--data",
        finished.home / "digits",
        "--split",
        "test",
        "--k",
        20,
        "--output",
        tmp_path / "scores",
        "--json",
    )
    assert code == 0, err
    known = finished.manifest("score")["metrics"]["test/rate"]
    assert abs(json.loads(out)["metrics"]["test/rate"] - known) < 1e-9


def test_a_plain_parquet_file_is_encoded_by_row_number(finished, tmp_path):
    source = pq.read_table(finished.home / "digits" / "test" / "part-00000.parquet")
    plain = pa.table({"pixels": source["x"].cast(pa.list_(pa.uint8())), "name": source["label"]})
    pq.write_table(plain, tmp_path / "in.parquet", row_group_size=50)
    code, _, err = finished.vaepipe(
        "encode",
        "--model",
        finished.home / "final",
        "--input",
        tmp_path / "in.parquet",
        "--column",
        "pixels",
        "--output",
        tmp_path / "out",
        "--rows-per-file",
        100,
    )
    assert code == 0, err
    parts = sorted((tmp_path / "out").glob("part-*.parquet"))
    codes = pa.concat_tables([pq.read_table(p) for p in parts])
    assert len(parts) == 2
    assert codes["id"].to_pylist() == list(range(len(plain)))
    assert codes["name"].equals(plain["name"])


def test_samples_are_a_picture_or_a_table(finished, tmp_path):
    for name in ("sheet.png", "rows.parquet"):
        code, _, err = finished.vaepipe(
            "sample", "--model", finished.home / "final", "-n", 9, "--output", tmp_path / name
        )
        assert code == 0, err
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    rows = pq.read_table(tmp_path / "rows.parquet")
    assert rows.num_rows == 9
    assert set(np.unique(np.array(rows["x"].to_pylist()))) <= {0.0, 1.0}


def test_what_a_run_read_is_encoded_and_latents_lead_back_to_their_run(finished, tmp_path):
    """`--input runs:/ID/NAME` is a dataset that MLflow remembers; lineage names the model's run."""
    stages, out = finished.stages(), tmp_path / "codes"
    source = f"runs:/{stages['codes']['mlflow_run_id']}/digits/test"
    model = "models:/small-vae@challenger"
    words = ["--model", model, "--input", source, "--output", out]
    code, _, err = finished.vaepipe("encode", *words)
    assert code == 0, err
    mine = pq.read_table(next(out.glob("part-*.parquet")))
    theirs = pq.read_table(sorted((finished.home / "codes").glob("part-*.parquet")))
    theirs = theirs.filter(pa.compute.equal(theirs["split"], "test"))
    assert mine["id"].equals(theirs["id"]) and mine["mean"].equals(theirs["mean"])
    code, told, err = finished.vaepipe("lineage", out, "--json")
    assert code == 0, err
    found = json.loads(told)
    assert found["model_uri"] == "models:/small-vae/1"
    assert found["mlflow_run_id"] == stages["final"]["mlflow_run_id"]
    assert str(finished.home / "codes") in found["made_with_this_model"]
    for name in ("models:/small-vae/1", model):
        code, told, err = finished.vaepipe("lineage", name, "--in", tmp_path, "--json")
        assert code == 0, err
        assert {str(out), str(finished.home / "codes")} < set(
            json.loads(told)["made_with_this_model"]
        )
    code, _, err = finished.vaepipe("encode", *words[:3], "runs:/0123456789", *words[4:])
    assert code == 2 and "no run '0123456789'" in err
