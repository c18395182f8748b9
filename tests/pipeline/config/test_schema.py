"""The JSON Schema agrees with the reader about what a pipeline file is."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from vaepipe import cli
from vaepipe.pipeline.schema import json_schema

jsonschema = pytest.importorskip("jsonschema")
MALFORMED = Path(__file__).parent / "malformed"


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_example_is_valid(validator, example):
    assert list(validator.iter_errors(yaml.safe_load(example))) == []


def test_the_small_file_is_valid(validator, small):
    assert validator.is_valid(small)


@pytest.mark.parametrize(
    "name",
    ["no_header", "wrong_version", "kinds", "fields_of_fit", "model_types", "unknown_components",
     "options", "parquet", "evaluate_encode", "sweep_fields", "sweep_scheduler", "stage_names"],
)  # fmt: skip
def test_a_malformed_file_is_invalid(validator, name):
    assert not validator.is_valid(yaml.safe_load((MALFORMED / f"{name}.yaml").read_text()))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.prior.componnts", 3),
        ("model.prior.type", "vmap"),
        ("epochs", 0),
        ("epochs", "ten"),
        ("optimizer", {"type": "adm"}),
        ("objective.samples", 0),
        ("setps", 3),
    ],
)
def test_it_sees_what_the_reader_sees(validator, small, path, value):
    changed = copy.deepcopy(small)
    *steps, last = path.split(".")
    node = changed["stages"]["fit"]
    for step in steps:
        node = node[step]
    node[last] = value
    assert not validator.is_valid(changed)


def test_inherited_settings_need_not_be_repeated(validator, small):
    small["stages"]["more"] = {"kind": "train", "settings": "fit", "model": {"latent_shape": [2]}}
    assert validator.is_valid(small)
    del small["stages"]["more"]["settings"]
    assert not validator.is_valid(small)


def test_components_are_described(validator):
    parts = {
        part["properties"]["type"]["const"]: part
        for part in validator.schema["$defs"]["priors"]["oneOf"]
    }
    assert "VampPrior" not in parts
    assert parts["vamp"]["description"]
    assert parts["vamp"]["properties"]["components"]["minimum"] == 1


def test_the_command_prints_it(capsys):
    assert cli.call(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(json_schema()))
