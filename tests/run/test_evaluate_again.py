"""An evaluation that was killed between two shards takes up where it was."""

import json
import time

import pyarrow.parquet as pq

TABLES = ("per_example.parquet", "per_dimension.parquet", "summary.parquet")


def identity(path):
    """Who a file is and when it was written; a file that is made again is another one."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def shards(folder):
    """The finished shards, as they are now; they are cleared away when the tables are written."""
    found = {}
    for path in sorted((folder / "parts").glob("[!.]*")):
        try:
            found[path.name] = identity(path)
        except FileNotFoundError:
            continue
    return {name: value for name, value in found.items() if name != "about.json"}


def killed_between_shards(place, folder, least, words):
    """Start the command and kill it when some shards are done and others not: those, their rows."""
    process = place.start(*words)
    deadline = time.monotonic() + 120
    while len(shards(folder)) < least:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    place.kill(process)
    assert not (folder / "manifest.json").exists()
    done = shards(folder)
    tables = [folder / "parts" / name for name in done if name.endswith(".parquet")]
    return done, sum(pq.read_metadata(path).num_rows for path in tables)


def continued(place, folder, done, words):
    """Run the command again; what became of the finished shards while it made others."""
    process, seen = place.start(*words), []
    while process.poll() is None:
        now = shards(folder)
        if set(done) < set(now):
            seen.append({name: now[name] for name in done})
        time.sleep(0.002)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return seen


def sessions(folder):
    """What the evaluation told, each time that it was started."""
    found = []
    for line in (folder / "journal.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "start":
            found.append([])
        found[-1].append(event)
    return found


def kill_and_continue(place, folder, words, *, least, units):
    """Finished shards are left alone: on the disk, and by what the evaluation tells."""
    done, rows = killed_between_shards(place, folder, least, words)
    assert least <= len(done) < units
    seen = continued(place, folder, done, words)
    assert seen and all(each == done for each in seen)
    first, second = sessions(folder)
    assert first[0]["done"] == 0 and second[0]["done"] == rows
    worked = [event for event in second if event["event"] == "progress"]
    assert len(worked) == units - len(done)
    assert worked[-1]["done"] == worked[-1]["total"]
    assert not (folder / "parts").exists() and not list(folder.rglob(".tmp-*"))


def same_tables(one, two):
    for name in TABLES:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_a_killed_evaluation_computes_what_is_missing_and_nothing_else(finished, tmp_path):
    """Of 120 digits in row groups of 12, each a shard."""
    source = pq.read_table(finished.home / "digits" / "train" / "part-00000.parquet")
    pq.write_table(source.slice(0, 120), tmp_path / "some.parquet", row_group_size=12)

    def words(output):
        found = ["evaluate", "--model", finished.home / "final", "--data"]
        found += [tmp_path / "some.parquet", "--k", 8000, "--no-decompose"]
        return [*found, "--output", output]

    out, whole = tmp_path / "out", tmp_path / "whole"
    code, _, err = finished.vaepipe(*words(whole))
    assert code == 0, err
    kill_and_continue(finished, out, words(out), least=3, units=10)
    same_tables(out, whole)
    assert (out / "manifest.json").read_text() == (whole / "manifest.json").read_text()


def test_a_killed_run_continues_its_evaluation(place):
    """Train, val and test, of two, one and one shards, and one more of each as a whole."""
    splits = {"splits": ["train", "val", "test"], "evidence": {"k": 600}}
    place.edit(tune=None, final=None, codes=None, score={"model": "fit", **splits})
    assert place.run()[0] == 0
    score, whole = place.home / "score", place.folder / "whole"
    score.rename(whole)
    kill_and_continue(place, score, ["run", place.file], least=1, units=7)
    same_tables(score, whole)
    assert place.stages()["score"]["status"] == "done"
