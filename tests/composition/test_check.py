"""What is refused before anything is trained, and in which words."""

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

from vaepipe import registry
from vaepipe.core import (
    SUPPORTS,
    Cap,
    Conditional,
    DataSpec,
    Estimate,
    Family,
    JointObjective,
    LatentModel,
    Objective,
    Part,
    Phase,
    Prior,
    PriorDraw,
    check,
    rehearse,
)
from vaepipe.errors import CompatibilityError, UserError
from vaepipe.families.normal import DiagonalNormal
from vaepipe.likelihoods.gaussian import GaussianLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.elbo import ELBO
from vaepipe.priors.normal import StandardNormal

REALS = DataSpec((4,), SUPPORTS["real"], 100)
GREY = DataSpec((4,), SUPPORTS["unit_interval"], 100)
BINARY = DataSpec((4,), SUPPORTS["boolean"], 100)


class BernoulliFamily(Family):
    """Binary latents: draws carry no gradient."""

    provides = Cap.SAMPLE | Cap.DENSITY

    def __init__(self, latent_shape):
        super().__init__()
        self.feature_shape = latent_shape

    def forward(self, h):
        return Independent(Bernoulli(logits=h), len(self.feature_shape))


def classes(likelihood="gaussian", objective="elbo", prior="standard_normal"):
    return (
        DiagonalNormal,
        registry.load("priors", prior),
        registry.load("objectives", objective),
        registry.load("likelihoods", likelihood),
    )


def model(family=DiagonalNormal, prior=StandardNormal, latent=(2,)):
    head = family(latent)
    return LatentModel(
        Conditional(MLP((4,), head.feature_shape, hidden=[8]), head, (4,)),
        prior(latent, REALS),
        Conditional(MLP(latent, (4,), hidden=[8]), GaussianLikelihood(REALS), latent),
    )


def test_bernoulli_on_grey_pixels_is_a_compatibility_error():
    with pytest.raises(CompatibilityError) as caught:
        check(*classes("bernoulli"), GREY)
    message, _, offered = str(caught.value).partition("for such data: ")
    assert message == (
        "likelihood 'bernoulli' is of boolean values, but the data are 'unit_interval'. "
        "Set 'binarize: dynamic' in the dataset, or choose a likelihood "
    )
    names = offered.rstrip(".").split(", ")
    assert {"continuous_bernoulli", "gaussian", "laplace"} <= set(names)
    assert not {"bernoulli", "categorical", "poisson"} & set(names)
    assert isinstance(caught.value, UserError) and caught.value.exit_code == 2


def test_a_density_on_binary_data_is_a_compatibility_error():
    with pytest.raises(CompatibilityError, match=r"'gaussian' is of real.*bernoulli"):
        check(*classes("gaussian"), BINARY)


@pytest.mark.parametrize(
    ("likelihood", "data"), [("gaussian", REALS), ("gaussian", GREY), ("bernoulli", BINARY)]
)
def test_likelihoods_of_the_data_pass(likelihood, data):
    check(*classes(likelihood), data)


def test_a_missing_ability_is_named_with_objectives_that_would_do():
    _, *rest = classes()
    with pytest.raises(CompatibilityError) as caught:
        check(BernoulliFamily, *rest, REALS)
    assert str(caught.value).startswith(
        "objective 'elbo' needs rsample of the posterior, which family 'BernoulliFamily' does not "
        "provide (it provides sample, density). Objectives that fit this family: "
    )
    assert caught.value.missing == Cap.RSAMPLE


def test_a_prior_can_lack_an_ability_too():
    class Opaque(Family):
        provides = Cap.RSAMPLE

    _, *rest = classes(prior="vamp")
    with pytest.raises(CompatibilityError, match="prior 'vamp' needs sample, density") as caught:
        check(Opaque, *rest, REALS)
    assert caught.value.missing == Cap.SAMPLE | Cap.DENSITY


def test_a_mass_and_a_density_do_not_compare():
    with pytest.raises(CompatibilityError, match="a mass cannot be compared with a density"):
        rehearse(model(BernoulliFamily), ELBO(), REALS)


