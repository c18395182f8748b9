"""Expectations under q by draws: of a mixture, a draw of every component, weighted.

The path of a draw from a mixture shows how its components move. What its weights are worth it shows
only in the gaps between the components, which no draw visits once they are some standard deviations
apart: the gradient of the weights is then zero in almost every sample, and its expectation is made
of draws that never come. Here weights are factors,

    E_q f(z) = sum_k w_k E_{q_k} f(z_k),   z_k ~ q_k,

so the gradient of w_k is f(z_k). Morningstar et al. (2021), eqs. 5 and 9.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaepipe.core.mixture import Mixture


def stratified(q: Distribution, k: int) -> Tensor:
    """Return draws z `[k S, *batch, *event]` that carry gradients, for `over_strata`.

    Args:
        q: batch shape `[*batch]`. A mixture of S components gives k draws of each; of any other
            distribution S is 1, and these are its own draws.
        k: independent estimates of an expectation.

    Example:
        >>> from torch.distributions import Categorical, Independent, Normal
        >>> parts = Independent(Normal(torch.zeros(5, 3, 2), torch.ones(5, 3, 2)), 1)
        >>> q = Mixture(Categorical(logits=torch.zeros(5, 3)), parts)
        >>> z = stratified(q, 4)
        >>> z.shape, over_strata(q, z.square().sum(-1)).shape
        (torch.Size([12, 5, 2]), torch.Size([4, 5]))
    """
    if not _weighs(q):
        return q.rsample(torch.Size((k,)))
    assert isinstance(q, Mixture)
    z = q.component_distribution.rsample(torch.Size((k,)))  # [k, *batch, S, *event]
    return z.movedim(1 + len(q.batch_shape), 1).flatten(0, 1)


def over_strata(q: Distribution, values: Tensor) -> Tensor:
    """Return k estimates `[k, *batch]` of E_q f from f(z) `[k S, *batch]` at `stratified` draws."""
    return (strata_weights(q) * _apart(q, values)).sum(1) if _weighs(q) else values


def log_over_strata(q: Distribution, values: Tensor) -> Tensor:
    """Return k estimates `[k, *batch]` of E_q exp(f), as logarithms, from f(z) `[k S, *batch]`."""
    return (_log_weights(q) + _apart(q, values)).logsumexp(1) if _weighs(q) else values


def strata_weights(q: Distribution) -> Tensor:
    """Return the weights w `[S, *batch]` of one draw of each component; one for other types."""
    return _log_weights(q).exp() if _weighs(q) else torch.ones(1, *q.batch_shape)


def _weighs(q: Distribution) -> bool:
    return isinstance(q, Mixture) and q.component_distribution.has_rsample


def _log_weights(q: Distribution) -> Tensor:
    """log w `[S, *batch]`."""
    assert isinstance(q, Mixture)
    return q.mixture_distribution.logits.log_softmax(-1).movedim(-1, 0)


def _apart(q: Distribution, values: Tensor) -> Tensor:
    """Values `[k S, *batch]` as `[k, S, *batch]`."""
    return values.unflatten(0, (-1, _log_weights(q).shape[0]))
