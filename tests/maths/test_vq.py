"""Vector quantization: codes, gradients, books, and the bound, against what they should be."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch import distributed
from torch.distributions.kl import kl_divergence
from torch.nn.parallel import DistributedDataParallel
from vaepipe_vq.codes import AutoregressiveCodes, PointCodes, UniformCodes, nearest, perplexity
from vaepipe_vq.family import VQ, k_means
from vaepipe_vq.objective import VQObjective
from vaepipe_vq.priors import AutoregressiveCodesPrior, UniformCodesPrior

from vaepipe import registry
from vaepipe.core import (
    SUPPORTS,
    Conditional,
    DataSpec,
    LatentModel,
    StepContext,
    WholeBatch,
    build,
    check,
    has_closed_form,
    rate,
    rehearse,
)
from vaepipe.errors import CompatibilityError
from vaepipe.evaluation import score, validate
from vaepipe.likelihoods.bernoulli import BernoulliLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.elbo import ELBO
from vaepipe.training import checkpoint, loop
from vaepipe.training.parts import ONE, Parts, Ranks

DATA = DataSpec((5,), SUPPORTS["boolean"], 100)
LATENT = (2, 3)
CTX = StepContext(0, 0.0, 100)
ALL = WholeBatch()


def made(prior=None, **family):
    """A small model with K = 4 codes at n = 2 positions, and examples."""
    head = VQ(LATENT, **{"codes": 4, **family})
    model = LatentModel(
        Conditional(MLP((5,), LATENT, hidden=[8]), head, (5,)),
        prior or UniformCodesPrior(LATENT, DATA),
        Conditional(MLP(LATENT, (5,), hidden=[8]), BernoulliLikelihood(DATA), LATENT),
    )
    return model, torch.rand(16, 5).round()


def autoregressive(**options):
    return AutoregressiveCodesPrior(LATENT, DATA, **{"codes": 4, "hidden": 8, **options})


PRIORS = {"uniform": lambda: UniformCodesPrior(LATENT, DATA), "autoregressive": autoregressive}


def sequences(book, n=2):
    """Every sequence of n codes, as indices and as vectors."""
    grid = torch.cartesian_prod(*[torch.arange(len(book))] * n)
    return grid, book[grid]


def test_the_code_of_a_row_is_the_nearest_one_whatever_stands_beside_it():
    book, v = torch.randn(50, 3).float(), torch.randn(4000, 3).float()
    together = nearest(book, v)
    slow = (v[:, None].double() - book.double()).square().sum(-1).argmin(-1)
    assert torch.equal(together, slow)
    assert torch.equal(together, torch.cat([nearest(book, row) for row in v.split(1)]))


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_encoder_receives_the_decoders_gradient_exactly(update):
    """d log p(x | z_q) / d z_e is d log p(x | z_q) / d z_q, to the last bit; z_q is a code."""
    model, x = made(update=update)
    features = model.inference.features(x).detach().requires_grad_()
    q = model.inference.head(features)
    z = q.rsample((1,))
    assert torch.equal(z[0], q.vectors) and torch.equal(q.log_prob(z), torch.zeros(1, 16))
    (through,) = torch.autograd.grad(model.generator(z).log_prob(x).sum(), features)
    at_code = q.vectors.detach().requires_grad_()
    (direct,) = torch.autograd.grad(model.generator(at_code).log_prob(x).sum(), at_code)
    assert torch.equal(through, direct) and direct.any()


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_each_term_of_the_objective_moves_what_it_should(update):
    """Gradients by hand: 2 c (z_e - e) + the decoder's for z_e, 2 (e - z_e) for the book."""
    model, x = made(update=update)
    model.inference.head.begin(model.inference.features(x))
    before, captured = copy.deepcopy(model.inference.head), []

    def keep(module, args):
        args[0].retain_grad()
        captured.append(args[0])

    model.inference.head.register_forward_pre_hook(keep)
    VQObjective(commitment=0.5).estimate(model, x, CTX).surrogate.backward()
    (features,) = captured
    q = before(features)  # with the book as it was
    gap = (features - q.vectors).detach()
    at_code = q.vectors.detach().requires_grad_()
    (direct,) = torch.autograd.grad(-model.generator(at_code).log_prob(x).mean(), at_code)
    assert torch.allclose(features.grad, direct + 2 * 0.5 * gap / len(x), atol=1e-12)
    if update == "gradient":
        pulled = torch.zeros_like(q.book).index_add(0, q.codes.flatten(), -gap.flatten(0, 1))
        assert torch.allclose(model.inference.head.book.grad, 2 * pulled / len(x), atol=1e-12)


