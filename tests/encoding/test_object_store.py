"""Inputs in an object store: a server of the S3 protocol on this machine."""

import io
import json
import logging

import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image
from pyarrow import fs
from untrained import Run, images, rows_of, vaepipe, write

from vaepipe.data import formats, sources
from vaepipe.errors import DataError

X = images(70)
SECRETS = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "hidden-word",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="module")
def store():
    """What follows the path of a URI of the server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        server.start()
        host, port = server.get_host_and_port()
        yield f"?endpoint_override=http://{host}:{port}&scheme=http"
        server.stop()


@pytest.fixture(scope="module")
def bucket(store, tmp_path_factory):
    """A bucket with Parquet files, arrays and images."""
    system, _ = fs.FileSystem.from_uri(f"s3://bucket/{store}&allow_bucket_creation=true")
    system.create_dir("bucket")
    folder = tmp_path_factory.mktemp("local")
    write(folder / "rows" / "a b%+.parquet", X[:30], name=["n"] * 30)
    write(folder / "rows" / "deep" / "b.parquet", X[30:], np.arange(30, 70), name=["m"] * 40)
    (folder / "arrays").mkdir()
    np.save(folder / "arrays" / "x.npy", X)
    for number, row in enumerate(X[:5]):
        path = folder / "images" / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row).save(path)
    fs.copy_files(str(folder), "bucket", destination_filesystem=system)
    return system


@pytest.fixture(scope="module")
def expected(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    Run(model)(write(folder / "x.parquet", X), folder / "out")
    return rows_of(folder / "out")


@pytest.mark.parametrize("name", ["rows", "rows/", "rows/**/*.parquet", "arrays/x.npy", "arrays/"])
def test_a_store_gives_the_latents_of_local_files(run, bucket, store, tmp_path, expected, name):
    run.id_column = None
    run(f"s3://bucket/{name}{store}", tmp_path / "out")
    found = rows_of(tmp_path / "out")
    assert found["mean"].equals(expected["mean"]) and found["id"].equals(expected["id"])


def test_images_of_a_store_keep_their_paths(run, bucket, store, tmp_path, expected):
    run.id_column = None
    run(f"s3://bucket/images/{store}", tmp_path / "out")
    found = rows_of(tmp_path / "out")
    assert found["mean"].equals(expected["mean"].slice(0, 5))
    assert found["path"].to_pylist() == [f"a/{n}.png" for n in range(5)]


def test_the_command_reads_a_store_and_writes_no_secret(
    model, bucket, store, tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'm.db'}")
    code, _, err = vaepipe(
        capfd,
        *("encode", "--model", model, "--input", f"s3://bucket/rows/{store}"),
        *("--output", tmp_path / "out", "--workers", 1),
    )
    assert code == 0, err
    assert len(rows_of(tmp_path / "out")) == 70
    for path in (tmp_path / "out").rglob("*.json"):
        assert "hidden-word" not in path.read_text()


def test_a_store_tells_a_change_within_a_second(bucket, store, tmp_path):
    uri = f"s3://bucket/changing.npy{store}"
    stamps = []
    for x in (X, X[::-1]):
        data = io.BytesIO()
        np.save(data, x)
        with bucket.open_output_stream("bucket/changing.npy") as file:
            file.write(data.getvalue())
        stamps.append(formats.stamp(uri))
    assert stamps[0]["size"] == stamps[1]["size"] and stamps[0]["tag"] != stamps[1]["tag"]
    assert json.loads(json.dumps(stamps)) == stamps


def test_what_a_store_does_not_have_is_told(bucket, store):
    for name in ("nothing", "rows/*.npy"):
        with pytest.raises(DataError, match=r"^s3://bucket/\S+: no Parquet files there"):
            sources.find(f"s3://bucket/{name}{store}")


def test_a_file_of_a_store_that_is_damaged_is_told(bucket, store):
    with bucket.open_output_stream("bucket/damaged.parquet") as file:
        file.write(b"PAR1 and nothing more")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        sources.of_files(f"s3://bucket/damaged.parquet{store}", (3, 4), "x", None)
