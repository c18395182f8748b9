"""What goes wrong on the way, and that nothing is lost, doubled or mixed by it."""

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from untrained import Run, digests, images, rows_of, save_model, vaepipe, write

from vaepipe import files
from vaepipe.compute.encode import BAD, RECORDS, Encoder, _Sink
from vaepipe.data import schema
from vaepipe.data.overlap import Behind, Clock, ahead
from vaepipe.errors import BundleError, DataError, PartialFailure, StorageError, UserError
from vaepipe.pipeline.stages import encode, parts

X = images(200)


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in" / "x.parquet", X)


def temporaries(folder):
    return list(Path(folder).rglob(f"{files.TEMPORARY}*"))


def python(code, *words):
    """A program in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def spoil(path, row, value=np.nan):
    """The same file with a value that is no number in one row."""
    x = (X / 255).astype(np.float32)
    x[row, 0, 0] = value
    return write(path, x)


def corrupt(path):
    """Flip bytes in the middle of the values; the footer stays whole."""
    data = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(2).column(1)
    start = chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("lost", ["part", "record", "bytes", "manifest", "draft"])
def test_what_is_missing_or_damaged_is_made_again_to_the_same_bytes(run, source, tmp_path, lost):
    out = tmp_path / "out"
    expected = run(source, out)
    name = expected["parts"][1]["name"]
    others = {p: p.stat().st_mtime_ns for p in out.glob("part-*") if p.name != name}
    if lost == "part":
        (out / name).unlink()
    elif lost == "record":
        (out / RECORDS / f"{name}.json").unlink()
    elif lost == "bytes":
        (out / name).write_bytes((out / name).read_bytes()[:-1] + b"x")
    elif lost == "manifest":
        (out / parts.MANIFEST).unlink()
    else:
        (out / f"{files.TEMPORARY}1-{name}").write_text("of a process that was killed")
    assert digests(run(source, out)) == digests(expected)
    assert digests(expected)[name] == files.sha256(out / name)
    assert {p: p.stat().st_mtime_ns for p in others} == others
    assert not temporaries(out)


CHANGES = {
    "model": "model_digest: was",
    "options": "config_hash: was",
    "batch": "batch_size: was 32, is 16",
    "input": "input_digest: was",
    "column": "columns: was",
    "id column": "columns: was",
    "packages": "packages: was",
}


@pytest.mark.parametrize("what", CHANGES)
def test_other_models_options_or_inputs_never_mix(run, tmp_path, monkeypatch, what):
    source, out = tmp_path / "in" / "x.parquet", tmp_path / "out"
    write(source, X, y=schema.to_vectors(X[::-1]), key=pa.array(range(1000, 1200)))
    run = Run(run.model, options={"keep": []})
    run(source, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    options, other = {}, run
    if what == "model":
        other = Run(save_model(tmp_path / "m", seed=1))
    elif what == "options":
        options = {"with_": ["elbo"]}
    elif what == "batch":
        options = {"batch_size": 16}
    elif what == "column":
        other = Run(run.model, column="y", options=run.options)
    elif what == "id column":
        other = Run(run.model, id_column="key", options=run.options)
    elif what == "packages":
        monkeypatch.setattr(encode, "version", lambda name: "9.9")
    else:
        write(source, X[::-1])
    with pytest.raises(UserError, match="holds latents of another model") as refused:
        other(source, out, **options)
    assert CHANGES[what] in str(refused.value)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    with pytest.raises(UserError, match="--fail-if-exists"):
        other(source, out, again="fail", **options)
    fresh = digests(other(source, tmp_path / "fresh", **options))
    assert digests(other(source, out, again="overwrite", **options)) == fresh


def plan_of(out):
    return json.loads((out / parts.PLAN).read_text())


def test_a_part_of_another_plan_is_not_taken(run, source, tmp_path):
    """As a worker leaves it that outlived its driver, when another one had begun anew."""
    ours, theirs = tmp_path / "out", tmp_path / "theirs"
    expected = run(source, ours, seed=2, with_=["sample:1"])
    run(source, theirs, seed=1, with_=["sample:1"])
    for name in ("part-00001-of-00003.parquet", f"{RECORDS}/part-00001-of-00003.parquet.json"):
        shutil.copy(theirs / name, ours / name)
    assert digests(run(source, ours, seed=2, with_=["sample:1"])) == digests(expected)


def test_a_worker_whose_model_was_replaced_does_not_begin(run, source, tmp_path):
    run(source, tmp_path / "out")
    other = save_model(tmp_path / "m", seed=1)
    with pytest.raises(BundleError, match="it was replaced since"):
        Encoder(plan_of(tmp_path / "out")["worker"] | {"model": str(other)})


def test_what_is_refused_leaves_the_latents_that_were_there(run, source, tmp_path):
    run(source, tmp_path / "out")
    with pytest.raises(UserError, match="no such column"):
        run(source, tmp_path / "out", again="overwrite", keep=["lable"])
    assert len(rows_of(tmp_path / "out")) == 200


def test_an_output_inside_the_input_is_refused(run, source):
    with pytest.raises(UserError, match="is inside the input"):
        run(source.parent, source.parent / "latents")


def test_a_file_that_gives_other_rows_than_planned_is_told(run, source, tmp_path, monkeypatch):
    batches = Encoder._batches
    monkeypatch.setattr(
        Encoder, "_batches", lambda self, unit: itertools.islice(batches(self, unit), 1)
    )
    with pytest.raises(DataError, match="gave 32 rows, planned were 80"):
        run(source, tmp_path / "out")
    assert not list((tmp_path / "out").glob("part-*/*.json"))


def test_no_manifest_stays_beside_a_part_that_is_missing(run, tmp_path):
    source, out = write(tmp_path / "in" / "x.parquet", X), tmp_path / "out"
    name = run(source, out, on_bad_row="quarantine")["parts"][1]["name"]
    (out / name).unlink()
    corrupt(source)
    with pytest.raises(PartialFailure):
        run(source, out, on_bad_row="quarantine")
    assert not (out / parts.MANIFEST).exists()


@pytest.mark.parametrize("name", [parts.PLAN, f"{RECORDS}/part-00001-of-00003.parquet.json"])
def test_a_damaged_note_is_told_or_made_again(run, source, tmp_path, name):
    out = tmp_path / "out"
    expected = run(source, out)
    (out / name).write_text("")
    if name == parts.PLAN:
        with pytest.raises(UserError, match="is damaged"):
            run(source, out)
    again = "overwrite" if name == parts.PLAN else "resume"
    assert digests(run(source, out, again=again)) == digests(expected)


def test_rows_that_grow_are_written_when_many_bytes_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("vaepipe.compute.encode.GROUP_BYTES", 2**16)
    with _Sink(tmp_path / "x.parquet") as sink:
        for size in (0, 10_000, 10_000, 10_000):
            sink.put(pa.table({"id": range(4), "text": ["x" * size] * 4}))
            assert sum(table.nbytes for table in sink._held) < 2**16
    meta = pq.read_metadata(tmp_path / "x.parquet")
    assert meta.num_rows == 16 and meta.num_row_groups == 2


def test_one_encoder_at_a_time(model, run, source, tmp_path, capfd):
    out = tmp_path / "out"
    out.mkdir()
    words = ["encode", "--model", model, "--input", source, "--output", out]
    with parts.alone(out):
        code, _, err = vaepipe(capfd, *words)
    assert code == 2 and "another encoder is at work" in err
    assert vaepipe(capfd, *words)[0] == 0


def test_folders_that_are_not_ours_and_other_places_are_refused(model, source, tmp_path, capfd):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    words = ["--model", model, "--input", source, "--output", tmp_path / "mine"]
    code, _, err = vaepipe(capfd, "encode", *words)
    assert code == 2 and "not empty" in err


@pytest.mark.parametrize(
    ("place", "advice"),
    [
        ("s3://bucket/out", "Copy it from there"),
        ("gs://bucket/out", "Copy it from there"),
        ("az://account/out", "Copy it from there"),
        ("file:///somewhere/out", "Leave `file://` away"),
    ],
)
@pytest.mark.parametrize("command", ["encode", "evaluate", "report"])
def test_a_uri_is_no_output(model, source, tmp_path, monkeypatch, capfd, command, place, advice):
    """One line: what was refused, why, and what to do; and no folder of that name."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    words = {
        "encode": ["--model", model, "--input", source],
        "evaluate": ["--model", model, "--data", source],
        "report": [model],
    }[command]
    code, out, err = vaepipe(capfd, command, *words, "--output", place)
    assert code == 2 and not out and len(err.splitlines()) == 1, err
    for said in (place, "shared file system", "for renames to be whole", advice):
        assert said in err
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf, 7.0])
def test_a_bad_row_ends_the_work_and_is_named(run, tmp_path, value):
    path = spoil(tmp_path / "x.parquet", 123, value)
    with pytest.raises(DataError, match="row 123: a value"):
        run(path, tmp_path / "out")
    assert not (tmp_path / "out" / parts.MANIFEST).exists()
    assert not temporaries(tmp_path / "out")


