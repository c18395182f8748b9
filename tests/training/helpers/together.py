"""A step of every objective that knows more of a batch than a sum over its examples.

Noise belongs to an example here, so that a batch and its parts, on one worker or on several, can
be compared to the last digits.
"""

import math
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from vaepipe_vq.family import VQ
from vaepipe_vq.objective import VQObjective
from vaepipe_vq.priors import UniformCodesPrior

from vaepipe.core import (
    SUPPORTS,
    Conditional,
    DataSpec,
    LatentModel,
    Purpose,
    row_uniform,
    seeded,
    stream,
)
from vaepipe.families.discrete import BernoulliFamily
from vaepipe.families.mixture import MixtureFamily
from vaepipe.families.normal import DiagonalNormal
from vaepipe.likelihoods.bernoulli import BernoulliLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.capacity import Capacity
from vaepipe.objectives.elbo import ELBO
from vaepipe.objectives.mmd import WAE, InfoVAE
from vaepipe.objectives.score import Reinforce
from vaepipe.objectives.total_correlation import BetaTC
from vaepipe.priors.discrete import BernoulliPrior
from vaepipe.priors.normal import StandardNormal
from vaepipe.priors.vamp import VampPrior
from vaepipe.training import loop, optim
from vaepipe.training.loop import Fitter, Step
from vaepipe.training.parts import Ranks

DATA = DataSpec((6,), SUPPORTS["boolean"], 100)
STEPS = 2
WIDTH = 3

OBJECTIVES = {
    "elbo": lambda: ELBO(),
    "free_bits": lambda: ELBO(free_bits=0.02, samples=7),
    "capacity": lambda: Capacity(capacity=0.1, samples=7),
    "beta_tc": lambda: BetaTC(estimator="stratified"),
    "beta_tc_weighted": lambda: BetaTC(estimator="weighted"),
    "info_vae": lambda: InfoVAE(kernel="rbf"),
    "wae_mmd": lambda: WAE(),
    "wae_vamp": lambda: WAE(),
    "beta_tc_mixture": lambda: BetaTC(),
    "wae_mixture": lambda: WAE(),
    "vq_ema": lambda: VQObjective(),
    "vq_gradient": lambda: VQObjective(),
    "reinforce_average": lambda: Reinforce(baseline="average", samples=7),
    "reinforce_learned": lambda: Reinforce(baseline="learned", samples=7),
}


class RowNoise(TorchDispatchMode):
    """Answers what is asked of torch's generators from numbers that belong to an example."""

    def __init__(self, ids):
        super().__init__()
        self.ids, self.asked = ids, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return out
        self.asked += 1
        rows = 0 if out.shape[0] == len(self.ids) else 1
        u = row_uniform(
            stream(self.asked, Purpose.PLUGIN),
            self.ids,
            (*out.shape[:rows], *out.shape[rows + 1 :]),
        )
        u = (u + 2.0**-25).movedim(0, rows).to(out)
        if func is torch.ops.aten.bernoulli.default:
            return (u < args[0]).to(out)
        if func is torch.ops.aten.multinomial.default:
            return (u * args[0].shape[-1]).long()
        return out.copy_(torch.special.ndtri(u))  # what is filled in place stays in its place


def batches(rows):
    """Examples `[STEPS, rows, 6]`, no two of them alike."""
    bits = torch.arange(2**6)[torch.randperm(2**6, generator=torch.Generator().manual_seed(1))]
    x = (bits[:, None] >> torch.arange(6)) & 1
    return x[: STEPS * rows].reshape(STEPS, rows, 6).double()


def model(name):
    """A small model for an objective, in which no dimension is like another."""
    discrete = name.startswith("reinforce")
    head = BernoulliFamily((WIDTH,)) if discrete else DiagonalNormal((WIDTH,))
    prior = BernoulliPrior((WIDTH,), DATA) if discrete else StandardNormal((WIDTH,), DATA)
    if name.endswith("mixture"):
        head = MixtureFamily((WIDTH,), components=2)
    if name.startswith("vq"):
        head = VQ((1, WIDTH), codes=4, update=name.removeprefix("vq_"), restart=0.0)
        head.usage.fill_(1.0)  # a book that has begun
        prior = UniformCodesPrior((1, WIDTH), DATA)
    if name.endswith("vamp"):
        prior = VampPrior((WIDTH,), DATA, components=4)
    latent = (1, WIDTH) if name.startswith("vq") else (WIDTH,)
    return LatentModel(
        Conditional(MLP((6,), head.feature_shape, hidden=[5]), head, (6,)),
        prior,
        Conditional(MLP(latent, (6,), hidden=[5]), BernoulliLikelihood(DATA), latent),
    )


def noisy(forward):
    """A forward pass with the noise of its examples."""

    def estimate(index, x, ctx):
        with RowNoise((x.long() << torch.arange(6)).sum(-1)):
            return forward(index, x, ctx)

    if isinstance(forward, DistributedDataParallel):
        estimate.no_sync = forward.no_sync
    return estimate


def fitter(step, accumulate, **options):
    """A fit by plain steps along the gradient."""
    settings = {"type": "sgd", "lr": 1e-2}
    usual = {"forward": step, "reduce": lambda table: table}
    return Fitter(
        name="fit",
        step=step,
        optimizers=loop.optimizers(step, settings),
        rate=optim.schedule(settings, 10),
        clip=None,
        steps=STEPS,
        num_examples=100,
        noise=lambda number: stream(number, Purpose.PLUGIN),
        accumulate=accumulate,
        **{**usual, **options},
    )


def gradients(name, rows, accumulate=1, world=1, rank=0):
    """The gradient of the second step, the metrics of both, and what is not trained."""
    with seeded(stream(3, Purpose.PLUGIN)):
        step = Step(model(name), OBJECTIVES[name]()).double()
    forward = noisy(DistributedDataParallel(step) if world > 1 else step)
    fit = fitter(step, accumulate, forward=forward, reduce=mean, ranks=Ranks(world, rank))
    metrics = fit.epoch(0, [x[rank::world] for x in batches(rows)])
    values = {n: p.grad for n, p in step.named_parameters() if p.grad is not None}
    return {**values, **dict(step.named_buffers())}, metrics


def mean(table):
    """The mean of a tensor over all ranks."""
    if distributed.is_initialized():
        distributed.all_reduce(table)
        table /= distributed.get_world_size()
    return table


def rank_of(number, world, rows, accumulate, folder):
    """One rank: the gradients of every objective go to a file."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    meet = f"file://{folder}/meet-{world}"
    distributed.init_process_group("gloo", init_method=meet, rank=number, world_size=world)
    results = {name: gradients(name, rows, accumulate, world, number) for name in OBJECTIVES}
    torch.save(results, Path(folder) / f"{world}-{number}.pt")
    distributed.destroy_process_group()


def largest_difference(one, other):
    """Of two dictionaries of tensors, relative to the size of all of them."""
    assert one.keys() == other.keys()
    gap = math.sqrt(sum((one[n] - other[n]).square().sum().item() for n in one))
    return gap / math.sqrt(sum(v.square().sum().item() for v in other.values()))
