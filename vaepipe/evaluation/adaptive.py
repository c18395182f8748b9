"""A proposal that learns where p(z | x) is, from weighted draws, before the evidence is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vaepipe.core import LatentModel, Purpose, Stream, stream
from vaepipe.evaluation.decoding import log_likelihood
from vaepipe.evaluation.proposals import (
    Draws,
    Maker,
    MixtureProposal,
    defensive,
    mixture_of_normals,
    pages,
    refined_features,
    row_moments,
)

DEFENSIVE_SHARE = 0.3
"""Share of the draws that come from the defensive mixture, where there are kernels."""
KERNEL_DIMS = 8
"""With more latent dimensions than these a few hundred draws cannot place local kernels."""
KERNELS = 16
ROUNDS = (1200, 500, 500)
"""Draws of each round of learning."""
_EM_STEPS = 10
_PILOT_SHARES = (0.1, 0.1, 0.8)
"""Of q, of q widened and of the prior in the first round: modes far from q are looked for."""
_EFFECTIVE = (40.0, 20.0, 12.0)
"""Effective number of draws that the kernels of each round are fitted to, at least."""
_FLOOR = 0.3
"""Smallest standard deviation of a kernel, in those of the refined posterior."""
_WIDEN = 1.15
"""Kernels are drawn a little wider than fitted: weights stay bounded."""
_TAIL_SHARE, _TAIL_SCALE = 0.25, 3.0
"""Beside each kernel stands a wider one of less weight."""


class _Fit(NamedTuple):
    """Weighted draws and the mixture of kernels they led to."""

    logits: Tensor  # [batch, J]
    mean: Tensor  # [batch, J, *latent]
    scale: Tensor


def refined(
    model: LatentModel, x: Tensor, h: Tensor, ids: Sequence[int], seed: int, steps: int
) -> MixtureProposal:
    """A defensive mixture around each row's own best posterior, and kernels on every mode found.

    First the features of q(z | x) are optimised for the row (`refine`), which closes the
    amortization gap. With few latent dimensions, draws from the defensive mixture around the
    result are then weighted, and Normal kernels fitted to the weighted draws by the EM steps of
    M-PMC, over three rounds (Cappe, Douc, Guillin, Marin and Robert, 2008, *Adaptive importance
    sampling in general mixture classes*, eqs. 6-8), so that a posterior of several modes is
    covered by as many kernels. The draws of the evidence are new ones: given the proposal they are
    independent, and the estimate stays a lower bound in expectation. Of these draws .7 come from
    the kernels and .3 from the defensive mixture.

    Args:
        model: p(x, z) with q(z | x).
        x: examples `[batch, *shape]`.
        h: the encoder's features.
        ids: the examples' ids.
        seed: of every draw, together with the id.
        steps: of Adam.
    """
    best = refined_features(model, x, h, steps, stream(seed, Purpose.PROPOSAL_REFINEMENT))
    start = defensive(model, best, ids, seed, _PILOT_SHARES, Purpose.PROPOSAL_PILOT)
    moments = row_moments(model, best, ids, stream(seed, Purpose.PROPOSAL_MOMENTS))
    mean, scale = moments.like(best)
    if mean[0].numel() > KERNEL_DIMS or len(start.makers) < 3:
        return defensive(model, best, ids, seed)
    fit = _learn(model, x, start, mean, scale)
    final = defensive(model, best, ids, seed)
    return _with_kernels(final, fit, final.stream)


def evaluations(steps: int, latent_dims: int) -> int:
    """How often p(x | z) is computed for one example before the first draw that counts.

    A step of `refine` and its gradient count as three; 64 checks compare two posteriors.

    Example:
        >>> evaluations(50, 2), evaluations(50, 32)
        (2478, 278)
    """
    pilot = sum(ROUNDS) if latent_dims <= KERNEL_DIMS else 0
    return 3 * steps + 2 * 64 + pilot


def _learn(
    model: LatentModel, x: Tensor, start: MixtureProposal, mean: Tensor, scale: Tensor
) -> _Fit:
    """Rounds of drawing, weighting and fitting; every draw so far counts in each fit."""
    p, fit, proposal = model.p_z().z, None, start
    used: list[MixtureProposal] = []
    draws: list[Tensor] = []
    joint: list[Tensor] = []
    for number, count in enumerate(ROUNDS):
        z, _ = _pages(proposal, count)
        used.append(proposal)
        draws.append(z)
        joint.append((log_likelihood(model, x, z) + p.log_prob(z)).double())
        every = torch.cat(draws)
        log_w = torch.cat(joint) - _density(used, ROUNDS, every)
        fit = _fitted(every, log_w, scale, _EFFECTIVE[number])
        proposal = _with_kernels(start, fit, start.stream.at("kernels", number))
    assert fit is not None
    return fit


def _pages(proposal: MixtureProposal, count: int) -> Draws:
    parts = [proposal.draw(page, size) for page, size in pages(count)]
    return Draws(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _density(used: Sequence[MixtureProposal], counts: Sequence[int], z: Tensor) -> Tensor:
    """Of the mixture of all rounds: what the draws are weighted by (deterministic mixture)."""
    shares = torch.tensor(counts[: len(used)], dtype=torch.double, device=z.device)
    each = torch.stack([proposal.log_prob(z) for proposal in used], -1)
    return (each + (shares / shares.sum()).log()).logsumexp(-1)


def _fitted(z: Tensor, log_w: Tensor, scale: Tensor, least: float) -> _Fit:
    """EM from kernels at resampled draws; weights `[n, batch]`, all in float64."""
    w = _tempered(log_w, least).softmax(0)  # [n, batch]
    points = z.double().flatten(2).transpose(0, 1)  # [batch, n, d]
    unit = scale.double().flatten(1).unsqueeze(1)  # [batch, 1, d]
    mean, variance = _centres(points, w.T), (unit**2).expand(-1, KERNELS, -1)
    logits = torch.zeros(mean.shape[:2], dtype=torch.double, device=z.device)
    for _ in range(_EM_STEPS):
        logits, mean, variance = _em(points, w.T, logits, mean, variance, unit)
    latent = (len(scale), 2 * KERNELS, *scale.shape[1:])
    spread = _WIDEN * variance.sqrt()
    logits = torch.cat([logits, logits + math.log(_TAIL_SHARE)], 1)
    mean, spread = torch.cat([mean, mean], 1), torch.cat([spread, _TAIL_SCALE * spread], 1)
    return _Fit(*(v.to(z.dtype) for v in (logits, mean.reshape(latent), spread.reshape(latent))))


def _tempered(log_w: Tensor, least: float) -> Tensor:
    """Weights to the largest power, at most 1, at which enough draws count: b log w `[n, batch]`.

    One lucky draw must not be all that the kernels learn from.
    """
    low, high = torch.zeros_like(log_w[0]), torch.ones_like(log_w[0])
    for _ in range(20):
        power = torch.where(_effective(high * log_w) >= least, high, (low + high) / 2)
        enough = _effective(power * log_w) >= least
        low, high = torch.where(enough, power, low), torch.where(enough, high, power)
    return torch.where(_effective(high * log_w) >= least, high, low) * log_w


def _effective(log_w: Tensor) -> Tensor:
    return torch.exp(2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0))


def _centres(points: Tensor, w: Tensor) -> Tensor:
    """Draws at evenly spaced quantiles of the weights, `[batch, J, d]`."""
    at = (torch.arange(KERNELS, dtype=w.dtype, device=w.device) + 0.5) / KERNELS
    order = points[..., 0].argsort(1)
    below = w.gather(1, order).cumsum(1).contiguous()
    chosen = torch.searchsorted(below, at.expand(len(w), -1).contiguous())
    chosen = order.gather(1, chosen.clamp(max=w.shape[1] - 1))
    return points.gather(1, chosen.unsqueeze(-1).expand(-1, -1, points.shape[-1]))


def _em(
    points: Tensor, w: Tensor, logits: Tensor, mean: Tensor, variance: Tensor, unit: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step: weights, means and variances of the kernels, from the weighted draws.

    The sums of each kernel include a share of a draw at its own centre with the prior variance,
    so that a kernel that few draws belong to keeps a size.
    """
    a = 0.5 / variance  # the square expanded: no tensor of shape [batch, n, J, d]
    square = points**2 @ a.mT - 2 * points @ (a * mean).mT + (a * mean**2).sum(-1).unsqueeze(1)
    log_each = (logits.log_softmax(-1) - 0.5 * variance.log().sum(-1)).unsqueeze(1) - square
    mine = log_each.softmax(-1) * w.unsqueeze(-1)  # [batch, n, J]
    total = mine.sum(1).clamp(min=1e-300)
    moved = mine.mT @ points / total.unsqueeze(-1)
    second = mine.mT @ points**2 / total.unsqueeze(-1)
    some = 1e-3 / (total.unsqueeze(-1) + 1e-3)
    fitted = (second - moved**2).clamp(min=0) * (1 - some) + some * unit**2
    return total.log(), moved, fitted.clamp(min=1e-12).maximum((_FLOOR * unit) ** 2)


def _with_kernels(start: MixtureProposal, fit: _Fit, stream: Stream) -> MixtureProposal:
    """The kernels, and the defensive mixture beside them."""

    def kernels(rows: slice) -> object:
        return mixture_of_normals(fit.logits[rows], fit.mean[rows], fit.scale[rows])

    makers: list[Maker] = [*start.makers, kernels]  # type: ignore[list-item]
    rest = torch.full_like(start.shares[:, :1], 1 - DEFENSIVE_SHARE)
    shares = torch.cat([DEFENSIVE_SHARE * start.shares, rest], 1)
    return MixtureProposal(makers, shares, start.h, start.ids, stream)
