"""Fits of code books on the digits: their codes are used from the first epochs on."""

import pytest
from fits import part
from runs import curve, events, fit

from vaepipe.compute.base import ModelSpec


def vq(**options):
    """8 positions of dimension 64, 512 codes; features are far from N(0, 1) in the beginning."""
    network = part("networks", "mlp", {"hidden": [32]})
    return ModelSpec(
        (8, 64),
        network,
        part("families", "vq", {"codes": 512, **options}),
        part("priors", "uniform_codes"),
        network,
        part("likelihoods", "bernoulli"),
    )


TASK = {
    "objective": part("objectives", "vq"),
    "optimizer": {"type": "adam", "lr": 1e-3},
    "validation": {"examples": 100, "k": 1, "every": 1},
    "epochs": 4,
}


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_codes_are_in_use_from_the_first_epochs_on(digits, tmp_path, accumulate):
    """The perplexity was 1.0 for 20 epochs, until codes were revived for the first time."""
    task = fit(digits, tmp_path / "fit", model=vq(), accumulate=accumulate, **TASK)
    used = [epoch["train/code_perplexity"] for epoch in curve(task)]
    assert min(used) > 50
    assert not [e for e in events(task) if e["event"] == "warning"]


def test_a_book_of_which_little_is_used_is_warned_of(digits, tmp_path):
    """With advice that fits a code book: its rate has no weight that could be raised slowly."""
    fast = {**TASK, "optimizer": {"type": "adam", "lr": 0.3}}
    task = fit(digits, tmp_path / "fit", model=vq(restart=0.0), **fast)
    (warning,) = [e for e in events(task) if e["event"] == "warning"]
    assert warning["text"].startswith("code book collapse: train/code_perplexity is ")
    assert "restart" in warning["text"] and "warmup_epochs" not in warning["text"]
