"""`vaepipe plugins new` writes packages that keep the contract of their group as they are."""

import doctest
import importlib
import os
import subprocess
import sys

import pytest
import torch

from vaepipe import cli
from vaepipe.cli import plugins_new, plugins_skeletons
from vaepipe.cli.plugins_skeletons import GROUPS
from vaepipe.testing import CONTRACTS, examine


@pytest.fixture
def new(tmp_path, monkeypatch, install):
    """Write a package, install it without pip, and give its folder."""

    def written(group, name):
        assert cli.call(["plugins", "new", group, name, "--into", str(tmp_path)]) == 0
        project = tmp_path / f"vaepipe-{name.replace('_', '-')}"
        for path in install(project, tmp_path / "site"):
            monkeypatch.syspath_prepend(path)
        return project

    return written


def test_there_is_a_skeleton_for_every_group_with_a_contract():
    assert set(GROUPS) == set(CONTRACTS)


@pytest.mark.parametrize("group", GROUPS)
def test_a_new_component_keeps_every_promise(new, group, capsys):
    name = f"brand_new_{group}"
    new(group, name)
    assert cli.call(["plugins", "check", group, name]) == 0
    out, err = capsys.readouterr()
    assert "BROKEN" not in out and "exempt" not in err


@pytest.mark.parametrize("group", GROUPS)
def test_its_examples_run_and_its_own_tests_pass(new, group):
    name = f"fresh_{group}"
    new(group, name)
    module = importlib.import_module(f"vaepipe_{name}")
    torch.set_default_dtype(torch.float32)
    assert doctest.testmod(module).failed == 0
    torch.set_default_dtype(torch.float64)
    tests = importlib.import_module(f"test_{name}")
    (contract,) = [v for k, v in vars(tests).items() if k.startswith("Test")]
    assert contract().component is module.__dict__[contract().component.__name__]


@pytest.mark.slow
def test_a_new_package_is_installed_by_pip_and_tested_by_pytest(tmp_path):
    """As its author would, in processes of their own."""
    assert cli.call(["plugins", "new", "priors", "real_one", "--into", str(tmp_path)]) == 0
    project, site = tmp_path / "vaepipe-real-one", tmp_path / "site"
    pip = "pip install -q --no-deps --no-build-isolation --no-index --disable-pip-version-check"
    command = [sys.executable, "-m", *pip.split(), "--target", str(site), str(project)]
    subprocess.run(command, check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    check = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(project)]
    done = subprocess.run(check, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


MISTAKES = [
    (["priors", "Bad-Name"], "cannot be the name"),
    (["priors", "class"], "cannot be the name"),
    (["priors", "9lives"], "cannot be the name"),
    (["priors", "../up"], "cannot be the name"),
    (["priors", "vamp"], "is there already, in vaepipe"),
    (["prior", "mine"], "Did you mean 'priors'?"),
    (["trackers", "mine"], "no skeleton"),
]


@pytest.mark.parametrize(("words", "told"), MISTAKES, ids=str)
def test_a_mistake_writes_nothing(tmp_path, words, told, capsys):
    assert cli.call(["plugins", "new", *words, "--into", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path, capsys):
    there = tmp_path / "vaepipe-mine"
    there.mkdir()
    (there / "notes.txt").write_text("keep")
    assert cli.call(["plugins", "new", "priors", "mine", "--into", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert [p.name for p in there.iterdir()] == ["notes.txt"]


def test_a_failure_half_way_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(plugins_skeletons, "files", lambda *_: {"a.py": "", "no/folder.py": ""})
    with pytest.raises(FileNotFoundError):
        plugins_new.create("priors", "mine", tmp_path / "vaepipe-mine")
    assert not list(tmp_path.iterdir())


def test_what_is_written_is_listed(tmp_path, capsys):
    assert cli.call(["plugins", "new", "networks", "mine", "--into", str(tmp_path)]) == 0
    listed = capsys.readouterr().out.split()
    assert sorted(listed) == sorted(str(p) for p in (tmp_path / "vaepipe-mine").iterdir())


def test_examine_is_what_the_command_asks(new):
    new("networks", "asked_both_ways")
    asked = [told.question for told in examine("networks", "asked_both_ways", {})]
    assert len(asked) == len(set(asked)) > 10