def test_the_rate_is_n_log_k():
    model, x = made()
    q, p = model.inference(x), model.p_z().z
    assert has_closed_form(q, p)
    assert torch.equal(kl_divergence(q, p), torch.full((16,), 2 * math.log(4)))
    assert torch.equal(kl_divergence(q, p), (q.log_prob(q.mean) - p.log_prob(q.mean)))


@pytest.mark.parametrize("prior", PRIORS)
def test_the_masses_of_all_sequences_add_up_to_one(prior):
    model, x = made(PRIORS[prior]())
    codes, z = sequences(model.inference.head.book)
    p, q = model.p_z().z, model.inference(x)
    assert p.log_prob(z).exp().sum().item() == pytest.approx(1)
    assert torch.allclose(q.log_prob(z[:, None]).exp().sum(0), torch.ones(16))
    assert torch.equal(p.log_prob(z + 0.1), torch.full((16,), -math.inf))
    visits = nearest(p.book, p.sample((20_000,)))
    share = (visits[:, None] == codes).all(-1).double().mean(0)
    mass = p.log_prob(z).exp()
    assert ((share - mass).abs() / (mass * (1 - mass) / 20_000).sqrt()).max() < 4.5


def test_the_autoregressive_prior_reads_only_what_came_before():
    """The mass of position i does not change with the codes from i on, and does before."""
    prior = AutoregressiveCodesPrior((5, 3), DATA, codes=4, hidden=8)
    codes = torch.randint(4, (1, 5))
    for i in range(5):
        other = codes.clone()
        other[:, i] = (codes[:, i] + 1) % 4
        changed = (prior.log_masses(codes) != prior.log_masses(other)).any(-1)[0]
        assert not changed[: i + 1].any() and changed[i + 1 :].all()


def test_an_autoregressive_rate_is_minus_the_log_mass_of_the_codes():
    model, x = made(autoregressive())
    q, p = model.inference(x), model.p_z().z
    assert isinstance(p, AutoregressiveCodes) and has_closed_form(q, p)
    assert torch.allclose(rate(q, p, q.mean), -p.log_prob(q.mean))


@pytest.mark.parametrize("prior", PRIORS)
def test_the_bound_is_below_the_evidence_by_what_the_other_codes_are_worth(prior):
    """log p(x) by summation over all K^n sequences; the bound keeps one term of the sum."""
    model, x = made(PRIORS[prior]())
    model.eval()
    _, z = sequences(model.inference.head.book)
    joint = model.generator(z[:, None]).log_prob(x) + model.p_z().z.log_prob(z)[:, None]
    estimate = VQObjective().estimate(model, x, CTX)
    assert (estimate.bound < joint.logsumexp(0)).all()
    q = model.inference(x)
    kept = (q.log_prob(z[:, None]) == 0).double().argmax(0)
    assert torch.allclose(estimate.bound, joint[kept, torch.arange(16)])
    terms = estimate.terms
    assert torch.allclose(estimate.bound, terms["log_lik"] - terms["rate"])


@pytest.mark.parametrize("prior", PRIORS)
def test_the_standard_evaluation_gives_the_bound(prior):
    """q has one value: k draws are worth one, and evidence, ELBO and bound are the same."""
    model, x = made(PRIORS[prior]())
    model.eval()
    bound = VQObjective().estimate(model, x, CTX).bound
    scores = score(model, x, range(16), k=7)
    for value in (scores.log_evidence, scores.elbo):
        assert torch.allclose(value, bound)
    assert torch.allclose(scores.ess, torch.full((16,), 7.0)) and not scores.scale.any()
    assert validate(model, x, k=3)["elbo"] == pytest.approx(bound.mean().item())


def test_running_means_are_the_ratio_of_averaged_sums_and_counts():
    """The update that is written for numbers that may vanish equals van den Oord's eqs. 6 to 8."""
    head = VQ(LATENT, codes=4, decay=0.9, restart=0.0)
    counts, sums = torch.zeros(4), torch.zeros(4, 3)
    for _ in range(20):
        q = head(torch.randn(16, *LATENT))
        chosen = torch.nn.functional.one_hot(q.codes.flatten(), 4).to(sums)
        counts = 0.9 * counts + 0.1 * 4 * chosen.mean(0)
        sums = 0.9 * sums + 0.1 * 4 * chosen.T @ q.features.flatten(0, 1) / len(chosen)
        head.learn(q, ALL)
    assert torch.allclose(head.usage, counts) and torch.allclose(head.book, sums / counts[:, None])


def test_a_code_that_nobody_takes_stays_finite_forever():
    head = VQ((1, 2), codes=8, decay=0.5, restart=0.0).float()
    before = head.book.clone()
    q = head(before[0].expand(4, 1, 2))
    for _ in range(500):
        head.learn(q, ALL)
    assert head.book.isfinite().all() and torch.equal(head.book[1:], before[1:])


