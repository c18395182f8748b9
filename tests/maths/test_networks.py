"""Networks: what a layer computes, sizes of images, gradients, independence of the batch."""

import pytest
import torch

from vaepipe.errors import CompatibilityError
from vaepipe.networks.conv import Conv
from vaepipe.networks.mlp import MLP, Gated, Residual
from vaepipe.networks.resnet import ResNet, normalisation

IMAGES = [(1, 28, 28), (3, 8, 8), (1, 105, 105), (1, 5, 7), (2, 1, 1)]
SMALL = {Conv: {"channels": [4, 6, 8], "hidden": [9]}, ResNet: {"channels": [4, 8, 8]}}
KINDS = ["plain", "gated", "residual"]


def trained(network, v):
    """Every parameter gets a finite gradient, and the whole of them not a vanishing one."""
    network(v).square().sum().backward()
    found = [p.grad for p in network.parameters()]
    assert all(g is not None and g.isfinite().all() for g in found)
    return sum(g.square().sum() for g in found) > 0


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_an_image_of_any_size_goes_down_and_comes_up_again(network, shape):
    options = SMALL[network]
    down, up = network(shape, (2, 5), **options), network((5,), shape, **options)
    assert down(torch.randn(3, *shape)).shape == (3, 10)
    assert up(torch.randn(3, 5)).shape == (3, torch.Size(shape).numel())
    assert trained(down, torch.randn(3, *shape)) and trained(up, torch.randn(3, 5))


@pytest.mark.parametrize("network", SMALL)
def test_dimensions_before_an_image_are_channels(network):
    """Such as mean and scale of every pixel; the flat features unfold into them in order."""
    up = network((5,), (2, 3, 8, 8), **SMALL[network])
    assert up(torch.randn(3, 5)).reshape(3, 2, 3, 8, 8).isfinite().all()
    down = network((1, 8, 8), (2, 1, 4, 4), **SMALL[network])
    assert down.route.down and down(torch.randn(3, 1, 8, 8)).shape == (3, 32)


@pytest.mark.parametrize("network", SMALL)
def test_a_larger_image_is_the_example(network):
    """A latent may be an image, too."""
    up = network((2, 4, 4), (1, 8, 8), **SMALL[network])
    assert not up.route.down and up(torch.randn(3, 2, 4, 4)).shape == (3, 64)


@pytest.mark.parametrize("network", SMALL)
def test_an_example_is_worth_the_same_alone_in_training_as_well(network):
    made, x = network((1, 8, 8), (6,), **SMALL[network]).train(), torch.randn(5, 1, 8, 8)
    alone = torch.cat([made(row) for row in x.split(1)])
    assert torch.allclose(made(x), alone)


@pytest.mark.parametrize("network", [Conv, ResNet])
def test_no_image_on_either_side_is_refused(network):
    with pytest.raises(CompatibilityError, match="Choose 'mlp', or give the dataset"):
        network((784,), (2, 40))


@pytest.mark.parametrize("network", [Conv, ResNet])
def test_places_of_an_image_cannot_be_chosen(network):
    with pytest.raises(CompatibilityError, match="leave it out"):
        network((1, 8, 8), (2, 4), reads=[0, 3])


@pytest.mark.parametrize(
    ("network", "options"),
    [(MLP, {"hidden": [7]}), (Conv, SMALL[Conv]), (ResNet, SMALL[ResNet])],
    ids=["mlp", "conv", "resnet"],
)
def test_a_decoder_can_read_a_part_of_the_latent(network, options):
    made, z = network((6,), (1, 8, 8), reads=[1, 4], **options), torch.randn(3, 6)
    z.requires_grad_()
    made(z).square().sum().backward()
    assert z.grad[:, 1:4].all() and not z.grad[:, :1].any() and not z.grad[:, 4:].any()


@pytest.mark.parametrize("reads", [[0], [3, 3], [4, 2], [0, 7]], ids=str)
def test_places_outside_the_latent_are_refused(reads):
    with pytest.raises(CompatibilityError, match="0 <= from < to <= 6"):
        MLP((6,), (2,), reads=reads)


def test_a_gated_layer_is_an_affine_map_times_a_gate():
    layer, h = Gated(3, 2), torch.randn(5, 3)
    torch.nn.init.zeros_(layer.gate.weight)
    layer.gate.bias.data = torch.tensor([0.0, 50.0])
    assert torch.allclose(layer(h), layer.value(h) * torch.tensor([0.5, 1.0]))


@pytest.mark.parametrize(("fan_in", "identity"), [(4, True), (3, False)])
def test_a_residual_layer_passes_its_input_on(fan_in, identity):
    layer, h = Residual(fan_in, 4, "tanh"), torch.randn(5, fan_in)
    torch.nn.init.zeros_(layer.outer.weight)
    assert torch.equal(layer(h), h if identity else h @ layer.way.weight.T)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_perceptron_is_trained(kind):
    network = MLP((2, 3), (4,), hidden=[8, 8, 5], kind=kind)
    assert network(torch.randn(7, 2, 3)).shape == (7, 4)
    assert trained(network, torch.randn(7, 2, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_without_hidden_layers_every_kind_is_affine(kind):
    network, v = MLP((3,), (2,), hidden=[], kind=kind), torch.randn(5, 3)
    assert torch.allclose(network(2 * v) - network(v), network(v) - network(0 * v))


def test_groups_have_four_channels_or_more():
    groups = {c: normalisation(c).num_groups for c in (1, 4, 6, 16, 32, 64, 96)}
    assert groups == {1: 1, 4: 1, 6: 1, 16: 4, 32: 8, 64: 8, 96: 8}
