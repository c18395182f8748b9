"""What is written: columns, types, and that every reader of Parquet sees the same."""

import json

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from untrained import Run, images, rows_of, save_model, vaepipe, write

from vaepipe.compute.latents import codes_of
from vaepipe.data import schema
from vaepipe.errors import UserError
from vaepipe.pipeline.stages import encode
from vaepipe.training import bundle

X = images(50)
VECTOR = pa.list_(pa.field("element", pa.float32(), nullable=False), 2)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write(tmp_path_factory.mktemp("in") / "x.parquet", X, name=[f"n{i}" for i in range(50)])


@pytest.fixture(scope="module")
def written(model, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    Run(model)(source, folder, with_=["elbo", "log_lik", "rate", "sample:2", "sir:8"])
    return folder


def test_columns_have_the_types_of_the_contract(written):
    found = rows_of(written)
    names = ["id", "split", "name", "mean", "scale", "rate", "elbo", "log_lik"]
    assert found.column_names == [*names, "sample_0", "sample_1", "sir"]
    for name in ("mean", "scale", "sample_0", "sample_1", "sir"):
        assert found.schema.field(name).type == VECTOR, name
    for name in ("rate", "elbo", "log_lik"):
        assert found.schema.field(name).type == pa.float32(), name
    assert found["name"].to_pylist() == [f"n{i}" for i in range(50)]
    gap = found["elbo"].to_numpy() - (found["log_lik"].to_numpy() - found["rate"].to_numpy())
    assert np.abs(gap).max() < 1e-5


def test_every_reader_sees_the_folder_as_one_table(written):
    """Records, plans and logs do not get in the way."""
    expected = rows_of(written)
    ids, mean = expected["id"].to_pylist(), expected["mean"].to_pylist()
    glob = f"{written}/*.parquet"
    assert pq.read_table(written)["mean"].to_pylist() == mean
    frame = pd.read_parquet(written)
    assert frame["id"].tolist() == ids and np.allclose(np.stack(frame["mean"]), mean)
    table = polars.read_parquet(glob)
    assert table["id"].to_list() == ids and np.allclose(table["mean"].to_list(), mean)
    found = duckdb.sql(f"select id, mean from '{glob}' order by id").fetchall()
    assert [row[0] for row in found] == ids and np.allclose([row[1] for row in found], mean)


def test_metadata_tell_model_input_and_settings(written):
    manifest = json.loads((written / "_manifest.json").read_text())
    metadata = pq.read_schema(written / manifest["parts"][0]["name"]).metadata
    for name in ("version", "model_uri", "model_digest", "config_hash", "input_digest"):
        assert metadata[f"vaepipe.{name}".encode()].decode() == str(manifest[name])
    assert manifest["requirements"] and manifest["rows"] == 50


def test_latents_are_what_the_model_says(written, model):
    loaded = bundle.load(model).model
    q = loaded.inference(torch.from_numpy(X >= 128).float())
    found = rows_of(written)
    for name, value in (("mean", q.mean), ("scale", q.stddev)):
        got = schema.from_vectors(found[name], (2,))
        assert np.abs(got - value.detach().numpy()).max() < 1e-5


def test_refined_posteriors_have_a_better_bound(model, source, tmp_path):
    run = Run(model, options={"with_": ["elbo"]})
    run(source, tmp_path / "plain")
    run(source, tmp_path / "refined", refine=30)
    plain, refined = (rows_of(tmp_path / name) for name in ("plain", "refined"))
    gain = refined["elbo"].to_numpy() - plain["elbo"].to_numpy()
    assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5


def test_resampled_draws_are_more_probable_under_the_model(model, tmp_path):
    """Chosen by weight, z has a larger log p(x, z) - log q(z | x) than any draw of q."""
    x = images(500)
    source = write(tmp_path / "x.parquet", x)
    Run(model)(source, tmp_path / "out", with_=["sir:64", "sample:1"])
    loaded, found = bundle.load(model).model, rows_of(tmp_path / "out")
    bits = torch.from_numpy(x >= 128).float()
    q, p, weights = loaded.inference(bits), loaded.p_z().z, []
    for name in ("sample_0", "sir"):
        z = torch.from_numpy(schema.from_vectors(found[name], (2,)).copy())[None]
        weights.append(loaded.generator(z).log_prob(bits) + p.log_prob(z) - q.log_prob(z))
    better = (weights[1] - weights[0]).detach()
    assert better.mean() > 3 * better.std() / 500**0.5


def test_draws_of_normal_posteriors_are_normal(model, tmp_path):
    """Seeded by ids: over rows and draws, (z - mean) / scale has moments 0, 1, 0, 3."""
    source = write(tmp_path / "x.parquet", images(2000))
    Run(model)(source, tmp_path / "out", with_=["sample:4"])
    found = rows_of(tmp_path / "out")
    mean, scale = (schema.from_vectors(found[name], (2,)) for name in ("mean", "scale"))
    draws = [schema.from_vectors(found[f"sample_{i}"], (2,)) for i in range(4)]
    e = np.concatenate([((z - mean) / scale).ravel() for z in draws]).astype(np.float64)
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((e**power).mean() - expected) < 4 * (variance / len(e)) ** 0.5, power


def test_draws_of_a_row_depend_on_its_id_alone(model, tmp_path):
    order = np.random.default_rng(1).permutation(50)
    write(tmp_path / "a.parquet", X)
    write(tmp_path / "b.parquet", X[order], order)
    run = Run(model, options={"with_": ["sample:1", "sir:4"]})
    tables = []
    for name in ("a", "b"):
        run(tmp_path / f"{name}.parquet", tmp_path / name)
        tables.append(rows_of(tmp_path / name).sort_by("id"))
    for name in ("sample_0", "sir", "mean"):
        a, b = (schema.from_vectors(t[name], (2,)) for t in tables)
        assert np.abs(a - b).max() < 1e-5, name


CODES = {
    "bits": ({"latent": (4,), "family": "bernoulli", "prior": "bernoulli"}, 4, 2),
    "one-hot": ({"latent": (3, 5), "family": "categorical", "prior": "categorical"}, 3, 5),
}


@pytest.mark.parametrize("kind", CODES)
def test_discrete_latents_are_codes(kind, tmp_path, source):
    options, count, values = CODES[kind]
    path = save_model(tmp_path / "m", **options)
    Run(path)(source, tmp_path / "out", with_=["elbo", "sample:1"], keep=[])
    found = rows_of(tmp_path / "out")
    assert "mean" not in found.column_names
    expected = pa.list_(pa.field("element", pa.float32(), nullable=False), count)
    assert found.schema.field("codes").type == expected
    codes = schema.from_vectors(found["codes"], (count,))
    assert set(np.unique(codes)) <= set(range(values))
    q = bundle.load(path).model.inference(torch.from_numpy(X >= 128).float())
    assert np.array_equal(codes, codes_of(q).numpy())


def test_a_sentence_has_one_posterior(tmp_path):
    """Integers of words, read by a recurrent network: mean and scale of the whole."""
    path = save_model(
        tmp_path / "m",
        shape=(6,),
        support="integer",
        levels=9,
        likelihood="categorical",
        encoder=("recurrent", {}),
        dataset=("npy", {"path": "nowhere", "support": "integer", "levels": 9}),
    )
    write(tmp_path / "x.parquet", images(20, shape=(6,)) % 9)
    Run(path)(tmp_path / "x.parquet", tmp_path / "out")
    assert rows_of(tmp_path / "out").schema.field("mean").type == VECTOR


def test_words_that_are_no_columns_are_refused():
    assert encode.columns(["rate", "elbo", "sample:4", "sir:9"], 2) == encode.Columns(
        ["elbo"], 4, 9, 2
    )
    for word in ("ebo", "sample:x", "sir:0"):
        with pytest.raises(UserError, match=r"expected elbo, log_lik, rate, sample:N or sir:K"):
            encode.columns([word])


def test_events_are_json_lines_with_pace_and_shares(model, source, tmp_path, capfd):
    words = ["--model", model, "--input", source, "--rows-per-file", 20, "--batch-size", "auto"]
    code, out, err = vaepipe(capfd, "encode", *words, "--output", tmp_path / "out", "--json")
    assert code == 0, err
    assert json.loads(out)["rows"] == 50
    events = [json.loads(line) for line in err.splitlines()]
    last = [e for e in events if e["event"] == "progress"][-1]
    assert last["done"] == last["total"] == 50
    assert last["rows_per_second"] > 0 and last["mb_per_second"] > 0
    assert set(last["share"]) == {"read", "compute", "write", "idle"}
