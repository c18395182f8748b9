"""Importance-sampled evidence and its parts, for each example, with standard errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaepipe.core import (
    LatentModel,
    Purpose,
    centre,
    has_closed_form,
    rate,
    rate_per_dimension,
    stream,
)
from vaepipe.evaluation.adaptive import refined
from vaepipe.evaluation.decoding import log_likelihood as log_likelihood
from vaepipe.evaluation.decoding import rows_at_once, squared_error
from vaepipe.evaluation.moments import Moments
from vaepipe.evaluation.proposals import (
    PAGE,
    REFINE_STEPS,
    MixtureProposal,
    ProposalName,
    defensive,
    pages,
    row_moments,
)
from vaepipe.evaluation.proposals import row_draws as row_draws
from vaepipe.evaluation.weights import LogMean, Weights, ladder
from vaepipe.evaluation.weights import summarise_weights as summarise_weights

ELBO_DRAWS = 100
"""Samples of q(z | x) behind the ELBO where the evidence has another proposal."""
REFINED_ROWS = 16
"""Rows that are refined together: steps cost little more for many rows than for one."""


class Scores(NamedTuple):
    """What is known of each example of a batch; nats unless said otherwise, float64.

    Shapes are `[batch]`, and `[batch, d]` from `mean` on, d = number of latent dimensions.
    """

    log_evidence: Tensor
    """log (1/k) sum_i p(x, z_i) / r(z_i | x), z_i ~ r: a lower bound in expectation."""
    log_evidence_se: Tensor
    """Standard error of `log_evidence` by the delta method: too small where `khat` exceeds 1/2, as
    the weights then have no finite variance."""
    ess: Tensor
    """Effective number of the k samples, (sum w)^2 / sum w^2."""
    khat: Tensor
    """Pareto shape of the weights' tail; the evidence cannot be trusted above
    min(0.7, 1 - 1/log10 k), `vaepipe.evaluation.tail.reliable_below`. May be NaN."""
    w_max: Tensor
    """Largest of the k weights as a share of their sum; near 1 one sample decides it all."""
    at: Mapping[int, Tensor]
    """`log_evidence` from the first k' of the same samples, for each k' that was asked for."""
    elbo: Tensor
    """`log_lik - rate`."""
    log_lik: Tensor
    """E_q log p(x | z)."""
    rate: Tensor
    """KL(q(z | x) || p(z)): in closed form where there is one, else the mean over the samples."""
    recon_mse: Tensor
    """Mean square of x - E[x | z] over its values, z the centre of q, in squared units of x; NaN
    where p(x | z) has no mean, or one that says nothing."""
    mean: Tensor
    """E_q z."""
    mean_se: Tensor
    """Standard error of `mean`: zero where that has a closed form."""
    scale: Tensor
    """Standard deviation of q(z | x) in each dimension."""
    rate_per_dimension: Tensor | None
    """The rate of each dimension, where q and p factorise."""
    closed: bool
    """Whether `rate` is in closed form."""


@torch.no_grad()
def score(
    model: LatentModel,
    x: Tensor,
    ids: Iterable[int],
    *,
    k: int | Iterable[int],
    seed: int = 0,
    proposal: ProposalName = "posterior",
    refine_steps: int = REFINE_STEPS,
) -> Scores:
    """Evidence, ELBO and rate of each example, with samples that its id seeds.

        log p(x) >= E log (1/k) sum_i p(x | z_i) p(z_i) / r(z_i | x),   z_i ~ r(z | x)

    The values of an example do not depend on the order of the rows nor (but for rounding) on its
    neighbours or on how many samples are decoded at a time. Memory does not grow with k: sums of
    weights are kept, and the largest few.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), eq. 8.
        https://arxiv.org/abs/1509.00519

    Args:
        model: p(x, z) with q(z | x).
        x: examples `[batch, *shape]`, at least one.
        ids: the examples' ids, `batch` of them.
        k: samples of each example; several numbers give a curve of nested estimates.
        seed: of the samples, together with the id.
        proposal: r: `posterior` is q(z | x); `defensive` mixes it with a wider one and the prior;
            `refined` does so around each row's own best posterior (`vaepipe.evaluation.adaptive`).
        refine_steps: of the refinement.

    Raises:
        CompatibilityError: the family does not provide what the proposal needs.

    Example:
        >>> from vaepipe.testing.exact import PPCA
        >>> ppca = PPCA.random(5, 2, seed=0)
        >>> found = score(ppca.model(), ppca.draw(3), [7, 8, 9], k=[1, 10])
        >>> found.log_evidence.shape, sorted(found.at)
        (torch.Size([3]), [1, 10])
    """
    numbers, ks = list(ids), ladder(k)
    size = block_rows(model, x, ks[-1], proposal)
    blocks = [
        _block(model, rows, numbers[i * size : (i + 1) * size], ks, seed, proposal, refine_steps)
        for i, rows in enumerate(x.split(size))
    ]
    return joined(blocks)


def block_rows(model: LatentModel, x: Tensor, k: int, proposal: ProposalName) -> int:
    """How many rows `score` evaluates together, whatever the batch it is given."""
    size = rows_at_once(model, x, min(PAGE, k))
    return max(size, REFINED_ROWS) if proposal == "refined" else size


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of several batches as one."""
    columns = dict(zip(Scores._fields, zip(*parts, strict=True), strict=True))
    curve = {k: torch.cat([at[k] for at in columns["at"]]) for k in columns["at"][0]}
    each = columns["rate_per_dimension"]
    whole = None if any(part is None for part in each) else torch.cat(each)
    named = ("at", "rate_per_dimension", "closed")
    rest = {name: torch.cat(column) for name, column in columns.items() if name not in named}
    return Scores(**rest, at=curve, rate_per_dimension=whole, closed=all(columns["closed"]))


