"""Every installed component keeps its contract, plugins included."""

import pytest

from vaepipe import registry
from vaepipe.testing import CONTRACTS, NotAsked, ask, contract_of, questions


def installed(group):
    """Names of a group that one distribution claims."""
    return [name for name, points in registry.available(group).items() if len(points) == 1]


INSTALLED = [(group, name) for group in CONTRACTS for name in installed(group)]
ASKED = [(*part, question) for part in INSTALLED for question in questions(CONTRACTS[part[0]])]


@pytest.mark.parametrize(("group", "name", "question"), ASKED)
def test_contract(group, name, question):
    put(contract_of(group, name), question)


def put(contract, question):
    """Ask; what makes no sense for a component, or is declared as an exemption, is no failure."""
    try:
        ask(contract, question)
    except NotAsked:
        return


def test_a_group_without_a_contract_is_named():
    with pytest.raises(LookupError, match="trackers have no contract"):
        contract_of("trackers", "mlflow")


VARIANTS = [
    ("datasets", "digits", {"binarize": "none"}),
    ("datasets", "digits", {"binarize": "static"}),
    ("datasets", "digits", {"binarize": "threshold"}),
    ("likelihoods", "gaussian", {"scale": 0.3}),
    ("likelihoods", "gaussian", {"scale": "per_dimension"}),
    ("objectives", "elbo", {"samples": 4}),
    ("objectives", "stl", {"samples": 4}),
    ("objectives", "iwae", {"k": 1}),
    ("objectives", "dreg", {"k": 20}),
    ("priors", "vamp", {"components": 1}),
    ("priors", "mixture", {"components": 1}),
    ("networks", "mlp", {"hidden": [], "activation": "tanh"}),
    ("networks", "recurrent", {"levels": 5}),
    ("networks", "mlp", {"hidden": [5, 5, 5], "activation": "gelu"}),
]


@pytest.mark.parametrize(("group", "name", "chosen"), VARIANTS, ids=str)
def test_contract_with_other_options(group, name, chosen):
    contract = contract_of(group, name, **chosen)
    for question in questions(CONTRACTS[group]):
        put(contract, question)


TWINS = [("elbo", "elbo_sampled"), ("stl", "elbo"), ("dreg", "iwae"), ("vimco", "iwae")]


@pytest.mark.parametrize(("one", "other"), TWINS, ids="-".join)
def test_estimators_of_one_bound_agree(one, other):
    """They differ in gradients, not in what they are gradients of."""
    contract = contract_of("objectives", one)
    type(contract).conformance = {"same_bound_as": other}
    ask(contract, "test_the_bound_is_that_of_its_twin")


@pytest.mark.parametrize(("one", "other"), TWINS, ids="-".join)
def test_estimators_of_one_gradient_agree(one, other):
    """In the mean; how much they vary is what they differ in."""
    contract = contract_of("objectives", one)
    type(contract).conformance = {"same_gradient_as": other}
    ask(contract, "test_the_gradient_is_that_of_its_twin")
