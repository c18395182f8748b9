"""Fits that begin with the weights of another: which parts agree, and what stays to the bit."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fits import fit_task, model_spec, own
from runs import COMPUTE, curve, epochs, events, fit, killed, same, weights
from safetensors.torch import load_file

from vaepipe import files, registry
from vaepipe.compute import jobs
from vaepipe.compute.base import DataRef, TrainTask
from vaepipe.core import build
from vaepipe.data import shards
from vaepipe.errors import BundleError
from vaepipe.training import bundle, start

part = registry.part


@pytest.fixture(scope="module")
def first(digits, tmp_path_factory):
    """A fit with a mixture for its prior."""
    task = fit_task(digits, tmp_path_factory.mktemp("first") / "fit", model=model_spec())
    COMPUTE.train(task)
    return task


def beginning(task):
    path = Path(task.output) / "model"
    return {"stage": task.name, "path": str(path), "digest": bundle.digest(path)}


def state(task):
    return load_file(Path(task.output) / "model" / "weights.safetensors")


def compared(digits, one, other):
    data = shards.load_spec(digits.path)
    states = [build(s.latent_shape, data, **s.parts()).state_dict() for s in (one, other)]
    return start.compare(one.parts(), states[0], other.parts(), states[1])


def test_parts_with_the_same_type_and_options_are_kept(digits):
    found = compared(digits, model_spec(prior="mixture"), model_spec())
    assert found.kept == ("encoder", "decoder", "likelihood")
    assert dict(found.new) == {"prior": "mixture"}
    assert str(found) == "encoder, decoder, likelihood; new: prior (mixture)"


def test_other_options_and_other_shapes_make_a_part_new(digits):
    """An encoder with the same options has other outputs before another family."""
    assert dict(compared(digits, model_spec(hidden=9), model_spec()).new) == {
        "encoder": "other options",
        "decoder": "other options",
    }
    full = replace(model_spec(), family=part("families", "full_normal"))
    assert dict(compared(digits, full, model_spec()).new) == {"encoder": "other shapes"}
    wider = compared(digits, model_spec(latent=3), model_spec())
    assert wider.kept == ("likelihood",) and set(wider.new) == {"encoder", "decoder"}


def test_options_that_went_through_a_file_are_the_same(digits):
    """Tuples come back as lists."""
    one = model_spec()
    two = replace(one, encoder=replace(one.encoder, options={"hidden": (16,)}))
    assert compared(digits, two, one).kept == ("encoder", "decoder", "likelihood")


def test_a_fit_begins_where_the_other_ended(first, digits, tmp_path):
    """Without a step that moves anything, it is the other's model, and is as good."""
    still = {"optimizer": {"type": "sgd", "lr": 1e-30}, "epochs": 1}
    task = fit(digits, tmp_path / "fit", start=beginning(first), fingerprint="b", **still)
    assert same(state(task), state(first))
    best = max(m["val/log_evidence"] for m in curve(first))
    assert curve(task)[0]["val/log_evidence"] == pytest.approx(best, abs=1e-4)
    assert events(task)[0]["weights"] == "encoder, decoder, likelihood"
    card = bundle.load(Path(task.output) / "model").card
    assert card["start"] == {"stage": "fit", "digest": beginning(first)["digest"]}
    assert bundle.load(Path(first.output) / "model").card["start"] is None


def test_new_parts_begin_as_they_would_without(first, digits, tmp_path):
    """The seed alone decides their first weights."""
    still = {"optimizer": {"type": "sgd", "lr": 1e-30}, "epochs": 1, "fingerprint": "b"}
    still["model"] = model_spec(prior="mixture")
    begun = state(fit(digits, tmp_path / "begun", start=beginning(first), **still))
    alone = state(fit(digits, tmp_path / "alone", **still))
    old = state(first)
    for name, value in begun.items():
        expected = alone[name] if name.startswith("prior") else old[name]
        assert torch.allclose(value, expected, rtol=0, atol=1e-20), name


@pytest.mark.parametrize("ema", [None, 0.9])
def test_parts_that_no_phase_updates_stay_as_they_are_to_the_bit(ema, first, digits, tmp_path):
    """A prior fitted to a trained model; weight decay and averages touch nothing else."""
    task = fit(
        digits,
        tmp_path / "fit",
        start=beginning(first),
        fingerprint="b",
        model=model_spec(prior="mixture"),
        objective=own("PriorOnly"),
        optimizer={"type": "adamw", "lr": 3e-2, "weight_decay": 0.1},
        ema=ema,
        epochs=4,
    )
    old, new = state(first), state(task)
    assert all(torch.equal(new[name], old[name]) for name in old)
    fresh = state(fit(digits, tmp_path / "none", model=model_spec(prior="mixture"), epochs=1))
    assert any(not torch.equal(new[n], fresh[n]) for n in new if n.startswith("prior"))
    assert curve(task)[-1]["val/log_evidence"] > curve(task)[0]["val/log_evidence"]
    bound = [m["val/log_lik"] for m in curve(task)]
    assert bound == pytest.approx([bound[0]] * 4, abs=1e-6)


def test_a_killed_fit_goes_on_from_its_own_checkpoint(first, digits, tmp_path):
    """Not from where it began."""
    changes = {"start": beginning(first), "fingerprint": "b", "epochs": 4, "ema": 0.9}
    whole = fit(digits, tmp_path / "whole", **changes)
    task = fit_task(digits, tmp_path / "fit", **changes)
    assert killed(task, 25) == -signal.SIGKILL
    COMPUTE.train(task)
    assert same(weights(task), weights(whole))
    assert [e["epoch"] for e in epochs(task)] == [1, 2, 3, 4]


def test_a_task_with_a_start_travels_as_json(first, digits, tmp_path):
    task = fit_task(digits, tmp_path / "fit", start=beginning(first), ema=0.5, accumulate=2)
    assert TrainTask.from_dict(task.to_dict()) == task


def test_a_start_that_is_gone_is_named(first, digits, tmp_path):
    gone = {**beginning(first), "path": str(tmp_path / "gone")}
    with pytest.raises(BundleError, match="gone is not a model bundle"):
        jobs.train_job(fit_task(digits, tmp_path / "fit", start=gone))


def test_weights_from_data_in_other_units_are_warned_of(tmp_path):
    """Once; data of the first fit, or with a mean that moved by a deviation, are not."""
    from vaepipe.pipeline.stages import data

    x = np.random.default_rng(0).normal(size=(300, 3)).astype("float32")
    model = replace(model_spec(), likelihood=part("likelihoods", "gaussian"))

    def begun(name, values, after=None):
        np.save(tmp_path / f"{name}.npy", values)
        found = part("datasets", "npy", {"path": str(tmp_path / f"{name}.npy"), "support": "real"})
        manifest = data.write(found, tmp_path / name)
        files.write_json(tmp_path / name / "manifest.json", manifest)
        rows = DataRef(str(tmp_path / name), found, manifest["spec"], manifest["digest"])
        task = fit_task(rows, tmp_path / f"fit-{name}", model=model, epochs=2, start=after)
        jobs.train_job(task)
        return task

    first = beginning(begun("first", x))
    for name, values in {"again": x, "moved": x + 1}.items():
        assert not [e for e in events(begun(name, values, first)) if e["event"] == "warning"]
    task = begun("cents", 1000 * x + 5000, first)
    (warning,) = [e for e in events(task) if e["event"] == "warning"]
    assert "fitted to data in other units: value" in warning["text"]
    assert "Bring the data to the units of the first fit" in warning["text"]
