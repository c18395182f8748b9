"""Every installed component keeps its contract, plugins included."""

import pytest

from vaepipe import options, registry
from vaepipe.testing import CONTRACTS, ask, contract_of, questions

INSTALLED = [(group, name) for group in CONTRACTS for name in registry.available(group)]
ASKED = [(*part, question) for part in INSTALLED for question in questions(CONTRACTS[part[0]])]


@pytest.mark.parametrize(("group", "name", "question"), ASKED)
def test_contract(group, name, question):
    ask(contract_of(group, name), question)


@pytest.mark.parametrize(("group", "name"), INSTALLED)
def test_options_are_a_schema_and_all_have_defaults(group, name):
    schema = options.schema(registry.load(group, name))
    assert schema["type"] == "object"
    assert not schema.get("required")


@pytest.mark.parametrize(("group", "name"), INSTALLED)
def test_a_component_says_what_it_is(group, name):
    assert registry.load(group, name).__doc__.strip()


def test_a_group_without_a_contract_is_named():
    with pytest.raises(LookupError, match="datasets have no contract"):
        contract_of("datasets", "digits")


VARIANTS = [
    ("likelihoods", "gaussian", {"scale": 0.3}),
    ("likelihoods", "gaussian", {"scale": "per_dimension"}),
    ("objectives", "elbo", {"samples": 4}),
    ("objectives", "stl", {"samples": 4}),
    ("objectives", "iwae", {"k": 1}),
    ("objectives", "dreg", {"k": 20}),
    ("priors", "vamp", {"components": 1}),
    ("priors", "mixture", {"components": 1}),
    ("networks", "mlp", {"hidden": [], "activation": "tanh"}),
    ("networks", "mlp", {"hidden": [5, 5, 5], "activation": "gelu"}),
]


@pytest.mark.parametrize(("group", "name", "chosen"), VARIANTS, ids=str)
def test_contract_with_other_options(group, name, chosen):
    contract = contract_of(group, name, **chosen)
    for question in questions(CONTRACTS[group]):
        ask(contract, question)
