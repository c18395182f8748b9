"""The recipes in pipelines/: each assembles without its data, and says what it will do."""

import json
from pathlib import Path

import pytest
import yaml

PIPELINES = sorted((Path(__file__).parents[2] / "pipelines").glob("*.yaml"))


def test_every_recipe_parses_assembles_and_rehearses(place):
    code, out, err = place.vaepipe("check", *PIPELINES, "--json", VAEPIPE_DATA=place.folder / "no")
    assert code == 0, err
    found = json.loads(out)
    assert len(found["files"]) == len(PIPELINES) >= 3
    assert found["problems"] == []
    assert not (place.folder / "no").exists()


@pytest.mark.parametrize("file", PIPELINES, ids=lambda path: path.stem)
def test_a_recipe_ends_in_a_report_and_compares_on_evidence(file):
    stages = yaml.safe_load(file.read_text())["stages"].values()
    assert any(stage["kind"] == "report" for stage in stages)
    metrics = {s.get("metric", "val/log_evidence") for s in stages if s["kind"] == "sweep"}
    assert metrics <= {"val/log_evidence"}


def test_the_mnist_sweep_searches_priors_families_objectives_and_rates(place):
    (file,) = (path for path in PIPELINES if path.stem == "mnist_sweep")
    code, out, err = place.vaepipe("plan", file, "--json")
    assert code == 0, err
    stages = {row["stage"]: row for row in json.loads(out)["stages"]}
    assert stages["tune"]["trials"] >= 12
    assert stages["final"]["workers"] == 2
    space = yaml.safe_load(file.read_text())["stages"]["tune"]["space"]
    assert set(space) == {"model.prior", "model.family", "objective", "optimizer.lr"}