def over_draws(value: Tensor, dims: int) -> Tensor:
    """A value of `dims` dimensions as it is; one with draws before them, its mean over draws."""
    return value if value.dim() == dims else value.mean(0)


def _block(
    model: LatentModel,
    x: Tensor,
    ids: Sequence[int],
    ks: Sequence[int],
    seed: int,
    name: ProposalName,
    refine_steps: int,
) -> Scores:
    """Rows that are evaluated together."""
    h = model.inference.features(x)
    moments = row_moments(model, h, ids, stream(seed, Purpose.MOMENTS))
    weights, parts = Weights(ks), _Parts(model, x, moments)
    if name == "posterior":
        _plain(model, x, h, ids, seed, weights, parts)
    else:
        mixture = _mixture(model, x, h, ids, seed, name, refine_steps)
        _weigh(model, x, mixture, weights)
        q, z = row_draws(model, h, ids, ELBO_DRAWS, stream(seed, Purpose.ELBO))
        parts.add(q, z, log_likelihood(model, x, z))
    return _scores(weights, parts, squared_error(model, x, parts.centre.to(h.dtype)))


def _plain(
    model: LatentModel,
    x: Tensor,
    h: Tensor,
    ids: Sequence[int],
    seed: int,
    weights: Weights,
    parts: _Parts,
) -> None:
    """Draws of q(z | x) serve the evidence and the ELBO."""
    p, own = model.p_z().z, stream(seed, Purpose.EVIDENCE)
    for page, count in pages(weights.ks[-1]):
        q, z = row_draws(model, h, ids, count, own.at(page))
        log_lik = log_likelihood(model, x, z)
        weights.add(log_lik + p.log_prob(z) - q.log_prob(z))
        parts.add(q, z, log_lik)


def _weigh(model: LatentModel, x: Tensor, proposal: MixtureProposal, weights: Weights) -> None:
    p = model.p_z().z
    for page, count in pages(weights.ks[-1]):
        z, log_r = proposal.draw(page, count)
        weights.add(log_likelihood(model, x, z) + p.log_prob(z) - log_r)


def _mixture(
    model: LatentModel,
    x: Tensor,
    h: Tensor,
    ids: Sequence[int],
    seed: int,
    name: ProposalName,
    refine_steps: int,
) -> MixtureProposal:
    if name == "refined":
        return refined(model, x, h, ids, seed, refine_steps)
    return defensive(model, h, ids, seed)


def _scores(weights: Weights, parts: _Parts, recon_mse: Tensor) -> Scores:
    at = weights.at()
    last: LogMean = at[weights.ks[-1]]
    return Scores(
        *last,
        khat=weights.khat(),
        w_max=weights.w_max(),
        at={k: found.value for k, found in at.items()},
        elbo=parts.log_lik - parts.rate,
        log_lik=parts.log_lik,
        rate=parts.rate,
        recon_mse=recon_mse,
        mean=_flat(parts.moments.mean),
        mean_se=_flat(parts.moments.mean_se),
        scale=_flat(parts.moments.scale),
        rate_per_dimension=parts.each,
        closed=parts.closed,
    )


@final
class _Parts:
    """Sums over draws of q(z | x), for what has no closed form."""

    def __init__(self, model: LatentModel, x: Tensor, moments: Moments) -> None:
        self.p, self.batch = model.p_z().z, len(x)
        self.q, self.moments = moments.q, moments
        self.closed = has_closed_form(self.q, self.p)
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, q: Distribution, z: Tensor, log_lik: Tensor) -> None:
        """Take in draws `[c, batch, *latent]` of q and their log likelihood `[c, batch]`."""
        self.count += len(z)
        self._sum("log_lik", log_lik)
        if not self.closed:
            self._sum("rate", rate(q, self.p, z))
        each = rate_per_dimension(q, self.p, z)
        if each is not None:
            self._sum("each", each if each.dim() == z.dim() else each.expand_as(z))

    @property
    def log_lik(self) -> Tensor:
        """E_q log p(x | z)."""
        return self._mean("log_lik")

    @property
    def rate(self) -> Tensor:
        """KL(q || p)."""
        if self.closed:
            nothing = torch.empty(0)
            return rate(self.q, self.p, nothing).double().expand(self.batch)
        return self._mean("rate")

    @property
    def centre(self) -> Tensor:
        """One latent that stands for q, `[batch, *latent]`: core's `centre`, from our draws."""
        return centre(self.q) if self.moments.known else self.moments.mean

    @property
    def each(self) -> Tensor | None:
        """The rate of each dimension."""
        return _flat(self._mean("each")) if "each" in self.sums else None

    def _sum(self, name: str, values: Tensor) -> None:
        total = values.double().sum(0)
        self.sums[name] = self.sums[name] + total if name in self.sums else total

    def _mean(self, name: str) -> Tensor:
        return self.sums[name] / self.count


def _flat(value: Tensor) -> Tensor:
    return value.reshape(len(value), -1)
