"""`vaepipe latents verify`, `latents diff`, `lineage`: from latents to what made them and back."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from untrained import Run, images, save_model, vaepipe, write

from vaepipe import files
from vaepipe.compute.encode import RECORDS
from vaepipe.pipeline.stages import parts
from vaepipe.training import bundle


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """Latents, never changed: tests copy them."""
    folder = tmp_path_factory.mktemp("made")
    source = write(folder / "x.parquet", images(200), name=[f"n{i}" for i in range(200)])
    Run(model)(source, folder / "out", with_=["elbo"])
    return folder / "out"


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def rewrite(folder, name, change, *, hide):
    """Change a part; with `hide`, record and manifest are made to agree with it."""
    table = change(pq.read_table(folder / name))
    pq.write_table(table, folder / name)
    if not hide:
        return
    manifest = json.loads((folder / parts.MANIFEST).read_text())
    for part in manifest["parts"]:
        if part["name"] == name:
            part |= {"sha256": files.sha256(folder / name), "rows": table.num_rows}
            files.write_json(folder / RECORDS / f"{name}.json", part)
    files.write_json(folder / parts.MANIFEST, manifest)


def shifted(table):
    """Every mean is a little off."""
    mean = table["mean"].combine_chunks()
    moved = pa.FixedSizeListArray.from_arrays(
        pa.array(mean.flatten().to_numpy() + np.float32(0.01)), type=mean.type
    )
    return table.set_column(table.schema.get_field_index("mean"), table.field("mean"), moved)


def doubled(table):
    """The first row takes the place of the second."""
    return pa.concat_tables([table.slice(0, 1), table.slice(0, 1), table.slice(2)])


def test_latents_as_they_were_written_are_fine(made, capfd):
    code, out, _ = vaepipe(capfd, "latents", "verify", made)
    assert code == 0 and "WRONG" not in out
    assert "200 rows and 0 set aside, of 200 planned" in out and "recomputed" in out


HARM = {
    "bytes": "has other bytes than the manifest says",
    "torn": "has other bytes than the manifest says",
    "hidden late shift": "largest relative difference",
    "hidden label": "largest relative difference inf",
    "missing": "is missing",
    "stranger": "is not in the manifest",
    "hidden shift": "largest relative difference",
    "hidden repetition": "rows repeat an id",
    "hidden loss": "of 200 planned",
}


@pytest.mark.parametrize("harm", HARM)
def test_harm_is_found(copy, capfd, harm):
    name = "part-00000-of-00003.parquet"
    if harm == "bytes":
        rewrite(copy, name, shifted, hide=False)
    elif harm == "torn":
        (copy / name).write_bytes((copy / name).read_bytes()[:500])
    elif harm == "missing":
        (copy / name).unlink()
    elif harm == "stranger":
        shutil.copy(copy / name, copy / "part-00007-of-00003.parquet")
    else:
        change = {
            "hidden shift": shifted,
            "hidden repetition": doubled,
            "hidden late shift": lambda t: pa.concat_tables([t.slice(0, 32), shifted(t.slice(32))]),
            "hidden label": lambda t: t.set_column(
                t.column_names.index("name"), "name", pa.array(["?"] * len(t))
            ),
        }
        rewrite(copy, name, change.get(harm, lambda t: t.slice(1)), hide=True)
        if harm == "hidden loss":
            manifest = json.loads((copy / parts.MANIFEST).read_text())
            files.write_json(copy / parts.MANIFEST, manifest | {"rows": 199})
    code, out, _ = vaepipe(capfd, "latents", "verify", copy, "--json")
    wrong = [each for each in json.loads(out) if not each["ok"]]
    assert code == 1 and any(HARM[harm] in each["detail"] for each in wrong), wrong


def test_a_difference_names_the_versions_that_wrote_it(copy, capfd):
    """Another vaepipe may draw other numbers: that is no damage of the files."""
    rewrite(copy, "part-00000-of-00003.parquet", shifted, hide=True)
    plan = json.loads((copy / parts.PLAN).read_text())
    packages = plan["worker"]["config"]["packages"]
    plan["worker"]["config"]["packages"] = ["gone==1.0", "vaepipe==0.0.1", *packages]
    files.write_json(copy / parts.PLAN, plan)
    code, out, _ = vaepipe(capfd, "latents", "verify", copy)
    assert code == 1
    assert "written with gone==1.0, vaepipe==0.0.1, which may draw other random numbers" in out


def test_another_model_cannot_have_made_them(copy, tmp_path, capfd):
    other = save_model(tmp_path / "other", seed=1)
    code, out, _ = vaepipe(capfd, "latents", "verify", copy, "--model", other)
    assert code == 1 and "is another model" in out


def test_latents_that_are_not_finished_are_told_so(copy, tmp_path, capfd):
    (copy / parts.MANIFEST).unlink()
    code, _, err = vaepipe(capfd, "latents", "verify", copy)
    assert code == 2 and "run the same encode again" in err
    (tmp_path / "empty").mkdir()
    code, _, err = vaepipe(capfd, "latents", "diff", copy, tmp_path / "empty")
    assert code == 2


def test_diff_tells_rows_and_values_apart(made, model, tmp_path, capfd):
    code, out, _ = vaepipe(capfd, "latents", "diff", made, made)
    assert code == 0 and "same rows and values" in out
    x = images(200)
    write(tmp_path / "x.parquet", x[10:], np.arange(10, 200))
    Run(model)(tmp_path / "x.parquet", tmp_path / "out", batch_size=64)
    code, out, _ = vaepipe(capfd, "latents", "diff", made, tmp_path / "out", "--json")
    found = json.loads(out)
    assert code == 1 and not found["same"]
    assert (found["only_in_first"], found["only_in_second"], found["moved"]) == (10, 0, 190)
    assert set(found["columns"]) == {"mean", "scale", "rate"}
    assert found["in_both"] == 190
    assert found["apart"] == dict.fromkeys(("elbo", "name"), "only in the first")
    assert max(found["columns"].values()) < 1e-5
    assert any(line.startswith("batch_size: was 32, is 64") for line in found["settings"])


def test_diff_without_a_row_in_both_compares_nothing_and_says_so(made, model, tmp_path, capfd):
    write(tmp_path / "x.parquet", images(50), np.arange(1000, 1050))
    Run(model)(tmp_path / "x.parquet", tmp_path / "out")
    code, out, _ = vaepipe(capfd, "latents", "diff", made, tmp_path / "out")
    assert code == 1 and "no row is in both: no value was compared" in out
    assert "largest difference" not in out and out.endswith("different\n")


def test_latents_without_files_are_no_traceback(made, copy, capfd):
    """Encoders of before accepted inputs without rows."""
    manifest = json.loads((copy / parts.MANIFEST).read_text())
    for part in manifest["parts"]:
        (copy / part["name"]).unlink()
    files.write_json(copy / parts.MANIFEST, manifest | {"parts": [], "rows": 0})
    plan = json.loads((copy / parts.PLAN).read_text())
    files.write_json(copy / parts.PLAN, plan | {"units": []})
    for pair in ((made, copy), (copy, made), (copy, copy)):
        code, out, err = vaepipe(capfd, "latents", "diff", *pair)
        assert code == 2 and out == ""
        assert f"{copy} has no Parquet files" in err
    code, out, _ = vaepipe(capfd, "latents", "verify", copy)
    assert code == 0 and "nothing was compared" in out and "difference" not in out


def test_diff_of_tables_of_zero_rows_is_never_the_same(copy, capfd):
    for name in [part["name"] for part in json.loads((copy / parts.MANIFEST).read_text())["parts"]]:
        rewrite(copy, name, lambda table: table.slice(0, 0), hide=True)
    code, out, _ = vaepipe(capfd, "latents", "diff", copy, copy)
    assert code == 1 and "no row is in both" in out


def first_value(name, value):
    """The first row has another value."""

    def change(table):
        rest = table.column(name).to_pylist()[1:]
        column = pa.array([value, *rest], table.schema.field(name).type)
        return table.set_column(table.schema.get_field_index(name), name, column)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (first_value("rate", float("nan")), "largest difference inf"),
        (first_value("name", "x"), "differs in 1 rows"),
        (first_value("name", None), "differs in 1 rows"),
        (lambda t: t.drop_columns(["elbo"]), "only in the first"),
        (
            lambda t: t.set_column(
                t.schema.get_field_index("mean"),
                "mean",
                pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(3 * len(t), "f")), 3),
            ),
            "[3] in the second",
        ),
    ],
    ids=["NaN", "text", "null", "column", "shape"],
)
def test_diff_sees_other_values_columns_and_shapes(made, copy, change, words, capfd):
    for part in json.loads((copy / parts.MANIFEST).read_text())["parts"]:
        rewrite(copy, part["name"], change, hide=True)
    code, out, err = vaepipe(capfd, "latents", "diff", made, copy)
    words = words.replace("in 1 rows", "in 3 rows")  # one in each of three parts
    assert code == 1 and words in out, (out, err)


def test_diff_refuses_ids_that_repeat(made, copy, capfd):
    rewrite(copy, "part-00000-of-00003.parquet", doubled, hide=True)
    code, _, err = vaepipe(capfd, "latents", "diff", made, copy)
    assert code == 2 and "1 rows repeat an id" in err and str(copy) in err


def test_lineage_leads_from_a_file_to_the_model_and_back(made, model, tmp_path, capfd):
    digest = bundle.load(model).digest
    shutil.copytree(made, tmp_path / "ws" / "night" / "codes")
    words = ["--workspace", tmp_path / "ws", "--json"]
    for path in (made, made / "part-00001-of-00003.parquet"):
        code, out, err = vaepipe(capfd, "lineage", path, *words)
        assert code == 0, err
        found = json.loads(out)
        assert found["model_digest"] == found["model"]["digest"] == digest
        assert found["input_digest"] and found["config_hash"]
        assert found["model"]["data_digest"] == "d" * 64
        assert any(line.startswith("vaepipe==") for line in found["model"]["requirements"])
        assert found["made_with_this_model"] == [str(tmp_path / "ws" / "night" / "codes")]
    code, out, _ = vaepipe(capfd, "lineage", model, *words)
    assert json.loads(out)["made_with_this_model"] == [str(tmp_path / "ws" / "night" / "codes")]
    code, _, err = vaepipe(capfd, "lineage", tmp_path, *words)
    assert code == 2 and "expected latents" in err


def test_the_way_back_leads_to_outputs_anywhere(made, model, tmp_path, capfd):
    """With `--in`, at any depth; not to latents of other models, nor to manifests of strangers."""
    digest = bundle.load(model).digest
    shutil.copytree(made, tmp_path / "disk" / "a" / "b" / "c" / "codes")
    shutil.copytree(made, tmp_path / "other" / "codes")
    strangers = {
        "scores": json.dumps({"model_digest": digest}).encode(),
        "list": json.dumps([digest]).encode(),
        "theirs": json.dumps({"model_digest": "0" * 64}).encode(),
        "torn": b"{\xff",
    }
    for name, content in strangers.items():
        (tmp_path / "disk" / name).mkdir()
        (tmp_path / "disk" / name / "manifest.json").write_bytes(content)
    words = ["--workspace", tmp_path / "ws", "--json"]
    code, out, err = vaepipe(capfd, "lineage", model, *words)
    assert code == 0 and json.loads(out)["made_with_this_model"] == [], err
    where = ["--in", tmp_path / "disk", "--in", tmp_path / "other"]
    codes = tmp_path / "disk" / "a" / "b" / "c" / "codes"
    all_of_it = [codes, tmp_path / "disk" / "scores", tmp_path / "other" / "codes"]
    for path, expected in ((model, all_of_it), (codes, all_of_it[1:])):
        code, out, err = vaepipe(capfd, "lineage", path, *where, *words)
        assert code == 0, err
        assert json.loads(out)["made_with_this_model"] == list(map(str, expected))
    code, _, err = vaepipe(capfd, "lineage", model, "--in", tmp_path / "nowhere", *words)
    assert code == 2 and "nowhere" in err and "Traceback" not in err


def test_latents_whose_model_is_gone_still_lead_to_each_other(made, tmp_path, capfd):
    for name in ("one", "two"):
        copy = shutil.copytree(made, tmp_path / name)
        manifest = json.loads((copy / parts.MANIFEST).read_text())
        files.write_json(copy / parts.MANIFEST, manifest | {"model": str(tmp_path / "gone")})
    words = ["--in", tmp_path, "--workspace", tmp_path / "ws", "--json"]
    code, out, err = vaepipe(capfd, "lineage", tmp_path / "one", *words)
    assert code == 0 and json.loads(out)["made_with_this_model"] == [str(tmp_path / "two")], err
