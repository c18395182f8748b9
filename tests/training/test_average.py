"""Averaged weights: what they are, that they are validated and kept, and resumed exactly."""

import signal
from pathlib import Path

import pytest
import torch
from fits import fit_task
from runs import COMPUTE, curve, events, fit, killed, same
from safetensors.torch import load_file
from torch import nn
from vaepipe_vq.family import VQ

from vaepipe.compute import jobs, outputs
from vaepipe.core import WholeBatch
from vaepipe.evaluation import validate
from vaepipe.training import bundle, checkpoint
from vaepipe.training.average import Average

EMA = {"ema": 0.9, "epochs": 4}


def files_of(task):
    folder = Path(task.output)
    names = ("model/weights", "checkpoint/last", "checkpoint/average", "checkpoint/best")
    return {
        f"{name}:{key}": value
        for name in names
        for key, value in load_file(folder / f"{name}.safetensors").items()
    }


@pytest.fixture(scope="module")
def plain(digits, tmp_path_factory):
    return fit(digits, tmp_path_factory.mktemp("ema") / "fit", **EMA)


def test_it_is_the_sum_that_its_formula_says():
    module = nn.Linear(2, 1, bias=False).double()
    average, expected = Average(module, 0.6), module.weight.detach().clone()
    for step in range(12):
        with torch.no_grad():
            module.weight.normal_()
        average.update(step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    assert torch.allclose(average.module.weight, expected, rtol=1e-12)


def test_a_buffer_that_stays_infinite_does_not_become_nan():
    module = nn.Linear(2, 1)
    module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    average = Average(module, 0.9)
    average.update(0)
    assert average.module.mask.tolist() == [0.0, -torch.inf]


def test_what_is_not_trained_is_copied_to_the_bit():
    module = nn.BatchNorm1d(3)
    module.bias.requires_grad_(False)
    module.bias.data.normal_()
    average = Average(module, 0.99)
    for step in range(5):
        module.weight.data.normal_()
        module.num_batches_tracked += 1
        average.update(step)
    assert torch.equal(average.module.bias, module.bias)
    assert torch.equal(average.module.num_batches_tracked, module.num_batches_tracked)
    assert torch.equal(average.module.running_var, module.running_var)  # it never moved
    assert not torch.equal(average.module.weight, module.weight)


def test_a_code_book_is_averaged_with_the_encoder_that_uses_it():
    """The averaged encoder met the book of the last step."""
    book = VQ((1, 2), codes=4, restart=0.0).double()
    layer = nn.Linear(2, 2, bias=False).double()
    module = nn.ModuleList([layer, book])
    average, expected = Average(module, 0.8), (layer.weight.detach().clone(), book.book.clone())
    for step in range(9):
        with torch.no_grad():
            layer.weight.normal_()
        book.learn(book(torch.randn(30, 1, 2).double()), WholeBatch())
        average.update(step)
        decay = min(0.8, (1 + step) / (10 + step))
        now = (layer.weight.detach(), book.book)
        expected = [decay * a + (1 - decay) * b for a, b in zip(expected, now, strict=True)]
    for found, value in zip(
        (average.module[0].weight, average.module[1].book), expected, strict=True
    ):
        assert torch.allclose(found, value, rtol=1e-12)


def test_averaged_weights_are_validated_and_kept(plain):
    """The bundle holds them, and its validation is the one that the journal tells."""
    folder = Path(plain.output)
    last, average, best = (
        load_file(folder / "checkpoint" / name)
        for name in (checkpoint.LAST, checkpoint.AVERAGE, checkpoint.BEST)
    )
    assert not same(last, average)
    assert same(average, best)  # the fit got better to its end
    kept = bundle.load(folder / outputs.MODEL)
    assert all(torch.equal(v, best[f"model.{n}"]) for n, v in kept.model.state_dict().items())
    dataset = plain.data.dataset.build()
    _, x = jobs.sample(plain.data.path, dataset, "val", 60)
    again = validate(kept.model, x, k=4)["log_evidence"]
    assert again == pytest.approx(curve(plain)[-1]["val/log_evidence"], abs=1e-5)


def test_an_average_does_not_change_what_is_trained(plain, digits, tmp_path):
    without = fit(digits, tmp_path / "fit", epochs=4)
    last = [load_file(Path(t.output) / "checkpoint" / checkpoint.LAST) for t in (plain, without)]
    assert same(*last)
    assert not (Path(without.output) / "checkpoint" / checkpoint.AVERAGE).exists()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_killed_fit_resumes_with_the_same_average(accumulate, plain, digits, tmp_path):
    """Bit by bit, also with batches in parts."""
    task = fit_task(digits, tmp_path / "fit", accumulate=accumulate, **EMA)
    assert killed(task, 25) == -signal.SIGKILL
    COMPUTE.train(task)
    assert [e["resumed_from"] for e in events(task) if e["event"] == "start"] == [None, 2]
    whole = plain
    if accumulate > 1:
        whole = fit(digits, tmp_path / "whole", accumulate=accumulate, **EMA)
    assert same(files_of(task), files_of(whole))
    assert curve(task) == curve(whole)


def test_without_validation_the_average_of_the_last_step_is_kept(tmp_path):
    from fits import digits as write_digits

    task = fit(write_digits(tmp_path / "data", splits=("train",)), tmp_path / "fit", **EMA)
    average = load_file(Path(task.output) / "checkpoint" / checkpoint.AVERAGE)
    kept = load_file(Path(task.output) / outputs.MODEL / bundle.WEIGHTS)
    assert all(torch.equal(value, average[f"model.{name}"]) for name, value in kept.items())
