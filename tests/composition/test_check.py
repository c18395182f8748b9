"""What is refused before anything is trained, and in which words."""

import copy
import re

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
from vaepipe.core.alternatives import Asked
from vaepipe.errors import CompatibilityError, UserError
from vaepipe.families.normal import DiagonalNormal
from vaepipe.likelihoods.gaussian import GaussianLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.aggregate import AggregatePosterior
from vaepipe.objectives.elbo import ELBO
from vaepipe.priors.normal import StandardNormal
from vaepipe.registry import PartSpec

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


def test_a_missing_ability_is_named():
    _, *rest = classes()
    with pytest.raises(CompatibilityError) as caught:
        check(BernoulliFamily, *rest, REALS)
    assert str(caught.value).startswith(
        "objective 'elbo' needs rsample of the posterior, which family 'BernoulliFamily' does not "
        "provide (it provides sample, density). "
    )
    assert caught.value.missing == Cap.RSAMPLE


def told(names, data=REALS, latent_shape=None):
    """What `check` says of a combination of components, by name or with options."""
    groups = ("families", "priors", "objectives", "likelihoods")
    parts = [
        part if isinstance(part, PartSpec) else registry.part(group, part)
        for group, part in zip(groups, names, strict=True)
    ]
    with pytest.raises(CompatibilityError) as caught:
        check(*parts, data, latent_shape=latent_shape)
    return str(caught.value)


def offered(text, group):
    """The names that an error offers for a group."""
    found = re.search(rf"{group} that work with the rest: ([^.]*)\.", text)
    return set(found[1].split(", ")) if found else set()


def test_objectives_are_offered_that_work_with_the_prior_too():
    """For bits and a prior of bits those that need no gradient of draws, but nothing to learn."""
    text = told(("bernoulli", "bernoulli", "elbo", "gaussian"))
    names = offered(text, "Objectives")
    assert {"vimco", "reinforce", "rws", "wake_sleep"} <= names
    assert not {"elbo", "vq", "aggregate"} & names
    learned = registry.part("priors", "bernoulli", {"learned": True})
    assert "aggregate" in offered(told(("bernoulli", learned, "elbo", "gaussian")), "Objectives")


def test_where_no_objective_helps_a_family_is_offered_and_what_suits_the_asked_one():
    """A density over real numbers is never a prior of bits, whatever the objective."""
    text = told(("bernoulli", "standard_normal", "elbo", "gaussian"))
    assert not offered(text, "Objectives") and "diagonal_normal" in offered(text, "Families")
    assert not {"bernoulli", "concrete", "vq"} & offered(text, "Families")
    assert "This family works with prior 'bernoulli' and objective 'reinforce' together." in text


def test_priors_are_offered_that_are_densities_where_the_family_is():
    names = offered(told(("diagonal_normal", "ladder", "elbo", "gaussian")), "Priors")
    assert {"standard_normal", "vamp"} <= names
    assert not {"bernoulli", "categorical", "concrete", "ibp", "uniform_codes"} & names


def test_options_of_the_asked_parts_decide_what_is_offered():
    """The Indian buffet process over relaxed bits, asked with the objective of code books."""
    relaxed = registry.part("priors", "ibp", {"temperature": 0.5})
    text = told(("binary_concrete", relaxed, "vq", "gaussian"))
    assert {"elbo", "iwae"} <= offered(text, "Objectives")
    text = told(("binary_concrete", "ibp", "vq", "gaussian"))
    assert not offered(text, "Objectives"), "over bits it fits no relaxed posterior"


def test_the_latent_shape_decides_what_is_offered():
    """Full covariances and layers are of vectors."""
    asked = ("bernoulli", "standard_normal", "elbo", "gaussian")
    vectors = offered(told(asked, latent_shape=(4,)), "Families")
    tables = offered(told(asked, latent_shape=(2, 2)), "Families")
    assert vectors - tables == {"full_normal", "hierarchical", "ladder"}


def test_every_fault_is_told_at_once():
    text = told(("bernoulli", "uniform_codes", "elbo", "gaussian"), BINARY)
    assert text.startswith("likelihood 'gaussian' is of real values")
    assert "Prior 'uniform_codes' needs codes" in text
    assert "Objective 'elbo' needs rsample" in text
    assert "This family works with prior 'bernoulli' and objective" in text


def test_a_likelihood_that_would_refuse_the_data_is_not_offered():
    """`categorical` needs to know how many values an integer has."""
    counts = DataSpec((4,), SUPPORTS["integer"], 100)
    open_ended = told(("diagonal_normal", "standard_normal", "elbo", "gaussian"), counts)
    assert "poisson" in open_ended and "categorical" not in open_ended
    levels = DataSpec((4,), SUPPORTS["integer"], 100, levels=5)
    ended = told(("diagonal_normal", "standard_normal", "elbo", "gaussian"), levels)
    assert "categorical" in ended


def test_the_same_question_is_rehearsed_once(monkeypatch):
    """A sweep that skips what does not compose asks it for every trial."""
    shape = (3,)  # asked by no other test
    first = told(("bernoulli", "bernoulli", "elbo", "gaussian"), latent_shape=shape)
    monkeypatch.setattr(Asked, "works", lambda self: pytest.fail("rehearsed again"))
    assert told(("bernoulli", "bernoulli", "elbo", "gaussian"), latent_shape=shape) == first


def test_advice_changes_no_random_number():
    before = torch.get_rng_state()
    told(("bernoulli", "standard_normal", "elbo", "gaussian"))
    assert torch.equal(before, torch.get_rng_state())


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


@pytest.mark.parametrize(
    ("family", "prior", "why"),
    [
        ("concrete", "standard_normal", "densities are of different volumes"),
        ("bernoulli", "categorical", "draws of q.* lie outside the support of p"),
        ("categorical", "bernoulli", "p.z. gives mass to values that q.* never draws"),
        ("vq", "vamp", "no gradient, and no other code any mass"),
    ],
)
def test_why_latents_of_two_kinds_do_not_compare(family, prior, why):
    def head(latent):
        return registry.load("families", family)(latent)

    with pytest.raises(CompatibilityError, match=why):
        rehearse(model(head, registry.load("priors", prior), (2, 3)), Nothing(), REALS)


class Nothing(Objective):
    """No phase: its rehearsal only compares q(z | x) with p(z)."""

    trains = Part(0)

    def phases(self):
        return ()


@pytest.mark.parametrize(
    ("family", "prior", "what"),
    [
        ("bernoulli", "bernoulli", "write `learned: true` among its options"),
        ("vq", "uniform_codes", "a learned prior over the codes of the family"),
        ("diagonal_normal", "standard_normal", "such as 'vamp'"),
    ],
)
def test_a_prior_without_weights_is_told_what_could_learn(family, prior, what):
    def head(latent):
        return registry.load("families", family)(latent)

    made = model(head, registry.load("priors", prior), (2, 3))
    with pytest.raises(CompatibilityError, match=what):
        rehearse(made, AggregatePosterior(), REALS)


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
