"""The kit catches what lies, by the name of the broken promise, and lets honest twins pass."""

import json
import sys
from pathlib import Path

import pytest

from vaepipe import cli, registry
from vaepipe.testing import CONTRACTS, answer, contract_of, examine, questions

PROJECTS = [Path(__file__).parents[1] / "fixture_plugins" / name for name in ("honest", "liars")]

CAUGHT = {
    ("families", "liar_density"): "its mass is one",
    ("families", "liar_log_det"): "the log determinant is that of the map",
    ("families", "liar_kl"): "closed form divergences are the mean of draws",
    ("families", "liar_detached"): "every feature counts",
    ("families", "liar_unused"): "every parameter is trained",
    ("families", "liar_sampler"): "draws follow the density",
    ("families", "liar_promise"): "draws carry gradients exactly if promised",
    ("priors", "liar_unnormalised"): "its mass is one",
    ("priors", "liar_wide_draws"): "draws follow the density",
    ("priors", "liar_masses"): "its mass is one",
    ("priors", "liar_idle"): "every parameter is trained",
    ("likelihoods", "liar_constant"): "its mass is one",
    ("likelihoods", "liar_mean"): "its mass is one",
    ("likelihoods", "liar_grey"): "values outside its support are refused",
    ("likelihoods", "liar_batch"): "it is in nats per example",
    ("objectives", "liar_surrogate"): "the bound is below the evidence",
    ("objectives", "liar_global"): "global terms are divided by the size of the data",
    ("objectives", "liar_sign"): "it learns",
    ("objectives", "liar_beta"): "the bound does not know where training stands",
    ("objectives", "liar_encoder"): "every phase reaches the parts that it updates",
    ("objectives", "liar_twin"): "the bound is that of its twin",
    ("objectives", "liar_landing"): "the gradient is that of its twin",
    ("networks", "liar_batch_norm"): "examples do not see each other",
    ("networks", "liar_dropout"): "evaluation is not random",
    ("datasets", "liar_ids"): "ids are unique",
    ("datasets", "liar_splits"): "splits are disjoint",
    ("datasets", "liar_support"): "values lie in the declared support",
    ("datasets", "liar_noise"): "its only noise is what it is given",
    ("datasets", "liar_order"): "reading twice gives the same rows",
}
HONEST = [
    ("families", "honest_family"),
    ("priors", "honest_prior"),
    ("likelihoods", "honest_likelihood"),
    ("objectives", "honest_objective"),
    ("networks", "honest_network"),
    ("datasets", "honest_dataset"),
]


@pytest.fixture(scope="module", autouse=True)
def liars(tmp_path_factory, install):
    """Both packages, and afterwards neither."""
    site = tmp_path_factory.mktemp("site")
    paths = sorted({path for project in PROJECTS for path in install(project, site)})
    sys.path[:0] = paths
    yield
    for path in paths:
        sys.path.remove(path)
    _forget_closed_forms()


def _forget_closed_forms():
    """The liars registered a divergence; torch has no way to take it back."""
    from torch.distributions import kl

    for pair in list(kl._KL_REGISTRY):
        if any(kind.__module__.startswith("vaepipe_fixture_liars") for kind in pair):
            del kl._KL_REGISTRY[pair]
    kl._KL_MEMOIZE.clear()


@pytest.mark.parametrize(("part", "promise"), CAUGHT.items(), ids=str)
def test_a_liar_is_caught_by_the_promise_that_it_breaks(part, promise):
    told = answer(contract_of(*part), "test_" + promise.replace(" ", "_"))
    assert told.verdict == "broken", told
    assert told.detail


@pytest.mark.parametrize("part", HONEST, ids=str)
def test_an_honest_twin_keeps_every_promise(part):
    broken = [told for told in examine(*part, {}) if told.verdict in ("broken", "exempt")]
    assert not broken


def test_every_liar_of_the_package_is_asked():
    there = {(g, n) for g in CONTRACTS for n in registry.available(g) if n.startswith("liar_")}
    assert there == set(CAUGHT)


def test_most_promises_are_kept_even_by_liars():
    """A liar breaks its promise and what follows from it, not the whole contract."""
    for part in [("families", "liar_kl"), ("priors", "liar_idle"), ("networks", "liar_dropout")]:
        broken = [told.question for told in examine(*part, {}) if told.verdict == "broken"]
        assert 1 <= len(broken) <= 4, broken


def test_the_command_names_the_promise_and_ends_with_4(capsys):
    assert cli.call(["plugins", "check", "priors", "liar_unnormalised"]) == 4
    out, err = capsys.readouterr()
    broken = [line for line in out.splitlines() if line.startswith("BROKEN")]
    (line,) = [line for line in broken if "its mass is one" in line]
    assert "integrates to one" in line
    assert "standard errors" in out
    assert f"{len(broken)} broken" in err


def test_the_report_is_data_too(capsys):
    assert cli.call(["plugins", "check", "datasets", "liar_ids", "--json"]) == 4
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == len(questions(CONTRACTS["datasets"]))
    (broken,) = [a["question"] for a in answers if a["verdict"] == "broken"]
    assert broken == "ids are unique"
