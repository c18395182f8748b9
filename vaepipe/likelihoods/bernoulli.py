"""The Bernoulli likelihood of binary data, on logits."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import binary_cross_entropy_with_logits

from vaepipe.core import DataSpec, Likelihood, Shape


@final
class BernoulliLikelihood(Likelihood):
    """p(x | z) = prod_i Bernoulli(x_i; sigmoid(l_i)).

        log p(x | z) = sum_i x_i l_i - softplus(l_i),   l = features + logit(mean of the data)

    The constant offset makes zero features mean the base rate of every pixel, where the mean is
    known (Burda, Grosse and Salakhutdinov, 2016, start the output bias there); it is clipped to
    [0.001, 0.999] and stored with the weights.

    Args:
        data: shape and mean of x.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> head = BernoulliLikelihood(DataSpec((784,), SUPPORTS["boolean"], 1))
        >>> p = head(torch.zeros(3, 784))
        >>> round(p.log_prob(torch.ones(784))[0].item(), 2)
        -543.43
    """

    support = constraints.boolean
    offset: Tensor

    def __init__(self, data: DataSpec) -> None:
        super().__init__()
        self.feature_shape = tuple(data.shape)
        mean = torch.full(data.shape, 0.5) if data.mean is None else data.mean
        start = mean.to(torch.get_default_dtype()).reshape(data.shape).logit(1e-3)
        self.register_buffer("offset", start)

    def forward(self, h: Tensor) -> BernoulliLogits:
        """p(x | h) for features `h` `[*batch, *x]`."""
        return BernoulliLogits(h + self.offset, len(self.feature_shape))


@final
class BernoulliLogits(Distribution):
    """Independent Bernoulli variables over the last `event_ndim` dimensions of `logits`.

    The same numbers as `Independent(Bernoulli(logits=...), event_ndim)`, finite for any finite
    logit. The check that x is binary reads x once, not once for every draw of z, and cannot be
    switched off: a grey value raises.

    Args:
        logits: `[*batch, *event]`.
        event_ndim: how many trailing dimensions make one event.
    """

    def __init__(self, logits: Tensor, event_ndim: int) -> None:
        self.logits = logits
        self.event_ndim = event_ndim
        lead = logits.ndim - event_ndim
        super().__init__(logits.shape[:lead], logits.shape[lead:], validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """Any real logits."""
        return {"logits": constraints.real}

    @property
    def support(self) -> constraints.Constraint:
        """{0, 1} in every position of an event."""
        return constraints.independent(constraints.boolean, self.event_ndim)

    @property
    def mean(self) -> Tensor:
        """Probabilities, `[*batch, *event]`."""
        return self.logits.sigmoid()

    @property
    def mode(self) -> Tensor:
        """The likelier value of every position."""
        return (self.logits > 0).to(self.logits.dtype)

    @property
    def variance(self) -> Tensor:
        """p (1 - p), `[*batch, *event]`."""
        return self.mean * (-self.logits).sigmoid()

    def expand(self, batch_shape: Shape, _instance: Any = None) -> BernoulliLogits:
        """The same distribution for a larger batch."""
        logits = self.logits.expand(*batch_shape, *self.event_shape)
        return BernoulliLogits(logits, self.event_ndim)

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Zeros and ones, `[*sample, *batch, *event]`."""
        return torch.bernoulli(self.mean.expand(*sample_shape, *self.logits.shape))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, `[*batch]`, for `x` that broadcasts against the logits.

        Raises:
            ValueError: x holds a value that is neither 0 nor 1.
        """
        _require_binary(x)
        logits, x = torch.broadcast_tensors(self.logits, x)
        nats = binary_cross_entropy_with_logits(logits, x, reduction="none")
        return -nats.flatten(nats.ndim - self.event_ndim).sum(-1)


def _require_binary(x: Tensor) -> None:
    """x (x - 1) is zero at 0 and 1 only; on a GPU the check does not make the host wait."""
    grey = x * (x - 1)
    if x.is_cuda:
        torch.ops.aten._assert_async.msg((grey == 0).all(), _GREY)
    elif torch.count_nonzero(grey):
        raise ValueError(_GREY)


_GREY = (
    "a Bernoulli likelihood was given values other than 0 and 1. Set 'binarize: dynamic' in the "
    "dataset, or choose a likelihood for grey values."
)
