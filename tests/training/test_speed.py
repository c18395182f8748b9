"""Lower precision and compilation touch the networks, while they are trained, and nothing else."""

import copy
from pathlib import Path

import pytest
import torch
from fits import fit_task, model_spec
from runs import COMPUTE, curve, fit
from safetensors.torch import load_file

from vaepipe.compute import jobs
from vaepipe.core import StepContext
from vaepipe.errors import CompatibilityError
from vaepipe.objectives.elbo import ELBO
from vaepipe.training import speed

CTX = StepContext(0, 0.0, 100)


def step(digits, folder, **changes):
    return jobs._build(fit_task(digits, folder, **changes))


def types_within(module, v):
    """The type of what its layers give."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
        for layer in module.modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    features = module(v) if not hasattr(module, "features") else module.features(v)
    for hook in hooks:
        hook.remove()
    return set(seen), features.dtype


def test_layers_compute_in_bfloat16_and_everything_after_in_float32(digits, tmp_path):
    made = step(digits, tmp_path)
    speed.hasten(made.model, "bfloat16", compiled=False)
    x = torch.rand(4, 1, 8, 8).round()
    for conditional, v in ((made.model.inference, x), (made.model.generator, torch.randn(3, 4, 2))):
        assert types_within(conditional, v) == ({torch.bfloat16}, torch.float32)
        conditional.eval()
        assert types_within(conditional, v) == ({torch.float32}, torch.float32)
    estimate = ELBO().estimate(made.model.train(), x, CTX)
    assert estimate.bound.dtype == torch.float32
    assert {p.dtype for p in made.parameters()} == {torch.float32}


def test_gradients_in_bfloat16_point_where_those_in_float32_do(digits, tmp_path):
    """Rounded to 8 bits, not wrong."""
    plain = step(digits, tmp_path)
    low = copy.deepcopy(plain)
    speed.hasten(low.model, "bfloat16", compiled=False)
    x, found = torch.rand(64, 1, 8, 8).round(), []
    for made in (plain, low):
        torch.manual_seed(0)
        ELBO(samples=4).estimate(made.model, x, CTX).surrogate.backward()
        found.append(torch.cat([p.grad.flatten() for p in made.model.parameters()]))
    assert found[1].dtype == torch.float32
    assert torch.cosine_similarity(*found, dim=0) > 0.999
    assert not torch.equal(*found)


def test_a_fit_in_bfloat16_learns_and_is_judged_in_float32(digits, tmp_path):
    low = fit(digits, tmp_path / "low", precision="bfloat16")
    evidence = [m["val/log_evidence"] for m in curve(low)]
    assert evidence[-1] > evidence[0] + 1
    kept = load_file(Path(low.output) / "model" / "weights.safetensors")
    assert {value.dtype for value in kept.values()} == {torch.float32}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own
def test_a_compiled_fit_gives_the_numbers_of_a_plain_one(digits, tmp_path, monkeypatch):
    """With the part of the compiler that needs no C++: names of weights stay as they are."""
    monkeypatch.setattr(speed, "BACKEND", "eager")
    tasks = [fit(digits, tmp_path / str(flag), compile=flag, epochs=1) for flag in (False, True)]
    one, other = (load_file(Path(t.output) / "model" / "weights.safetensors") for t in tasks)
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_without_a_compiler_a_fit_says_so_before_its_first_step(digits, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("Failed to find C++ compiler.\nmore")

    monkeypatch.setattr(torch, "compile", refuse)
    task = fit_task(digits, tmp_path / "fit", compile=True, model=model_spec())
    with pytest.raises(
        CompatibilityError, match=r"Failed to find C\+\+ compiler.*`compile: false`"
    ):
        COMPUTE.train(task)
