"""What all posteriors together say: where the rate goes, what the codes are good for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaepipe.core import LatentModel, Purpose, stream
from vaepipe.evaluation.proposals import row_draws

NEIGHBOURS = 15
_VALUES = 2**22


class Surgery(NamedTuple):
    """The rate of each of N examples, taken apart at one draw z ~ q(z | x); `[N]`, nats."""

    rate: Tensor
    """log q(z | x) - log p(z); its mean is mutual information plus marginal KL, exactly."""
    mutual_information: Tensor
    """log q(z | x) - log q(z): in the mean I_q(n; z), never above log N."""
    marginal_kl: Tensor
    """log q(z) - log p(z): in the mean KL(q(z) || p(z)), the aggregated-posterior gap."""
    total_correlation: Tensor | None
    """log q(z) - sum_d log q(z_d), where q factorises: how dependent the dimensions are."""


@torch.no_grad()
def surgery(model: LatentModel, h: Tensor, ids: Sequence[int], *, seed: int = 0) -> Surgery:
    """The rate as information about the example and distance of the aggregate from the prior.

        E_n KL(q(z | x_n) || p(z)) = I_q(n; z) + KL(q(z) || p(z)),   q(z) = (1/N) sum_n q(z | x_n)

    Hoffman and Johnson (2016), *ELBO surgery*, eqs. 8-9; total correlation: Chen et al. (2018),
    eq. 2. One draw of each posterior, seeded by its id; q(z) is the mixture of these N posteriors,
    a draw's own one included.

    Args:
        model: p(x, z) with q(z | x) whose density is known anywhere.
        h: features of the N examples, `[N, *feature_shape]`.
        ids: the examples' ids.
        seed: of the draws, together with the id.

    Example:
        >>> from vaepipe.testing.exact import PPCA
        >>> ppca = PPCA.random(5, 2, seed=0)
        >>> model, x = ppca.model(), ppca.draw(8)
        >>> parts = surgery(model, model.inference.features(x), range(8))
        >>> bool(parts.mutual_information.mean() <= math.log(8))
        True
    """
    _, z = row_draws(model, h, ids, 1, stream(seed, Purpose.SURGERY))
    z, n = z[0], len(h)
    own, mixed, marginals = _densities(model, h, z)
    log_q = mixed - math.log(n)
    log_p = model.p_z().z.log_prob(z).double()
    each = None if marginals is None else (marginals - math.log(n)).flatten(1).sum(1)
    return Surgery(own - log_p, own - log_q, log_q - log_p, None if each is None else log_q - each)


def _densities(model: LatentModel, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """log q(z_n | x_n), log sum_m q(z_n | x_m), and the same of each dimension; float64."""
    size = max(1, _VALUES // max(1, len(z) * z[0].numel()))
    own: list[Tensor] = []
    mixed: Tensor | None = None
    marginals: Tensor | None = None
    for begin in range(0, len(h), size):
        q = model.inference.head(h[begin : begin + size])
        each, joint = _pairs(q, z)
        own.append(joint[begin : begin + size].diagonal())
        mixed = _join(mixed, joint.logsumexp(1))
        marginals = None if each is None else _join(marginals, each.logsumexp(1))
    assert mixed is not None
    return torch.cat(own), mixed, marginals


def _pairs(q: Distribution, z: Tensor) -> tuple[Tensor | None, Tensor]:
    """log q(z_n | x_m) `[n, m]`, and of each dimension `[n, m, *latent]` where q factorises."""
    z = z.unsqueeze(1)
    if isinstance(q, Independent) and not q.base_dist.event_shape:
        each = q.base_dist.log_prob(z).double()
        return each, each.flatten(2).sum(-1)
    return None, q.log_prob(z.expand(-1, q.batch_shape[0], *z.shape[2:])).double()


def _join(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else torch.logaddexp(total, part)


def neighbours_agree(
    means: Tensor, labels: Sequence[object] | np.ndarray, k: int = NEIGHBOURS
) -> Tensor:
    """Whether most of a row's k nearest others have its label: 1 or 0 for each, `[n]`.

    Distances are Euclidean between the posterior means `[n, d]`, from differences in float64, so
    that means far from zero lose nothing; a tie goes to the label that sorts first. Its mean is the
    leave-one-out accuracy of k nearest neighbours.

    Example:
        >>> means = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
        >>> neighbours_agree(means, ["a", "a", "b", "a"], k=1).tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    _, numbers = np.unique(np.asarray(labels), return_inverse=True)
    classes = torch.as_tensor(numbers, device=means.device)
    k, found, means = min(k, len(means) - 1), [], means.double()
    for begin in range(0, len(means), 1024):
        rows = means[begin : begin + 1024]
        distance = torch.cdist(rows, means, compute_mode="donot_use_mm_for_euclid_dist")
        distance[torch.arange(len(rows)), begin + torch.arange(len(rows))] = torch.inf
        near = classes[distance.topk(k, largest=False).indices]
        votes = torch.nn.functional.one_hot(near, int(classes.max()) + 1).sum(1)
        found.append(votes.argmax(1) == classes[begin : begin + 1024])
    return torch.cat(found).double()


def code_perplexity(codes: Tensor) -> float:
    """How many entries of a code book are in use, exp of the entropy of their frequencies.

    van den Oord et al. (2017) report it in training; it is between 1 and the size of the book.

    Args:
        codes: indices, `[n, codes]`.

    Example:
        >>> round(code_perplexity(torch.tensor([[0, 1], [2, 3]])), 6)
        4.0
    """
    counts = torch.unique(codes.flatten(), return_counts=True)[1].double()
    shares = counts / counts.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def bits_per_dimension(nats: float, values: int) -> float:
    """-log p(x) / (D ln 2): nats of an example to bits of each of its D values.

    Example:
        >>> round(bits_per_dimension(-3072 * math.log(256), 3072), 6)
        8.0
    """
    return -nats / (values * math.log(2))