def test_running_means_and_gradients_end_at_the_same_means():
    """Three clusters: both books become the centroids of the points that chose each vector."""
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    points = (centres[:, None] + 0.3 * torch.randn(3, 40, 2)).reshape(-1, 1, 2)
    books = {}
    for update in ("ema", "gradient"):
        head = VQ((1, 2), codes=3, update=update, decay=0.5, restart=0.0)
        with torch.no_grad():
            head.book.copy_(centres + 1)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.75) if update == "gradient" else None
        for _ in range(60):
            q = head(points)
            if optimizer:
                optimizer.zero_grad()
                (points - q.vectors).square().sum(-1).mean().backward()
                optimizer.step()
            head.learn(q, ALL)
        books[update] = head.book.detach()
    centroids = points.reshape(3, 40, 2).mean(1)
    for update, book in books.items():
        assert torch.allclose(book, centroids, atol=1e-9), update


def test_the_book_moves_in_training_only():
    model, x = made()
    before = copy.deepcopy(model.state_dict())
    rehearse(model, VQObjective(), DATA)
    model.eval()
    VQObjective().estimate(model, x, CTX)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.train()
    VQObjective().estimate(model, x, CTX)
    assert not torch.equal(before["inference.head.book"], model.inference.head.book)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_dead_codes_are_moved_onto_features(update):
    """Far from all features, every code but one starves; restarted, they are all in use."""
    head = VQ((1, 2), codes=16, update=update, decay=0.9, restart=0.1)
    with torch.no_grad():
        head.book.add_(100)
    points = torch.rand(400, 1, 2)
    assert perplexity(head(points).codes, 16) < 2
    for _ in range(60):
        head.learn(head(points), ALL)
    assert perplexity(head(points).codes, 16) > 8


@pytest.mark.parametrize("update", ["ema", "gradient"])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_a_book_starts_among_the_features_whatever_their_scale(scale, update):
    """It started at N(0, 1): all features beside it chose one code, for hundreds of steps."""
    head = VQ((2, 64), codes=32, update=update)
    features = scale * (3 + torch.randn(200, 2, 64))
    assert perplexity(head(features).codes, 32) < 32 / 4
    head.begin(features)
    assert perplexity(head(features).codes, 32) > 32 / 2
    before = head.book.detach().clone()
    head.begin(10 * features)
    assert torch.equal(head.book, before)


def test_a_book_begins_once_in_training_and_not_where_it_was_loaded():
    learned, fresh = VQ((2, 3), codes=4), VQ((2, 3), codes=4)
    features = torch.randn(50, 2, 3)
    learned.begin(features)
    learned.learn(learned(features), ALL)
    fresh.begin(features + 5)
    fresh.load_state_dict(learned.state_dict())
    fresh.begin(features + 5)
    assert torch.equal(fresh.book, learned.book)
    idle = VQ((2, 3), codes=4).eval()
    before = idle.book.clone()
    idle.begin(features)
    assert torch.equal(idle.book, before)


def test_k_means_are_closer_to_the_rows_than_rows_are():
    rows = torch.cat([c + 0.1 * torch.randn(300, 2) for c in (0.0, 5.0, 9.0)])

    def error(centres):
        return (rows - centres[nearest(centres, rows)]).square().sum(-1).mean()

    centres = k_means(rows, 12)
    assert error(centres) < 0.7 * error(rows[torch.randperm(900)[:12]])
    assert k_means(rows[:2], 5).shape == (5, 2)


def test_unused_codes_are_revived_from_the_first_steps_on():
    """Usage counts from nothing, so that a code need not be idle for 299 steps first."""
    head = VQ((1, 2), codes=16)
    points = torch.rand(400, 1, 2)
    with torch.no_grad():
        head.book.add_(100)
    for _ in range(3):
        head.learn(head(points), ALL)
    assert perplexity(head(points).codes, 16) > 8


@pytest.mark.parametrize(
    ("codes", "expected"), [([0, 0, 0], 1.0), ([0, 1, 2, 3], 4.0), ([0, 0, 1, 1], 2.0)]
)
def test_perplexity_counts_codes_in_use(codes, expected):
    assert perplexity(torch.tensor(codes), 8).item() == pytest.approx(expected)


def test_the_plain_bound_is_refused_and_says_why():
    with pytest.raises(CompatibilityError, match=r"needs rsample .*'vq'.* the rest: vq\."):
        check(VQ, UniformCodesPrior, ELBO, BernoulliLikelihood, DATA)
    check(VQ, UniformCodesPrior, VQObjective, BernoulliLikelihood, DATA)
    model, _ = made(update="gradient")
    with pytest.raises(CompatibilityError, match=r"trains: inference\.head\.book"):
        rehearse(model, ELBO(), DATA)