def test_bad_rows_are_set_aside_and_the_others_are_as_ever(run, tmp_path):
    clean = run(spoil(tmp_path / "clean.parquet", 0, 0.5), tmp_path / "clean")
    assert clean["bad_rows"] == 0
    path = spoil(tmp_path / "x.parquet", 123)
    manifest = run(path, tmp_path / "out", on_bad_row="quarantine")
    assert (manifest["rows"], manifest["bad_rows"]) == (199, 1)
    found, expected = rows_of(tmp_path / "out"), rows_of(tmp_path / "clean")
    assert found["id"].to_pylist() == [i for i in range(200) if i != 123]
    same = expected.filter(pa.compute.not_equal(expected["id"], 123))
    a, b = (np.array(t["mean"].to_pylist())[1:] for t in (found, same))
    assert np.abs(a - b).max() < 1e-5
    bad = pq.read_table(tmp_path / "out" / BAD)
    assert bad["row"].to_pylist() == [123] and "finite" in bad["reason"][0].as_py()
    assert bad["file"].to_pylist() == [str(path)]


def test_a_run_that_met_a_bad_row_goes_on_when_it_may_set_it_aside(run, tmp_path):
    path = spoil(tmp_path / "x.parquet", 123)
    with pytest.raises(DataError):
        run(path, tmp_path / "out")
    manifest = run(path, tmp_path / "out", on_bad_row="quarantine")
    fresh = run(path, tmp_path / "fresh", on_bad_row="quarantine")
    assert digests(manifest) == digests(fresh)
    with pytest.raises(DataError, match="1 bad rows were set aside"):
        run(path, tmp_path / "out")