def test_latents_of_two_shapes_do_not_compare():
    wrong = model()
    wrong.prior = StandardNormal((3,), REALS)
    with pytest.raises(
        CompatibilityError, match=r"q\(z\|x\) is of shape \[2\] but p\(z\) of \[3\]"
    ):
        rehearse(wrong, ELBO(), REALS)


class Idle(Family):
    """A family with a parameter that nothing reads."""

    provides = DiagonalNormal.provides

    def __init__(self, latent_shape):
        super().__init__()
        self.feature_shape = (2, *latent_shape)
        self.codebook = nn.Parameter(torch.zeros(3))
        self.inner = DiagonalNormal(latent_shape)

    def forward(self, h):
        return self.inner(h)


def test_a_parameter_that_no_phase_trains_is_named():
    with pytest.raises(
        CompatibilityError, match=r"no phase of 'ELBO' trains: inference.head.codebook"
    ):
        rehearse(model(Idle), ELBO(), REALS)


class WakeOnly(Objective):
    """Forgets the encoder: its only phase updates the generator."""

    def phases(self):
        return (Phase("wake", Part.GENERATOR | Part.PRIOR, ELBO().estimate),)


def test_a_part_that_no_phase_updates_is_named():
    with pytest.raises(
        CompatibilityError, match=r"no phase of 'WakeOnly' trains: inference.network"
    ):
        rehearse(model(), WakeOnly(), REALS)


class Alternating(Objective):
    """Two phases that together update everything."""

    def phases(self):
        estimate = ELBO().estimate
        return (
            Phase("wake", Part.GENERATOR | Part.PRIOR, estimate),
            Phase("sleep", Part.INFERENCE, estimate, repeat=2),
        )


def test_phases_together_may_cover_the_model():
    assert rehearse(model(), Alternating(), REALS).parameters["encoder"] > 0


class Broken(JointObjective):
    """Returns, or raises, what it is given."""

    def __init__(self, result):
        super().__init__()
        self.result = result

    def estimate(self, model, x, ctx):
        if isinstance(self.result, Exception):
            raise self.result
        loss = sum(p.sum() for p in model.parameters())
        return Estimate(self.result, loss, {})


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.tensor([1.0, float("nan")]), "finite number for each"),
        (torch.tensor(1.0), "finite number for each"),
        (NotImplementedError("No KL(p || q) is implemented"), "phase 'joint' of 'Broken': No KL"),
        (RuntimeError("shapes"), "phase 'joint' of 'Broken': shapes"),
    ],
)
def test_a_phase_that_fails_is_named(result, message):
    with pytest.raises(CompatibilityError) as caught:
        rehearse(model(), Broken(result), REALS)
    assert message in str(caught.value)


def test_a_mistake_in_the_code_of_an_objective_is_not_hidden():
    with pytest.raises(TypeError, match="mistake"):
        rehearse(model(), Broken(TypeError("mistake")), REALS)


def test_a_frozen_parameter_needs_no_gradient():
    fixed = model(Idle)
    fixed.inference.head.codebook.requires_grad_(False)
    assert rehearse(fixed, ELBO(), REALS).parameters["family"] == 0


class Counting(Prior):
    """A prior that counts how often it was asked."""

    def __init__(self, latent_shape, data):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inference):
        self.calls += 1
        return PriorDraw(Independent(Normal(torch.zeros(2), 1.0), 1))


def test_a_rehearsal_leaves_no_trace():
    subject = model(prior=Counting)
    before, noise = copy.deepcopy(subject.state_dict()), torch.get_rng_state()
    rehearse(subject, ELBO(), REALS)
    after = subject.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in subject.parameters())
    assert torch.equal(noise, torch.get_rng_state())


def test_a_rehearsal_counts_parameters_and_notes_decisions():
    assembly = rehearse(model(), ELBO(), REALS)
    assert assembly.notes == {"rate": "closed form"}
    assert assembly.parameters == {
        "encoder": 4 * 8 + 8 + 8 * 4 + 4,
        "family": 0,
        "prior": 0,
        "decoder": 2 * 8 + 8 + 8 * 4 + 4,
        "likelihood": 1,
        "objective": 0,
    }