def test_priors_store_no_book_and_want_its_size():
    assert not UniformCodesPrior(LATENT, DATA).state_dict()
    model, _ = made(autoregressive(codes=7))
    with pytest.raises(CompatibilityError, match="write codes: 4 in the prior"):
        rehearse(model, VQObjective(), DATA)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_every_combination_passes_a_rehearsal(prior, update):
    model, _ = made(PRIORS[prior](), update=update)
    found = rehearse(model, VQObjective(), DATA)
    assert found.notes == {"rate": "closed form"}


def step(seed=0):
    torch.manual_seed(seed)
    return loop.Step(made(autoregressive(), restart=0.3, decay=0.8)[0], VQObjective())


ADAM = {"type": "adam", "lr": 0.01}


def trained(one, optimizers, epochs, ranks=ONE):
    for epoch in epochs:
        torch.manual_seed(10 * epoch + ranks.rank)
        for number in range(5):
            optimizers[0].zero_grad()
            ctx = StepContext(number, 0.0, 100, Parts(ranks, (16,)).batches()[0])
            one(0, torch.rand(16, 5).round(), ctx).surrogate.backward()
            optimizers[0].step()


def test_a_resumed_fit_has_the_same_book(tmp_path):
    """Book and usage are in the checkpoint: 2 epochs and 2 after a restart are 4 epochs."""
    whole = step()
    trained(whole, loop.optimizers(whole, ADAM), range(4))
    first = step()
    optimizers = loop.optimizers(first, ADAM)
    trained(first, optimizers, range(2))
    checkpoint.save(tmp_path / "c", checkpoint.State("f", epoch=2), first, optimizers)
    second = step(seed=9)
    optimizers = loop.optimizers(second, ADAM)
    checkpoint.restore(tmp_path / "c", second, optimizers)
    trained(second, optimizers, range(2, 4))
    expected = whole.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in second.state_dict().items())
    assert {"model.inference.head.book", "model.inference.head.usage"} <= set(expected)


def follow(rank, folder):
    """One of two workers, with half of each batch; noise differs between them."""
    torch.set_default_dtype(torch.float64)
    meet = f"file://{folder}/meet"
    distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    for name, head in heads().items():
        torch.manual_seed(rank)
        for batch in torch.load(f"{folder}/features.pt"):
            half = Parts(Ranks(2, rank), (8,)).batches()[0]
            head.learn(head(batch.chunk(2)[rank]), half)
        torch.save(head.state_dict(), f"{folder}/{name}-{rank}.pt")
    whole = step()
    parallel = DistributedDataParallel(whole)
    trained(parallel, loop.optimizers(whole, ADAM), range(2), Ranks(2, rank))
    torch.save(whole.state_dict(), f"{folder}/model-{rank}.pt")
    distributed.destroy_process_group()


def heads():
    """A book that is only averaged, and one whose dead codes are moved."""
    made = {}
    for name, restart in {"averaged": 0.0, "restarted": 0.5}.items():
        torch.manual_seed(0)
        made[name] = VQ(LATENT, codes=4, decay=0.7, restart=restart)
    return made


def test_two_workers_have_the_book_of_one(tmp_path):
    """Sums and counts are added up; moved codes, and all else in a fit, are the same on both."""
    features = torch.randn(6, 16, *LATENT)
    torch.save(features, tmp_path / "features.pt")
    run = "import runpy, sys; runpy.run_path(sys.argv[1])['follow'](1, sys.argv[2])"
    other = subprocess.Popen([sys.executable, "-c", run, __file__, tmp_path])
    follow(0, tmp_path)
    assert other.wait() == 0
    for name in (*heads(), "model"):
        one, two = (torch.load(tmp_path / f"{name}-{rank}.pt") for rank in range(2))
        assert all(torch.equal(one[key], two[key]) for key in one), name
    alone = heads()["averaged"]
    for batch in features:
        alone.learn(alone(batch), ALL)
    expected = torch.load(tmp_path / "averaged-0.pt")
    for key, value in alone.state_dict().items():
        assert torch.allclose(value, expected[key], atol=1e-12), key


def test_bundled_by_name():
    part = registry.part
    model = build(
        LATENT,
        DATA,
        encoder=part("networks", "mlp", {"hidden": [8]}),
        family=part("families", "vq", {"codes": 4}),
        prior=part("priors", "uniform_codes"),
        decoder=part("networks", "mlp", {"hidden": [8]}),
        likelihood=part("likelihoods", "bernoulli"),
    )
    q = model.inference(torch.zeros(2, 5))
    assert isinstance(q, PointCodes) and isinstance(model.p_z().z, UniformCodes)
    assert model.sample(3).mean.shape == (3, 5)
