"""The loop: which parameters move, how often, and what happens when numbers go bad."""

import pytest
import torch
from torch import Tensor, nn

from vaepipe.core import Estimate, Objective, Part, Phase, StepContext, Stream
from vaepipe.core.model import LatentModel
from vaepipe.errors import TrainingError
from vaepipe.training import loop, optim
from vaepipe.training.loop import Fitter, Step


class Scalar(nn.Module):
    """One number."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros((), dtype=torch.float64))


class Alternating(Objective):
    """Two phases with a target each: the first moves inference twice, the second the generator."""

    def __init__(self, bad_step: int = -1) -> None:
        super().__init__()
        self.bad_step = bad_step
        self.baseline = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.calls: list[str] = []

    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase("sleep", Part.INFERENCE, self.sleep, repeat=2),
            Phase("wake", Part.GENERATOR, self.wake),
        )

    def sleep(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        self.calls.append("sleep")
        return self._towards(model, x, model.inference.value - 1)

    def wake(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        self.calls.append("wake")
        return self._towards(model, x, model.generator.value - 2, bad=ctx.step == self.bad_step)

    def _towards(self, model, x, gap, bad=False) -> Estimate:
        cost = gap**2 + 0 * (model.inference.value + model.generator.value)
        bound = x.flatten(1).mean(1) - cost.detach()
        rate = torch.full_like(bound, torch.inf if bad else 1.0)
        return Estimate(bound, cost, {"rate": rate})


def fitter(objective, lr=0.1, clip=None, steps=5):
    step = Step(LatentModel(Scalar(), Scalar(), Scalar()), objective)
    settings = {"type": "sgd", "lr": lr}
    return Fitter(
        name="fit",
        step=step,
        forward=step,
        optimizers=loop.optimizers(step, settings),
        rate=optim.schedule(settings, 1000),
        clip=clip,
        steps=steps,
        num_examples=20,
        noise=Stream,
        reduce=lambda value: value,
    )


def batches(steps=5):
    return [torch.full((4, 2), float(i), dtype=torch.float64) for i in range(steps)]


def test_phases_run_in_order_as_often_as_they_say_and_move_their_own_part():
    objective = Alternating()
    fit = fitter(objective)
    fit.epoch(0, batches())
    assert objective.calls == ["sleep", "sleep", "wake"] * 5
    inference, generator = fit.step.model.inference.value, fit.step.model.generator.value
    # gradient descent with rate r on (w - t)^2 from 0 leaves t (1 - 2 r)^n after n steps
    assert inference.item() == pytest.approx(1 - 0.8**10)
    assert generator.item() == pytest.approx(2 * (1 - 0.8**5))
    assert fit.step.model.prior.value.item() == 0


def test_parameters_that_no_phase_moves_are_frozen():
    fit = fitter(Alternating())
    trained = {name for name, p in fit.step.named_parameters() if p.requires_grad}
    assert trained == {"model.inference.value", "model.generator.value"}


def test_the_report_is_the_mean_of_the_last_phase_over_the_epoch():
    fit = fitter(Alternating(), lr=0.0)
    assert fit.epoch(0, batches()) == {"rate": 1.0, "bound": pytest.approx(2.0 - 4.0)}


def test_long_epochs_are_averaged_in_blocks(monkeypatch):
    monkeypatch.setattr(loop, "BLOCK", 3)
    fit = fitter(Alternating(), lr=0.0, steps=11)
    assert fit.epoch(0, batches(11))["bound"] == pytest.approx(5.0 - 4.0)


@pytest.mark.parametrize("block", [1, 2, 256])
def test_examples_count_alike_in_batches_of_two_sizes(block, monkeypatch):
    """Ten examples in steps of 4, 3 and 3: their values are 0 to 9."""
    monkeypatch.setattr(loop, "BLOCK", block)
    x = torch.arange(10, dtype=torch.float64)[:, None].expand(10, 2)
    fit = fitter(Alternating(), lr=0.0, steps=3)
    assert fit.epoch(0, x.split([4, 3, 3]))["bound"] == pytest.approx(4.5 - 4.0, rel=1e-15)


def test_a_term_that_is_not_finite_is_named_with_epoch_and_step():
    fit = fitter(Alternating(bad_step=7))
    fit.epoch(0, batches())
    with pytest.raises(TrainingError) as caught:
        fit.epoch(1, batches())
    message = str(caught.value)
    assert message.startswith("fit: 'rate' became inf at step 7 (epoch 2, steps 5 to 9)")
    assert "optimizer.lr" in message
    assert "optimizer.clip" in message


def test_parameters_that_overflow_are_noticed_even_if_the_estimates_were_finite():
    fit = fitter(Alternating(), steps=1)
    fit.step.model.generator.value.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(TrainingError, match="the parameters became not finite at step 0"):
        fit.epoch(0, batches(1))


def test_clipping_bounds_the_step_that_a_gradient_makes():
    fit = fitter(Alternating(), lr=1.0, clip=0.25, steps=1)
    fit.epoch(0, batches(1))
    assert fit.step.model.generator.value.item() == pytest.approx(0.25)


def test_nothing_is_read_from_the_device_within_an_epoch(monkeypatch):
    fit = fitter(Alternating())
    read = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        original = getattr(Tensor, name)

        def spy(self, *args, _name=name, _original=original, **kwargs):
            read.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, spy)

    def watched():
        yield from batches()
        assert not read

    fit.epoch(0, watched())
    assert read  # once the epoch is over


def test_the_noise_of_an_epoch_does_not_depend_on_what_was_drawn_before():
    def draw(number):
        def rows():
            for x in batches():
                seen.append(torch.rand(()).item())
                yield x

        seen = []
        fitter(Alternating()).epoch(number, rows())
        return seen

    first = draw(3)
    torch.rand(100)
    assert draw(3) == first
    assert draw(4) != first


def test_a_fit_ends_when_it_is_told_to():
    fit = fitter(Alternating())
    seen = []

    def after(epoch, metrics):
        seen.append(epoch)
        return epoch == 3

    loop.fit(fit, range(1, 10), lambda number: iter(batches()), after)
    assert seen == [2, 3]
