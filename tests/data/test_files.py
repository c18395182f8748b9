"""Files and folders that are complete or absent, also after a crash."""

import os

from vaepipe import files


def test_leftovers_of_a_crash_go_and_what_it_had_moved_comes_back(tmp_path):
    (tmp_path / ".tmp-1-checkpoint").mkdir()
    (tmp_path / ".tmp-1-rows.parquet").write_text("half")
    (tmp_path / ".tmp-old-model").mkdir()
    (tmp_path / ".tmp-old-model" / "weights").write_text("kept")
    mine = tmp_path / f".tmp-{files.TOKEN}-{os.getpid()}-state.json"
    mine.write_text("being written")
    files.sweep_temporaries(tmp_path)
    assert (tmp_path / "model" / "weights").read_text() == "kept"
    assert {path.name for path in tmp_path.iterdir()} == {"model", mine.name}


def test_a_folder_that_fails_to_be_written_leaves_the_old_one(tmp_path):
    target = tmp_path / "model"
    with files.whole_folder(target) as draft:
        (draft / "weights").write_text("old")
    try:
        with files.whole_folder(target) as draft:
            (draft / "weights").write_text("new")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert (target / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
