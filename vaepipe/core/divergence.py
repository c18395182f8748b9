"""KL(q || p): in closed form where torch's double dispatch has one, by draws elsewhere.

Whether there is a closed form is decided from the types alone, so a failure inside one is never
mistaken for its absence.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    OneHotCategorical,
    TransformedDistribution,
    kl,
)
from torch.distributions.kl import kl_divergence
from torch.nn.functional import softplus


def has_closed_form(q: Distribution, p: Distribution) -> bool:
    """Does torch's dispatch (`register_kl`, which plugins extend) know KL(q || p)?

    Example:
        >>> import torch
        >>> from torch.distributions import Laplace, Normal, StudentT
        >>> one = torch.ones(2)
        >>> q = Independent(Normal(one, one), 1)
        >>> has_closed_form(q, q), has_closed_form(q, Independent(StudentT(one), 1))
        (True, False)
    """
    entry = _entry(type(q), type(p))
    if entry is NotImplemented:
        return False
    if entry is kl._kl_expfamily_expfamily:
        return type(q) is type(p)
    if isinstance(q, TransformedDistribution) and isinstance(p, TransformedDistribution):
        return q.transforms == p.transforms and has_closed_form(q.base_dist, p.base_dist)
    return _factors_match(q, p)


def rate(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """KL(q || p), in nats: exact `[*batch]`, or log q(z) - log p(z) `[k, *batch]`.

    Args:
        q: the posterior, batch shape `[*batch]`.
        p: the prior, batch shape `[]` or `[*batch]`.
        z: draws from q, `[k, *batch, *latent]`; unused where there is a closed form.
    """
    if has_closed_form(q, p):
        return _divergence(q, p)
    return q.log_prob(z) - p.log_prob(z)


def rate_per_dimension(q: Distribution, p: Distribution, z: Tensor) -> Tensor | None:
    """The rate of every latent dimension, where q and p both factorise; else None.

    Returns:
        `[*batch, *latent]`, or `[k, *batch, *latent]` from draws; its sum over `latent` is `rate`.
    """
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    if q.base_dist.event_shape or p.base_dist.event_shape:
        return None
    return rate(q.base_dist, p.base_dist, z)


def _divergence(q: Distribution, p: Distribution) -> Tensor:
    """Return torch's KL, except where its formula loses what the log probabilities know."""
    if isinstance(q, Independent) and isinstance(p, Independent):
        each, inner = _divergence(q.base_dist, p.base_dist), _wrapped_dims(q)
        return each.flatten(each.ndim - inner).sum(-1) if inner else each
    exact = _FROM_LOGITS.get(_entry(type(q), type(p)))
    return kl_divergence(q, p) if exact is None else exact(q, p)


def _bits(q: Bernoulli, p: Bernoulli) -> Tensor:
    """KL of bits from their log odds a and b, broadcast; s is the sigmoid.

        s(a) (softplus(-b) - softplus(-a)) + s(-a) (softplus(b) - softplus(a))

    Torch's own entry is infinite where a probability of p rounds to 0 or 1: in float32 from log
    odds of 17 on.
    """
    a, b = q.logits, p.logits
    one = a.sigmoid() * (softplus(-b) - softplus(-a))
    zero = (-a).sigmoid() * (softplus(b) - softplus(a))
    return one + zero


def _codes(q: Categorical | OneHotCategorical, p: Categorical | OneHotCategorical) -> Tensor:
    """KL of categorical variables from their log probabilities, broadcast.

        sum_k q_k (log q_k - log p_k),   0 where log q_k = -inf

    Torch's own entry is infinite where a probability of p rounds to 0: in float32 from a log
    probability of -104 on.
    """
    impossible = q.logits == -torch.inf
    gap = torch.where(impossible, 0.0, q.logits.masked_fill(impossible, 0.0) - p.logits)
    return (q.logits.exp() * gap.masked_fill(impossible, 0.0)).sum(-1)


_FROM_LOGITS: dict[object, Callable[..., Tensor]] = {
    kl._kl_bernoulli_bernoulli: _bits,
    kl._kl_categorical_categorical: _codes,
    kl._kl_onehotcategorical_onehotcategorical: _codes,
}
"""By torch's own entries: where a plugin registers another one, that is used."""


def _factors_match(q: Distribution, p: Distribution) -> bool:
    """An entry for `Independent` promises only as much as the entry for what it wraps."""
    wrapped = [isinstance(d, Independent) for d in (q, p)]
    if not any(wrapped):
        return True
    if all(wrapped) and _wrapped_dims(q) != _wrapped_dims(p):
        return False
    return has_closed_form(_base(q), _base(p))


def _wrapped_dims(d: Distribution) -> int:
    return d.reinterpreted_batch_ndims if isinstance(d, Independent) else 0


def _base(d: Distribution) -> Distribution:
    return d.base_dist if isinstance(d, Independent) else d


def _entry(q: type, p: type) -> Callable[[Distribution, Distribution], Tensor]:
    """What `kl_divergence` would call; its own table, which `register_kl` empties."""
    if (q, p) not in kl._KL_MEMOIZE:
        kl._KL_MEMOIZE[q, p] = kl._dispatch_kl(q, p)
    return kl._KL_MEMOIZE[q, p]