def test_more_bad_rows_than_allowed_end_the_work(run, tmp_path):
    path = spoil(tmp_path / "x.parquet", slice(0, 3))
    options = {"on_bad_row": "quarantine"}
    with pytest.raises(DataError, match="3 bad rows, and --max-bad-rows is 2"):
        run(path, tmp_path / "out", max_bad_rows=2, **options)
    assert run(path, tmp_path / "out", max_bad_rows=3, **options)["bad_rows"] == 3


def test_a_unit_of_bad_rows_only_is_an_empty_part(run, tmp_path):
    path = spoil(tmp_path / "x.parquet", slice(0, 120))
    manifest = run(path, tmp_path / "out", on_bad_row="quarantine", rows_per_file=40)
    assert [part["rows"] for part in manifest["parts"]] == [0, 0, 0, 40, 40]
    assert rows_of(tmp_path / "out")["id"].to_pylist() == list(range(120, 200))


def test_rows_that_are_no_examples_have_their_reasons(run, tmp_path):
    rows = [[0] * 12, None, [0] * 11, [0] * 11 + [None]]
    table = pa.table({"id": [5, 6, 7, 8], "x": pa.array(rows, pa.list_(pa.uint8()))})
    pq.write_table(table, tmp_path / "x.parquet")
    run(tmp_path / "x.parquet", tmp_path / "out", on_bad_row="quarantine")
    bad = pq.read_table(tmp_path / "out" / BAD).to_pydict()
    assert bad["row"] == [1, 2, 3]
    assert bad["reason"] == ["null", "expected 12 values, got 11", "null among its values"]


def test_a_corrupt_file_is_told_with_its_rows(run, source, tmp_path):
    corrupt(source)
    with pytest.raises(DataError, match=r"x\.parquet: rows from 80 cannot be read"):
        run(source, tmp_path / "out")
    assert not temporaries(tmp_path / "out")


def test_other_files_are_done_where_bad_rows_are_set_aside(run, source, tmp_path):
    """Exit code 3: finished, but some shards failed; mended, the run goes on."""
    good = write(tmp_path / "in" / "y.parquet", X, np.arange(200, 400))
    whole, out = source.read_bytes(), tmp_path / "out"
    stamp = source.stat().st_mtime_ns
    corrupt(source)
    with pytest.raises(
        PartialFailure, match=r"1 of 6 shards failed; first: .*x\.parquet"
    ) as failed:
        run(good.parent, out, on_bad_row="quarantine", rows_per_file=80)
    assert failed.value.exit_code == 3
    assert not (out / parts.MANIFEST).exists() and len(list(out.glob("part-*"))) == 5
    source.write_bytes(whole)
    os.utime(source, ns=(stamp, stamp))
    options = {"on_bad_row": "quarantine", "rows_per_file": 80}
    assert digests(run(good.parent, out, **options)) == digests(
        run(good.parent, tmp_path / "fresh", **options)
    )


