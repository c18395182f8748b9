"""Shapes, starts and states of models."""

import pickle

import pytest
import torch
from torch.distributions import Bernoulli, Independent, OneHotCategorical

from vaepipe import registry
from vaepipe.core import SUPPORTS, Conditional, DataSpec, Stream, build, centre, seeded, within
from vaepipe.errors import CompatibilityError, DataError
from vaepipe.families.normal import DiagonalNormal, FullNormal
from vaepipe.networks.mlp import MLP
from vaepipe.testing import PPCA, assert_mean

IMAGES = DataSpec((28, 28), SUPPORTS["boolean"], 100, torch.full((28, 28), 0.1))


def image_model(latent_shape=(4, 2)):
    mlp = registry.part("networks", "mlp", {"hidden": [16]})
    return build(
        latent_shape,
        IMAGES,
        encoder=mlp,
        family=registry.part("families", "diagonal_normal"),
        prior=registry.part("priors", "standard_normal"),
        decoder=mlp,
        likelihood=registry.part("likelihoods", "bernoulli"),
    )


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (1, 2, 3)])
def test_any_number_of_leading_dimensions_passes_through(batch):
    model, x = image_model(), torch.zeros(*batch, 28, 28)
    q = model.inference(x)
    assert (q.batch_shape, q.event_shape) == (batch, (4, 2))
    z = q.sample((5,))
    assert model.generator(z).log_prob(x).shape == (5, *batch)
    assert model.p_z().z.log_prob(z).shape == (5, *batch)


def test_folding_leading_dimensions_changes_no_number():
    model, x = image_model(), torch.bernoulli(torch.full((2, 3, 28, 28), 0.2))
    one_by_one = torch.stack([model.inference.features(part) for part in x])
    assert torch.allclose(model.inference.features(x), one_by_one)


def test_another_shape_is_an_error_that_names_both():
    model = image_model()
    with pytest.raises(ValueError, match=r"\(28, 28\).*\(3, 784\)"):
        model.inference(torch.zeros(3, 784))
    with pytest.raises(ValueError, match="expected trailing"):
        model.inference(torch.zeros(28))


def test_samples_of_a_model_have_the_distribution_of_its_data():
    ppca = PPCA.random(4, 2, seed=0)
    x = ppca.model().sample(20_000).sample()
    assert_mean(x, ppca.bias, "the mean of samples")
    covariance = ppca.weight @ ppca.weight.T + ppca.scale**2 * torch.eye(4)
    centred = x - ppca.bias
    assert_mean(centred.unsqueeze(-1) * centred.unsqueeze(-2), covariance, "their covariance")


def test_a_reconstruction_is_the_likelihood_at_the_posterior_mean():
    ppca = PPCA.random(4, 2, seed=0)
    x = ppca.draw(3)
    expected = ppca.posterior(x).mean @ ppca.weight.T + ppca.bias
    assert torch.allclose(ppca.model().reconstruct(x).mean, expected)


@pytest.mark.parametrize(
    ("family", "options"),
    [("concrete", {}), ("binary_concrete", {}), ("mixture", {}), ("hierarchical", {})],
)
def test_posteriors_without_a_mean_reconstruct_at_that_of_draws(family, options):
    """What is decoded has the moments that many draws have."""
    head = registry.part("families", family, options).build((6,))
    h = torch.randn(3, *head.feature_shape, generator=torch.Generator().manual_seed(0))
    q = head(h)
    with seeded(Stream(0)):
        z, draws = centre(q), q.sample((2000,))
    assert z.shape == (3, 6)
    gap = (z - draws.mean(0)) / (draws.std(0) * (1 / 2000 + 1 / 256) ** 0.5)
    assert gap.abs().max() < 6


def test_discrete_posteriors_reconstruct_at_their_likeliest_code():
    """A decoder that saw bits and one-hot codes is shown bits and one-hot codes."""
    bits = Independent(Bernoulli(torch.tensor([[0.2, 0.5, 0.9]])), 1)
    assert centre(bits).tolist() == [[0.0, 0.0, 1.0]]
    codes = Independent(OneHotCategorical(torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]])), 1)
    assert centre(codes).tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


def test_a_model_starts_where_z_carries_no_wild_information():
    """Posteriors near the prior, images near their base rate."""
    x = torch.bernoulli(torch.full((50, 28, 28), 0.1))
    model = image_model()
    q = model.inference(x)
    assert q.stddev.log().abs().mean() < 1
    assert model.reconstruct(x).mean.mean() == pytest.approx(0.1, abs=0.1)


def test_the_state_of_a_model_is_its_weights_and_the_base_rate():
    names = set(image_model().state_dict())
    assert {n for n in names if "network" not in n} == {"generator.head.offset"}


def test_a_full_normal_says_how_to_write_a_latent_of_two_dimensions():
    with pytest.raises(CompatibilityError, match=r"write \[6\]"):
        FullNormal((2, 3))


def test_an_mlp_without_hidden_layers_is_affine():
    mlp, v = MLP((2, 3), (4,), hidden=[]), torch.randn(5, 2, 3)
    twice, zero = mlp(2 * v), mlp(torch.zeros(1, 2, 3))
    assert torch.allclose(twice - zero, 2 * (mlp(v) - zero))


def test_a_conditional_is_a_network_and_a_head():
    head = DiagonalNormal((2,))
    network = MLP((3,), head.feature_shape, hidden=[8])
    q = Conditional(network, head, (3,))
    x = torch.randn(5, 3)
    assert torch.equal(q(x).mean, head(network(x).reshape(5, 2, 2)).mean)


def test_a_data_specification_survives_files_and_processes():
    for name in SUPPORTS:
        spec = DataSpec((2, 3), SUPPORTS[name], 7)
        assert DataSpec.from_dict(spec.to_dict()) == spec
        carried = pickle.loads(pickle.dumps(spec))
        assert carried.support_name == name
        assert within(carried.support, SUPPORTS[name])
    with pytest.raises(DataError, match="Did you mean 'boolean'"):
        DataSpec.from_dict({"shape": [1], "support": "bolean", "num_examples": 1})


def test_a_mass_is_never_compared_with_a_density():
    inside = {(a, b) for a in SUPPORTS for b in SUPPORTS if within(SUPPORTS[a], SUPPORTS[b])}
    same = {(a, a) for a in SUPPORTS}
    assert inside == same | {("unit_interval", "real"), ("boolean", "integer")}
