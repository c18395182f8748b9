"""The step of a batch in parts, on one worker or on several, is that of the whole batch."""

import multiprocessing

import pytest
import torch
from together import OBJECTIVES, fitter, gradients, largest_difference, rank_of

from vaepipe.core import StepContext, WholeBatch
from vaepipe.errors import CompatibilityError
from vaepipe.objectives.elbo import ELBO
from vaepipe.testing.exact import PPCA
from vaepipe.training.loop import Step, require_examples
from vaepipe.training.parts import ONE, Parts

ROWS = 10


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("accumulate", [2, 4, 10])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_parts_have_the_gradient_of_the_whole_batch(name, accumulate):
    """Equal parts, unequal ones, single examples."""
    whole, metrics = gradients(name, ROWS)
    parts, other = gradients(name, ROWS, accumulate)
    assert largest_difference(parts, whole) < 1e-9
    assert other == pytest.approx(metrics, rel=1e-9)


@pytest.mark.parametrize(("world", "accumulate"), [(2, 3), (4, 1)])
def test_workers_have_the_gradient_of_the_whole_batch(world, accumulate, tmp_path):
    rows = ROWS if world == 2 else 12
    context = multiprocessing.get_context("spawn")
    task = (world, rows, accumulate, str(tmp_path))
    ranks = [context.Process(target=rank_of, args=(i, *task)) for i in range(world)]
    for process in ranks:
        process.start()
    whole = {name: gradients(name, rows) for name in OBJECTIVES}
    for process in ranks:
        process.join(timeout=240)
    assert [process.exitcode for process in ranks] == [0] * world
    for number in range(world):
        found = torch.load(tmp_path / f"{world}-{number}.pt")
        for name, (expected, metrics) in whole.items():
            assert largest_difference(found[name][0], expected) < 1e-9, name
            assert found[name][1] == pytest.approx(metrics, rel=1e-9), name


class Spy(ELBO):
    """An ELBO that keeps what it drew and what it was answered, in every pass over a part."""

    def __init__(self):
        super().__init__()
        self.couples, self.seen = True, []

    def estimate(self, model, x, ctx):
        drawn = torch.randn(len(x))
        self.seen.append((drawn, ctx.batch.rows(drawn)))
        return super().estimate(model, x, ctx)


def test_both_passes_over_the_parts_draw_the_same_numbers():
    spy = Spy()
    step = Step(PPCA.random(5, 2, seed=1).model(), spy)
    fitter(step, 3).epoch(0, torch.randn(1, 7, 5))
    first, second = spy.seen[:3], spy.seen[3:]
    drawn = torch.cat([mine for mine, _ in first])
    assert [len(mine) for mine, _ in second] == [3, 3, 1]
    assert torch.equal(drawn, torch.cat([mine for mine, _ in second]))
    assert all(torch.equal(answer, drawn) for _, answer in second)


def test_every_part_is_answered_with_the_rows_of_all():
    parts = Parts(ONE, (3, 2))
    surveys = parts.survey()
    own = [torch.randn(3), torch.randn(2)]
    assert [len(survey.rows(rows)) for survey, rows in zip(surveys, own, strict=True)] == [5, 5]
    parts.hear(surveys)
    for batch, rows in zip(parts.batches(), own, strict=True):
        assert torch.equal(batch.rows(rows), torch.cat(own))


def test_sums_are_known_once_when_the_last_part_is_here():
    first, second = Parts(ONE, (3, 2)).batches()
    assert first.total(torch.ones(2)) is None and first.total(torch.tensor(7.0)) is None
    assert torch.equal(second.total(torch.ones(2)), torch.full((2,), 2.0))
    assert second.total(torch.tensor(1.0)) == 8.0
    assert torch.equal(WholeBatch().total(torch.ones(2)), torch.ones(2))


def test_an_objective_that_does_not_declare_it_gets_no_rows():
    part = Parts(ONE, (3, 2)).batches()[0]
    with pytest.raises(CompatibilityError, match="set `couples = True`"):
        part.rows(torch.ones(3))


@pytest.mark.parametrize("name", ["info_vae", "wae_mmd", "beta_tc"])
def test_a_batch_without_pairs_is_refused(name):
    """One example has no distance to another: it gave -.977 for a discrepancy of about 0."""
    with pytest.raises(CompatibilityError, match=r"at least 2, got 1.*Raise `batch_size`"):
        require_examples(OBJECTIVES[name](), 1)
    require_examples(OBJECTIVES[name](), 2)
    model, x = PPCA.random(5, 2, seed=1).model(), torch.randn(1, 5)
    if name != "beta_tc":
        with pytest.raises(CompatibilityError, match="needs two draws"):
            OBJECTIVES[name]().estimate(model, x, StepContext(0, 0.0, 100))
