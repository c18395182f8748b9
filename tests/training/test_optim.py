"""Optimisers and schedules."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from vaepipe.errors import UserError
from vaepipe.training import optim

SETTINGS = {
    "adam": {"betas": (0.9, 0.99), "eps": 1e-7, "weight_decay": 0.0},
    "adamw": {"weight_decay": 0.01},
    "adamax": {"betas": (0.8, 0.9)},
    "rmsprop": {"momentum": 0.5, "eps": 1e-6},
    "sgd": {"momentum": 0.9},
}


@pytest.mark.parametrize("kind", optim.TYPES)
def test_every_optimizer_finds_the_minimum_of_a_parabola(kind):
    weight = nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
    settings = {"type": kind, "lr": 0.05, "clip": None, **SETTINGS[kind]}
    optimizer = optim.build(settings, [weight])
    for _ in range(400):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    assert weight.abs().max() < 0.1
    for name, value in SETTINGS[kind].items():
        assert optimizer.defaults[name] == value


@pytest.mark.parametrize(("kind", "fused"), [("adam", True), ("sgd", True), ("rmsprop", None)])
def test_one_kernel_for_all_parameters_where_torch_has_one(kind, fused):
    optimizer = optim.build({"type": kind, "lr": 0.1}, [nn.Parameter(torch.zeros(2))])
    assert optimizer.defaults.get("fused") is fused


def test_an_unknown_optimizer_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'rmsprop'"):
        optim.build({"type": "rmsprob", "lr": 0.1}, [nn.Parameter(torch.zeros(2))])


def test_warm_up_rises_linearly_and_then_the_schedule_falls():
    settings = {"lr": 2.0, "schedule": "linear", "warmup_steps": 4}
    rate = optim.schedule(settings, 14)
    assert [rate(s) for s in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert [rate(s) for s in (4, 9, 14, 99)] == pytest.approx([2.0, 1.0, 0.0, 0.0])


@pytest.mark.parametrize("name", optim.SHAPES)
def test_schedules_start_at_the_learning_rate_and_never_rise(name):
    rate = optim.schedule({"lr": 0.3, "schedule": name}, 50)
    rates = [rate(step) for step in range(51)]
    assert rates[0] == pytest.approx(0.3)
    assert all(a >= b >= 0 for a, b in pairwise(rates))


def test_exponential_decay_ends_at_one_hundredth():
    assert optim.schedule({"lr": 1.0, "schedule": "exponential"}, 10)(10) == pytest.approx(0.01)
