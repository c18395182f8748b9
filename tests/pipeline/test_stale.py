"""Files that change after a data stage has read them: no run is silent about it."""

import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from vaepipe import cli
from vaepipe.data import schema
from vaepipe.pipeline import start

RNG = np.random.default_rng(0)


def array(folder, seed):
    np.save(folder / "x.npy", np.random.default_rng(seed).normal(size=(20 + seed, 2)))
    return {"type": "npy", "path": str(folder), "support": "real"}


def labels(folder, seed):
    if not (folder / "x.npy").exists():
        array(folder, 0)
    np.save(folder.parent / "y.npy", np.arange(20) + seed)
    more = {"label_path": str(folder.parent / "y.npy")}
    return {"type": "npy", "path": str(folder / "x.npy"), "support": "real", **more}


def table(folder, seed):
    """One more file."""
    x = schema.to_vectors(RNG.normal(size=(20, 2)))
    pq.write_table(pa.table({"x": x}), folder / f"{seed}.parquet")
    return {"type": "parquet", "path": f"{folder}/*.parquet", "support": "real"}


def picture(folder, seed):
    for n in range(10):
        x = np.random.default_rng(seed).integers(0, 256, (4, 4), np.uint8)
        Image.fromarray(x).save(folder / f"{n}.png")
    return {"type": "image_folder", "path": str(folder)}


def text(folder, seed):
    (folder / "x.txt").write_text(f"the cat sat on {seed} mats\n" * 20)
    return {"type": "text", "path": str(folder / "x.txt")}


@pytest.fixture
def begin(tmp_path):
    """Write a source, and run a pipeline that only reads it; how to run it again."""

    def make(write):
        folder = tmp_path / "source"
        folder.mkdir()
        content = {
            "version": 1,
            "name": "p",
            "compute": {"type": "local"},
            "tracking": {"type": "memory"},
            "stages": {"rows": {"kind": "data", "dataset": write(folder, 0)}},
        }
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(content))

    return make


def command(capfd, tmp_path, name="run"):
    words = [name, str(tmp_path / "p.yaml"), "--workspace", str(tmp_path / "ws")]
    capfd.readouterr()
    code = cli.call(words)
    err = capfd.readouterr().err
    assert code == 0, err
    return err


@pytest.mark.parametrize("write", [array, labels, table, picture, text])
def test_a_run_says_that_files_were_written_to_after_they_were_read(begin, write, tmp_path, capfd):
    begin(write)
    assert "written to since" not in command(capfd, tmp_path)
    assert "written to since" not in command(capfd, tmp_path)
    write(tmp_path / "source", 1)
    for name in ("run", "plan"):
        said = command(capfd, tmp_path, name)
        assert "warning: the files that 'rows' read were written to since" in said
        assert f"remove {tmp_path / 'ws' / 'p' / 'rows'}." in said
    shutil.rmtree(tmp_path / "ws" / "p" / "rows")
    assert "warning" not in command(capfd, tmp_path)
    assert "warning" not in command(capfd, tmp_path)


def test_a_source_that_is_gone_is_not_missed(begin, tmp_path, capfd):
    begin(array)
    command(capfd, tmp_path)
    shutil.rmtree(tmp_path / "source")
    assert "warning" not in command(capfd, tmp_path)


def test_stages_that_were_made_from_old_rows_are_named(begin, tmp_path, capfd):
    begin(array)
    content = yaml.safe_load((tmp_path / "p.yaml").read_text())
    part = {"type": "mlp", "hidden": [4]}
    model = {"latent_shape": [1], "encoder": part, "decoder": part}
    model |= {"family": "diagonal_normal", "prior": "standard_normal", "likelihood": "gaussian"}
    model = {k: {"type": v} if isinstance(v, str) else v for k, v in model.items()}
    fit = {"kind": "train", "data": "rows", "model": model, "objective": {"type": "elbo"}}
    content["stages"]["fit"] = {**fit, "batch_size": 8, "epochs": 1}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(content))
    command(capfd, tmp_path)
    os.utime(tmp_path / "source" / "x.npy", ns=(1, 1))
    (said,) = start.prepare(tmp_path / "p.yaml", (), tmp_path / "ws").stale()
    assert said.endswith("rows and the folders of fit.")
