"""Where importance samples come from: q(z | x), or mixtures that leave no mode of p(z | x) out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal, constraints

from vaepipe.core import (
    DRAWS_AT_ONCE,
    Cap,
    LatentModel,
    Mixture,
    Purpose,
    Stream,
    by_row,
    join_draws,
    provided,
    refine,
    stream,
)
from vaepipe.core.noise import id_tensor
from vaepipe.core.row_noise import NoRowNoiseError, row_sample
from vaepipe.errors import CompatibilityError
from vaepipe.evaluation.moments import Moments

ProposalName = Literal["posterior", "defensive", "refined"]
PAGE = 512
"""Draws of a row that one stream makes: evidence at more samples holds no more of them."""
SHARES = (0.5, 0.3, 0.2)
"""Weights of q, of q widened, and of the prior."""
WIDER = 3.0
"""Standard deviations of the widened component, in those of q."""
REFINE_STEPS = 50
_CHECKS = 64
"""Draws by which a refined posterior has to show that it is better."""

Maker = Callable[[slice], Distribution]
"""One component of a mixture, for some of the rows."""


def pages(k: int) -> Iterator[tuple[int, int]]:
    """Number and size of the pages that k draws of a row are made of.

    Example:
        >>> list(pages(1200))
        [(0, 512), (1, 512), (2, 176)]
    """
    for page, begin in enumerate(range(0, k, PAGE)):
        yield page, min(PAGE, k - begin)


class Draws(NamedTuple):
    """Samples of the proposal."""

    z: Tensor
    """`[c, batch, *latent]`."""
    log_r: Tensor
    """Log density of the proposal, `[c, batch]`, nats."""


@torch.no_grad()
def row_draws(
    model: LatentModel, h: Tensor, ids: Sequence[int], k: int, stream: Stream
) -> tuple[Distribution, Tensor]:
    """q(z | x), and `[k, batch, *latent]` samples of it, each row's by the stream and its id alone.

    Where the density of a draw comes with it (`OwnDraws`), this q knows it for these samples.
    """
    q, head = model.inference.head(h), model.inference.head

    def one(place: int) -> tuple[Distribution, Tensor]:
        part = head(h[place : place + 1])
        return part, part.sample(torch.Size((k,)))

    return q, join_draws(q, by_row(one, ids, stream, h.device), dim=1)


@torch.no_grad()
def batch_draws(
    model: LatentModel, h: Tensor, ids: Sequence[int], k: int, stream: Stream
) -> tuple[Distribution, Tensor]:
    """As `row_draws`, of all rows at once where q allows it (`row_sample`): other draws, faster."""
    q = model.inference.head(h)
    try:
        return q, row_sample(q, id_tensor(ids, h.device), k, stream)
    except NoRowNoiseError:
        return row_draws(model, h, ids, k, stream)


@final
class MixtureProposal:
    """r = sum_j a_j r_j(z), each draw from a component chosen at random.

    Hesterberg (1995), *Weighted average importance sampling and defensive mixture distributions*:
    with a share a of the prior no weight exceeds max_z p(x | z) / a.

    Args:
        makers: components, for some of the rows.
        shares: a, `[batch, components]`, each row sums to one.
        h: any tensor `[batch, ...]` on the device of the draws.
        ids: the rows' ids.
        stream: of the draws.
    """

    def __init__(
        self, makers: Sequence[Maker], shares: Tensor, h: Tensor, ids: Sequence[int], stream: Stream
    ) -> None:
        self.makers, self.shares = tuple(makers), shares
        self.h, self.ids, self.stream = h, ids, stream

    def draw(self, page: int, count: int) -> Draws:
        """Draws and the log density of the mixture."""

        def one(place: int) -> Tensor:
            row = slice(place, place + 1)
            drawn = torch.stack([_drawn(make(row), count) for make in self.makers])
            which = torch.multinomial(self.shares[row][0], count, replacement=True)
            return drawn[which, torch.arange(count, device=drawn.device)]

        z = torch.cat(by_row(one, self.ids, self.stream.at(page), self.h.device), 1)
        return Draws(z, self.log_prob(z))

    def log_each(self, z: Tensor) -> Tensor:
        """log a_j r_j(z) `[c, batch, components]`."""
        every = slice(None)
        each = torch.stack([make(every).log_prob(z) for make in self.makers], -1)
        return each.double() + self.shares.double().log()

    def log_prob(self, z: Tensor) -> Tensor:
        """log r(z) `[c, batch]`, nats."""
        return self.log_each(z).logsumexp(-1)


def defensive(
    model: LatentModel,
    h: Tensor,
    ids: Sequence[int],
    seed: int,
    shares: Sequence[float] = SHARES,
    purpose: Purpose = Purpose.EVIDENCE,
) -> MixtureProposal:
    """q, q with three times its standard deviations, and the prior: .5, .3 and .2.

    The widened component is a factorised Normal. A posterior that does not live on the real
    numbers (bits, codes, points of a simplex) has none, and q and the prior share its draws.

    Raises:
        CompatibilityError: q(z | x) is a point mass, or its density is not known everywhere.
    """
    head, p = model.inference.head, model.p_z().z
    _check_density(model)
    makers: list[Maker] = [lambda rows: head(h[rows]), lambda rows: p]
    weights = [shares[0], shares[2]]
    if is_real(head(h)) and is_real(p):
        moments = row_moments(model, h, ids, stream(seed, Purpose.PROPOSAL_MOMENTS))
        wide = _normal(*moments.like(h), WIDER)
        makers.insert(1, wide)
        weights.insert(1, shares[1])
    total = torch.tensor(weights, device=h.device) / sum(weights)
    return MixtureProposal(makers, total.expand(len(h), -1), h, ids, stream(seed, purpose))


def refined_features(model: LatentModel, x: Tensor, h: Tensor, steps: int, noise: Stream) -> Tensor:
    """Features of each row's own best posterior in the family, as the `refine` of core finds them.

    Raises:
        CompatibilityError: draws of q(z | x) carry no gradient.
    """
    provides = provided(model.inference.head)
    if Cap.RSAMPLE not in provides:
        raise CompatibilityError(
            f"{_named(model)}: a refined posterior needs draws that carry gradients (RSAMPLE), "
            "which this family does not provide. Choose proposal 'defensive' or 'posterior', and "
            "no gaps."
        )
    return refine(model, x, h, steps=steps, noise=noise, checks=_CHECKS)


@torch.no_grad()
def row_moments(model: LatentModel, h: Tensor, ids: Sequence[int], stream: Stream) -> Moments:
    """Return the moments of q(z | x) of each row.

    Where they have no closed form they come from 256 draws, which the stream and the row's id alone
    decide: with `stream(seed, Purpose.MOMENTS)` they are the same in every command. A few draws are
    held at a time.
    """
    moments, page = Moments(model.inference.head(h)), 0
    while moments.wanted:
        count = min(moments.wanted, DRAWS_AT_ONCE)
        moments.add(batch_draws(model, h, ids, count, stream.at(page))[1])
        page += 1
    return moments


def is_real(d: Distribution) -> bool:
    """Whether its values are real numbers without bounds."""
    try:
        support: object = d.support
    except NotImplementedError:
        return False
    while (inner := getattr(support, "base_constraint", None)) is not None:  # events, mixtures
        support = inner
    return type(support) is type(constraints.real)


def normals(mean: Tensor, scale: Tensor, batch_dims: int = 1) -> Independent:
    """Factorised Normals, everything after the batch one event."""
    return Independent(Normal(mean, scale, validate_args=False), mean.ndim - batch_dims)


def mixture_of_normals(logits: Tensor, mean: Tensor, scale: Tensor) -> Mixture:
    """sum_j w_j N(mean_j, scale_j^2): logits `[batch, J]`, the others `[batch, J, *latent]`."""
    parts = normals(mean, scale, 2)
    return Mixture(Categorical(logits=logits), parts, validate_args=False)


def _normal(mean: Tensor, scale: Tensor, wider: float) -> Maker:
    return lambda rows: normals(mean[rows], wider * scale[rows])


def _drawn(d: Distribution, count: int) -> Tensor:
    """`[count, 1, *latent]`, of one row or of what all rows share."""
    z = d.sample(torch.Size((count,)))
    return z if d.batch_shape else z.unsqueeze(1)


def _check_density(model: LatentModel) -> None:
    provides = provided(model.inference.head)
    if Cap.DENSITY not in provides or Cap.CODES in provides:
        raise CompatibilityError(
            f"{_named(model)}: a mixture proposal needs a posterior with a density for any z "
            "(DENSITY); a code book's posterior is a point. Choose proposal 'posterior'."
        )


def _named(model: LatentModel) -> str:
    return f"family {type(model.inference.head).__name__}"
