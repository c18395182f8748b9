"""Every installed component keeps its contract, plugins included, and answers what it is asked.

A question that makes no sense for a component is not asked. Which those are is written down here,
so that a question that is no longer asked does not pass unseen.
"""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from vaepipe import registry
from vaepipe.testing import CONTRACTS, Absent, NotAsked, ask, contract_of, questions
from vaepipe.testing.setting import words

ROOT = Path(__file__).parents[2]
OURS = {"vaepipe", *(path.name for path in (ROOT / "plugins").glob("vaepipe-*"))}
"""Distributions whose components are written down."""

ONLY = {
    ("families", "codes are indices"): "vq",
    ("families", "closed form divergences are the mean of draws"): (
        "bernoulli categorical diagonal_normal full_normal vq"
    ),
    ("priors", "closed form divergences are the mean of draws"): (
        "autoregressive_codes bernoulli categorical ibp learned_normal standard_normal "
        "uniform_codes"
    ),
    ("objectives", "the bound is that of its twin"): "ciwae miwae",
    ("objectives", "the gradient is that of its twin"): "",
}
"""Questions that only these components are asked: a code book, a closed form, a declared twin."""

NEVER = {
    # Draws of masses have no path; relaxed codes and mixtures are not maps of as many numbers.
    ("families", "path and score gradients agree"): "bernoulli categorical vq",
    ("families", "the log determinant is that of the map"): (
        "bernoulli categorical concrete mixture vq"
    ),
    # q(z | x) is a point at a code, without a density of its own.
    ("families", "draws and density are of one distribution"): "vq",
    ("families", "draws follow the density"): "vq",
    ("families", "every parameter is trained"): "vq",
    ("families", "its mass is one"): "vq",
    # Words have no mean.
    ("likelihoods", "its mean is the mean of its draws"): "sequence",
    # A rate far from the capacity costs more than the bound gains: a declared exemption.
    ("objectives", "it learns"): "capacity",
    # There are no defaults to survive JSON; made data need no source.
    ("datasets", "its options are a schema"): "image_folder npy parquet",
    ("datasets", "a missing source is explained"): "bars digits",
}
"""Questions that these components are not asked, and why."""

PUBLISHED = ("emnist", "fashion_mnist", "mnist", "omniglot")
"""Datasets whose rows are asked about only where their files are."""


def installed(group):
    """Names of a group that one distribution claims."""
    return [name for name, points in registry.available(group).items() if len(points) == 1]


def of_a_device(question):
    return "_device_" in question


def silent(group, name):
    """The questions that a component of this repository is not asked, on any machine."""
    never = {q for (g, q), names in NEVER.items() if g == group and name in names.split()}
    others = {q for (g, q), names in ONLY.items() if g == group and name not in names.split()}
    return never | others


INSTALLED = [(group, name) for group in CONTRACTS for name in installed(group)]
EVERY = [(*part, question) for part in INSTALLED for question in questions(CONTRACTS[part[0]])]
ASKED = [each for each in EVERY if torch.cuda.is_available() or not of_a_device(each[2])]


@pytest.mark.parametrize(("group", "name", "question"), ASKED)
def test_contract(group, name, question):
    unasked = put(contract_of(group, name), question)
    if registry.part(group, name).distribution not in OURS:
        return
    expected = words(question) in silent(group, name)
    assert bool(unasked) <= expected, f"no longer asked: {unasked}"
    assert expected <= bool(unasked), "asked now: take it from the lists of this file"


def put(contract, question):
    """Ask; why not, if it makes no sense for the component or is declared as an exemption."""
    try:
        ask(contract, question)
    except Absent as lack:
        # One test says so for each dataset; a device is only asked about where there is one.
        assert contract.part.type in PUBLISHED, lack
    except NotAsked as reason:
        return str(reason) or type(reason).__name__
    return ""


def test_what_is_written_down_exists():
    """Names of components and questions, so that a list does not outlive what it lists."""
    for group, question in (*ONLY, *NEVER):
        assert question in map(words, questions(CONTRACTS[group])), question
        names = (ONLY | NEVER)[group, question].split()
        assert set(names) <= set(registry.available(group)), names
    assert not set(ONLY) & set(NEVER)


def test_questions_of_devices():
    """They are in the list above where there is a GPU."""
    waiting = [each for each in EVERY if of_a_device(each[2])]
    assert {group for group, _, _ in waiting} == set(CONTRACTS) - {"datasets"}
    if not torch.cuda.is_available():
        pytest.skip(f"there is no GPU here for {len(waiting)} questions")


@pytest.mark.parametrize("name", PUBLISHED)
def test_questions_of_published_data(name):
    """With the files in VAEPIPE_DATA all are asked above; without them this says so."""
    try:
        with contract_of("datasets", name).source():
            return
    except Absent as lack:
        root = os.environ.get("VAEPIPE_DATA", "not set")
        pytest.skip(f"VAEPIPE_DATA is {root}, so no question about rows was asked: {lack}")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_with_its_files_a_published_dataset_is_asked_everything(name, tmp_path, monkeypatch):
    """A few images in the format of the publisher."""
    monkeypatch.setenv("VAEPIPE_DATA", str(tmp_path))
    contract, rng = contract_of("datasets", name), np.random.default_rng(0)
    dataset = contract.make()
    dataset.raw.mkdir(parents=True)
    train, test = (rng.integers(0, 256, (n, 28, 28), np.uint8) for n in (25, 5))
    arrays = (train, np.arange(25) % 10, test, np.arange(5))
    for file, array in zip(dataset.files, arrays, strict=True):
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (dataset.raw / file).write_bytes(header + array.astype(np.uint8).tobytes())
    for question in questions(type(contract)):
        ask(contract, question)


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
    ("priors", "bernoulli", {"learned": True}),
    ("priors", "categorical", {"learned": True}),
    ("priors", "vamp", {"components": 1}),
    ("priors", "mixture", {"components": 1}),
    ("networks", "mlp", {"hidden": [], "activation": "tanh"}),
    ("networks", "recurrent", {"levels": 5}),
    ("networks", "mlp", {"hidden": [5, 5, 5], "activation": "gelu"}),
]


@pytest.mark.parametrize(("group", "name", "chosen"), VARIANTS, ids=str)
def test_contract_with_other_options(group, name, chosen):
    contract = contract_of(group, name, **chosen)
    assert unasked(contract) == silent(group, name)


def unasked(contract):
    """Ask everything; the questions that it is not asked, but for those of absent devices."""
    asked = [
        q for q in questions(type(contract)) if (contract.group, contract.part.type, q) in ASKED
    ]
    return {words(question) for question in asked if put(contract, question)}


def test_contract_of_eight_bits_that_depend_on_each_other():
    """Their masses are added up one by one; no KL to them has a closed form."""
    contract = contract_of("priors", "bernoulli", autoregressive=True)
    type(contract).conformance = {"latent_shape": (2, 4), "family": "bernoulli"}
    assert contract.latent_shape == (2, 4)
    exact = "closed form divergences are the mean of draws"
    assert unasked(contract) == {exact} | silent("priors", "bernoulli")


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
