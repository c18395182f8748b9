"""How far q(z | x) falls short of log p(x), and whose fault it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vaepipe.core import LatentModel, Purpose, rate, stream
from vaepipe.evaluation.decoding import log_likelihood, rows_at_once
from vaepipe.evaluation.evidence import over_draws
from vaepipe.evaluation.proposals import refined_features, row_draws

DRAWS = 256
STEPS = 200


class Gaps(NamedTuple):
    """Of each example, `[batch]`, nats."""

    approximation: Tensor
    """log p(x) - L[q*]: what the best member of the family misses."""
    amortization: Tensor
    """L[q*] - L[q]: what the encoder loses against the example's own best posterior."""


@torch.no_grad()
def gaps(
    model: LatentModel,
    x: Tensor,
    ids: Sequence[int],
    *,
    log_evidence: Tensor,
    elbo: Tensor,
    steps: int = STEPS,
    seed: int = 0,
) -> Gaps:
    """The approximation gap and the amortization gap; they add up to log_evidence - elbo.

        log p(x) - L[q] = (log p(x) - L[q*]) + (L[q*] - L[q]),   q* = argmax over the family

    Cremer, Li and Duvenaud (2018), *Inference suboptimality in variational autoencoders*, eq. 4.
    q* is found by gradient ascent on the features (`refine`), so L[q*] is at most the optimum;
    both ELBOs use the same noise, so their difference is known better than either.

    Args:
        model: p(x, z) with q(z | x); its family provides `RSAMPLE`.
        x: examples `[batch, *shape]`.
        ids: the examples' ids.
        log_evidence: of the examples, `[batch]`.
        elbo: of the examples, `[batch]`.
        steps: of Adam.
        seed: of the draws, together with the id.

    Raises:
        CompatibilityError: draws of q(z | x) carry no gradient.
    """
    size, numbers = rows_at_once(model, x, DRAWS), list(ids)
    won = [
        _won(model, rows, numbers[i * size : (i + 1) * size], steps, seed)
        for i, rows in enumerate(x.split(size))
    ]
    amortization = torch.cat(won)
    return Gaps(log_evidence - elbo - amortization, amortization)


def _won(model: LatentModel, x: Tensor, ids: Sequence[int], steps: int, seed: int) -> Tensor:
    h = model.inference.features(x)
    best = refined_features(model, x, h, steps, stream(seed, Purpose.GAPS_REFINEMENT))
    return _elbo(model, x, best, ids, seed) - _elbo(model, x, h, ids, seed)


def _elbo(model: LatentModel, x: Tensor, h: Tensor, ids: Sequence[int], seed: int) -> Tensor:
    q, z = row_draws(model, h, ids, DRAWS, stream(seed, Purpose.GAPS))
    cost = over_draws(rate(q, model.p_z().z, z), 1)
    return log_likelihood(model, x, z).double().mean(0) - cost.double()
