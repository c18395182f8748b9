"""A tracking URI means one store, from every process and every working directory."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from vaepipe.errors import Unreachable, UserError
from vaepipe.tracking import address

WORKSPACE = Path("/somewhere/runs")


def test_the_default_is_an_absolute_database_in_the_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert address.choose(None, Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"


def test_the_option_wins_over_the_environment_and_both_over_the_default(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment:5000/")
    assert address.choose(None, WORKSPACE) == "http://environment:5000"
    assert address.choose("https://option", WORKSPACE) == "https://option"


@pytest.mark.parametrize(
    "uri",
    ["./mlruns", "mlruns", "file:///tmp/mlruns", "file:mlruns", "sqlite:///mlflow.db",
     "sqlite://", "sqlite:///:memory:", "/tmp/mlruns"],
)  # fmt: skip
def test_a_uri_that_would_lose_runs_is_refused_and_the_message_says_what_to_write(uri):
    with pytest.raises(UserError, match=r"tracking\.uri .*absolute sqlite:////folder/mlflow\.db"):
        address.choose(uri, WORKSPACE)


def test_a_bad_environment_is_named(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(UserError, match=r"\$MLFLOW_TRACKING_URI is '\./mlruns'"):
        address.choose(None, WORKSPACE)


@pytest.mark.parametrize(
    "uri",
    ["http://h:5000", "https://u:p@h/x", "sqlite:////a/b.db", "postgresql+psycopg2://u@h/db",
     "databricks", "databricks://profile"],
)  # fmt: skip
def test_stores_that_are_the_same_everywhere_are_taken_as_they_are(uri):
    assert address.choose(uri, WORKSPACE) == uri


def test_a_password_is_never_shown():
    uri = "http://me:secret@127.0.0.1:1"
    with pytest.raises(Unreachable, match=r"me:\*\*\*@127.0.0.1:1") as caught:
        address.probe(uri)
    assert "secret" not in str(caught.value)


def test_where_nothing_listens_the_store_is_unreachable():
    with socket.socket() as bound:  # bound, but it does not listen
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="does not answer"):
            address.probe(f"http://127.0.0.1:{bound.getsockname()[1]}")


def test_a_file_that_is_no_database_is_the_users_mistake(tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_text("not a database, but long enough to be looked at")
    with pytest.raises(UserError, match="cannot be opened"):
        address.probe(f"sqlite:///{path}")


def test_a_folder_that_cannot_be_made_is_the_users_mistake(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="out of reach"),
        address.exclusively(f"sqlite:///{tmp_path}/file/mlflow.db"),
    ):
        pass