def test_an_input_that_changes_midway_is_noticed(run, source, tmp_path, monkeypatch):
    """Somebody writes to the file when the first part is done."""
    put = _Sink.put

    def and_touch(sink, table):
        put(sink, table)
        os.utime(source)

    monkeypatch.setattr(_Sink, "put", and_touch)
    with pytest.raises(DataError, match="changed after the plan was made"):
        run(source, tmp_path / "out")


LIMITED = """
import resource, signal, sys
from vaepipe.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of files are Linux's")
def test_a_disk_that_is_full_is_told_and_leaves_nothing_half_written(model, run, tmp_path):
    """The largest file that the process may write stands for the space that is left."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (4000, 3, 4), dtype=np.uint8)
    source, out = write(tmp_path / "x.parquet", x), tmp_path / "out"
    words = ["encode", "--model", model, "--input", source, "--output", out, "--with", "sample:2"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert not temporaries(out) and not list(out.glob("part-*"))
    assert (
        run(source, out, with_=["sample:2"], batch_size=8192, rows_per_file=65536)["rows"] == 4000
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_small_disk_fills_up_and_the_run_goes_on_when_there_is_room(model, tmp_path, capfd):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        x = np.random.default_rng(0).integers(0, 256, (9000, 3, 4), dtype=np.uint8)
        source = write(tmp_path / "x.parquet", x, group=1000)
        words = ["encode", "--model", model, "--input", source, "--output", disk / "out"]
        words += ["--rows-per-file", 1000, "--with", "sample:1"]
        code, _, err = vaepipe(capfd, *words)
        assert code == 1 and "cannot be written" in err and "No space left" in err
        assert not temporaries(disk / "out")
        bigger = ["mount", "-o", "remount,size=20m", str(disk)]
        subprocess.run(bigger, capture_output=True, check=True)
        assert vaepipe(capfd, *words)[0] == 0
        words[words.index(disk / "out")] = tmp_path / "fresh"
        assert vaepipe(capfd, *words)[0] == 0
        done = [
            json.loads((f / parts.MANIFEST).read_text()) for f in (disk / "out", tmp_path / "fresh")
        ]
        assert digests(done[0]) == digests(done[1])
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_writer_that_fails_ends_the_work_as_a_storage_error(run, source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_Sink, "put", full)
    with pytest.raises(StorageError, match="No space left"):
        run(source, tmp_path / "out")
    assert not temporaries(tmp_path / "out")


def test_reading_ahead_waits_for_who_reads():
    """Back-pressure: never more than a few items are made before they are wanted."""
    made = []

    def items():
        for i in range(50):
            made.append(i)
            yield i

    lead = [len(made) - i for i in ahead(items(), Clock())]
    assert made == list(range(50)) and max(lead) <= 5


def test_writing_behind_keeps_order_and_tells_errors():
    written = []
    with Behind(written.append, Clock()) as behind:
        for i in range(50):
            behind.put(i)
    assert written == list(range(50))
    with pytest.raises(ZeroDivisionError), Behind(lambda i: 1 / i, Clock()) as behind:
        for i in (1, 0, 1, 1, 1, 1, 1):
            behind.put(i)


def test_a_reader_that_is_left_stops_its_thread():
    def items():
        yield from range(10**9)

    source = ahead(items(), Clock())
    assert next(source) == 0
    source.close()


def test_memory_does_not_grow_with_rows(model, tmp_path):
    """What is added to the peak is less than half of what the added rows take."""
    code = (
        "import sys; from vaepipe.cli import call; code = call(sys.argv[1:]); "
        "from vaepipe.compute.encode import peak_mb; print(peak_mb()); sys.exit(code)"
    )
    path, peaks = save_model(tmp_path / "wide", shape=(28, 28)), []
    few, many = 40_000, 240_000
    for rows in (few, many):
        x = np.random.default_rng(0).integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        source = write(tmp_path / f"{rows}.parquet", x, group=5000)
        words = ["encode", "--model", path, "--input", source, "--output", tmp_path / f"o{rows}"]
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(float(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < (many - few) * 784 / 2e6


def test_what_a_killed_writer_left_is_swept_wherever_it_wrote(model, source, tmp_path, capfd):
    """In the folder, beside records, rows set aside and logs; the latents stay as they are."""
    out = tmp_path / "out"
    words = ["--model", model, "--input", source, "--output", out]
    assert vaepipe(capfd, "encode", *words)[0] == 0
    before = digests(json.loads((out / parts.MANIFEST).read_text()))
    for place in (out, out / "_records", out / "_log"):
        (place / f"{files.TEMPORARY}somebody-1-0").write_text("half")
    assert vaepipe(capfd, "encode", *words)[0] == 0
    assert not temporaries(out)
    assert digests(json.loads((out / parts.MANIFEST).read_text())) == before
