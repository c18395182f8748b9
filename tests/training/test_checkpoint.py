"""Checkpoints: what goes in comes out, and a fit goes on as if nothing had happened."""

import pytest
import torch
from torch import nn

from vaepipe import files
from vaepipe.training import checkpoint, optim


def network(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    net[2].weight = nn.Parameter(net[2].weight.t().contiguous().t())
    return net.double()


def train(net, optimizer, steps, seed):
    torch.manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(6, 3, dtype=torch.float64)).square().mean().backward()
        optimizer.step()


def state(**changes):
    values = {"fingerprint": "a", "epoch": 1, "step": 5, "history": ({"epoch": 1, "step": 5},)}
    return checkpoint.State(**{**values, **changes})


def equal(one, other):
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("kind", optim.TYPES)
def test_training_goes_on_bit_for_bit_whatever_the_optimizer(kind, tmp_path):
    settings = {"type": kind, "lr": 0.01, "momentum": None if "adam" in kind else 0.9}
    net = network()
    optimizer = optim.build(settings, net.parameters())
    train(net, optimizer, 5, seed=1)
    checkpoint.save(tmp_path / "c", state(), net, [optimizer])
    train(net, optimizer, 5, seed=2)

    other = network(seed=9)
    again = optim.build(settings, other.parameters())
    checkpoint.restore(tmp_path / "c", other, [again])
    train(other, again, 5, seed=2)
    assert equal(net, other)


def test_the_state_comes_back_for_the_same_fingerprint_only(tmp_path):
    saved = state(best_epoch=1, best_value=-90.5)
    checkpoint.save(tmp_path / "c", saved, network(), [])
    assert checkpoint.load(tmp_path / "c", "a") == saved
    assert checkpoint.load(tmp_path / "c", "b") is None
    assert checkpoint.load(tmp_path / "missing", "a") is None


def test_best_weights_stay_while_later_epochs_are_worse(tmp_path):
    folder, best, worse = tmp_path / "c", network(1), network(2)
    checkpoint.save(folder, state(best_epoch=1, best_value=2.0), best, [])
    later = state(epoch=2, best_epoch=1, best_value=2.0)
    checkpoint.save(folder, later, worse, [])

    kept, last = network(3), network(3)
    checkpoint.load_weights(checkpoint.kept_weights(folder, later), kept)
    checkpoint.restore(folder, last, [])
    assert equal(kept, best)
    assert equal(last, worse)


def test_a_replacement_that_was_cut_off_leaves_the_old_checkpoint(tmp_path):
    folder = tmp_path / "c"
    checkpoint.save(folder, state(), network(), [])
    folder.rename(tmp_path / f"{files.TEMPORARY}old-c")  # killed between the two renames
    found = checkpoint.load(folder, "a")
    assert found is not None
    assert found.epoch == 1


def test_a_checkpoint_holds_safetensors_and_json_and_nothing_else(tmp_path):
    net = network()
    optimizer = optim.build({"type": "adam", "lr": 0.1}, net.parameters())
    train(net, optimizer, 1, seed=0)
    checkpoint.save(tmp_path / "c", state(best_epoch=1, best_value=0.0), net, [optimizer])
    suffixes = {path.suffix for path in (tmp_path / "c").iterdir()}
    assert suffixes == {".safetensors", ".json"}
