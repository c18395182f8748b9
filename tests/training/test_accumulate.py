"""A batch in parts: the gradient of the whole, in less memory."""

from pathlib import Path

import pytest
import torch
from fits import fit_task, own, part

from vaepipe.compute.local import LocalCompute
from vaepipe.core import StepContext, Stream, seeded
from vaepipe.journal import Journal
from vaepipe.objectives.elbo import ELBO
from vaepipe.testing.exact import PPCA
from vaepipe.training import loop, optim
from vaepipe.training.loop import Fitter, Step

CTX = StepContext(0, 0.0, 100)


def fitter(step, accumulate, **options):
    settings = {"type": "sgd", "lr": 1e-2}
    return Fitter(
        name="fit",
        step=step,
        forward=step,
        optimizers=loop.optimizers(step, settings),
        rate=optim.schedule(settings, 10),
        clip=None,
        steps=3,
        num_examples=24,
        noise=Stream,
        reduce=lambda value: value,
        accumulate=accumulate,
        **options,
    )


def ended(accumulate, rows=8):
    """Weights and metrics after an epoch of an objective without noise, so that parts compare."""
    ppca = PPCA.random(5, 2, seed=1)
    with seeded(Stream(3)):
        step = Step(ppca.model(), own("Noiseless").build())
        x = ppca.draw(3 * rows)
    terms = fitter(step, accumulate).epoch(0, x.split(rows))
    return {name: p.detach() for name, p in step.named_parameters()}, terms


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("accumulate", [2, 3, 8, 50])
@pytest.mark.usefixtures("double")
def test_parts_of_a_batch_make_the_step_of_the_whole(accumulate):
    """Equal parts, unequal ones, single examples, more parts than examples."""
    whole, terms = ended(1)
    parts, other = ended(accumulate)
    for name in whole:
        assert torch.allclose(parts[name], whole[name], rtol=1e-12, atol=1e-14), name
    assert other == pytest.approx(terms, rel=1e-12)


@pytest.mark.usefixtures("double")
def test_parts_of_batches_of_two_sizes_make_the_steps_of_the_whole():
    ppca = PPCA.random(5, 2, seed=1)
    x = ppca.draw(23).split([8, 8, 7])
    steps = [Step(ppca.model(), own("Noiseless").build()) for _ in range(2)]
    one, other = (
        fitter(step, parts).epoch(0, x) for step, parts in zip(steps, (1, 3), strict=True)
    )
    assert other == pytest.approx(one, rel=1e-12)
    for whole, parted in zip(*(step.parameters() for step in steps), strict=True):
        assert torch.allclose(parted, whole, rtol=1e-12, atol=1e-14)


def test_the_estimate_of_a_batch_is_that_of_its_parts():
    """Numbers of every example in their order; the surrogate is a mean over all."""
    ppca = PPCA.random(5, 2, seed=1)
    model, x = ppca.model(), ppca.draw(7)
    objective = own("Noiseless").build()
    whole = objective.estimate(model, x, CTX)
    shares = [objective.estimate(model, p, CTX) for p in x.split(3)]
    shares = [e._replace(surrogate=e.surrogate * len(e.bound) / 7) for e in shares]
    joined = loop.joined(shares)
    assert torch.allclose(joined.bound, whole.bound)
    assert torch.allclose(joined.surrogate, whole.surrogate)
    assert all(torch.allclose(joined.terms[n], whole.terms[n]) for n in whole.terms)


def test_the_networks_see_a_part_at_a_time():
    ppca = PPCA.random(5, 2, seed=1)
    step, seen = Step(ppca.model(), ELBO()), []
    step.model.inference.network.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    fitter(step, 4).epoch(0, ppca.draw(24).split(8))
    assert seen == [2] * 12


def test_gradients_of_one_length_for_every_tensor():
    weights = [torch.nn.Parameter(torch.zeros(n)) for n in (1, 4)]
    unused = torch.nn.Parameter(torch.zeros(2))
    weights[0].grad, weights[1].grad = torch.tensor([-2e-3]), torch.full((4,), 50.0)
    optim.normalise([*weights, unused])
    assert torch.allclose(weights[0].grad, torch.tensor([-1.0]), atol=1e-4)
    assert torch.allclose(weights[1].grad, torch.full((4,), 0.5))
    ppca = PPCA.random(5, 2, seed=1)
    step = Step(ppca.model(), ELBO())
    before = {name: p.detach().clone() for name, p in step.named_parameters()}
    fitter(step, 1, normalize=True).epoch(0, ppca.draw(24).split(8)[:1])
    for name, parameter in step.named_parameters():
        assert (parameter - before[name]).norm().item() == pytest.approx(1e-2, rel=1e-4), name


def test_a_fit_in_parts_is_said_in_its_task_and_learns(digits, tmp_path):
    task = fit_task(
        digits,
        tmp_path / "fit",
        accumulate=3,
        optimizer={"type": "adam", "lr": 3e-3, "normalize": True},
        objective=part("objectives", "elbo"),
    )
    LocalCompute(gpus_per_worker=0).train(task)
    events = Journal(Path(task.output) / "journal.jsonl").read()
    evidence = [e["metrics"]["val/log_evidence"] for e in events if e["event"] == "epoch"]
    assert evidence[-1] > evidence[0] + 1
