"""Every mistake of a file is told at once: where it stands, what it is, what would be right."""

import re
from pathlib import Path

import pytest

from vaepipe import cli, registry
from vaepipe.errors import ConfigError
from vaepipe.pipeline import config

FILES = sorted((Path(__file__).parent / "malformed").glob("*.yaml"))
INSTALLED = {group: ", ".join(registry.available(group)) for group in registry.GROUPS}


def expected(file):
    """What `<name>.txt` says, with the names of what is installed filled in."""
    text = file.with_suffix(".txt").read_text()
    for group, names in INSTALLED.items():
        text = text.replace(f"{{{group}}}", names)
    return text.splitlines()


def told(file):
    with pytest.raises(ConfigError) as caught:
        config.read(file)
    return caught.value


def test_there_are_files_enough():
    assert len(FILES) >= 40
    assert sum(len(expected(file)) for file in FILES) >= 150


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_all_mistakes_are_told_at_once(file):
    assert str(told(file)).replace(str(file), file.name).splitlines() == expected(file)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_problem_is_one_line_that_an_editor_can_follow(file):
    error = told(file)
    count = len(file.read_bytes().splitlines())
    for problem in error.problems:
        assert "\n" not in str(problem)
        assert problem.line is None or 1 <= problem.line <= max(1, count)
    lines = [problem.line or 0 for problem in error.problems]
    assert lines == sorted(lines)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_word_of_the_validator_reaches_the_user(file):
    text = str(told(file))
    assert not re.search(r"pydantic|Input should|validation error|Value error|Traceback", text)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_run_exits_2_and_touches_nothing(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.call(["run", str(file), "--workspace", str(tmp_path / "runs")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [line.replace(file.name, str(file), 1) for line in expected(file)]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        config.read(tmp_path / "none.yaml")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.read(tmp_path)


def test_nesting_without_end(tmp_path):
    file = tmp_path / "deep.yaml"
    file.write_text("a: " + "[" * 5000)
    assert str(told(file)) == f"{file}: nested too deeply"
