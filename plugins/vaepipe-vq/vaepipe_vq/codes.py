"""Distributions over sequences of codes, written as the vectors of a book.

n positions each hold one of the K vectors of a book `[K, d]`. Latents are the vectors, of event
shape `[*positions, d]`, so that a network reads them like any other; masses are those of indices.
Equality of vectors is exact: a latent that is not a vector of the book has log mass -inf.
"""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl
from torch.distributions.constraints import Constraint

from vaepipe.core import Shape

_AT_ONCE = 2**22
"""Distances that are held at the same time."""


@torch.no_grad()
def nearest(book: Tensor, v: Tensor) -> Tensor:
    """Index of the vector of the book that is nearest to v: argmin_j ||v - e_j||^2.

    Products are taken in float64, where those of float32 numbers are exact but for their sum: the
    index of a row does not depend on the rows beside it.

    Args:
        book: `[K, d]`.
        v: `[*batch, d]`.

    Returns:
        int64 `[*batch]`.

    Example:
        >>> nearest(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.4], [9.0]]))
        tensor([0, 1])
    """
    e = book.double()
    half = 0.5 * e.square().sum(-1)
    rows = v.reshape(-1, v.shape[-1])
    parts = rows.split(max(1, _AT_ONCE // len(book)))
    found = [(part.double() @ e.T - half).argmax(-1) for part in parts]
    return torch.cat(found).reshape(v.shape[:-1])


def perplexity(codes: Tensor, size: int) -> Tensor:
    """exp of the entropy of how often each code occurs: how many of them are in use.

        exp(-sum_j f_j log f_j),   f_j = share of code j in `codes`

    Van den Oord, Vinyals and Kavukcuoglu (2017), section 4, report it of their codes.

    Args:
        codes: indices of any shape.
        size: K, how many codes there are.

    Returns:
        `[]`, between 1 and K.

    Example:
        >>> round(perplexity(torch.tensor([0, 1, 2, 3]), 8).item(), 4)
        4.0
    """
    share = torch.bincount(codes.flatten(), minlength=size).to(torch.get_default_dtype())
    share = share / share.sum()
    return torch.special.entr(share).sum().exp()


@final
class InBook(Constraint):
    """Vectors of a book `[K, d]` at every position, in the last `event_dim` dimensions."""

    is_discrete = True

    def __init__(self, book: Tensor, event_dim: int) -> None:
        self.book = book
        self._event_dim = event_dim
        super().__init__()

    @property
    def event_dim(self) -> int:
        """How many dimensions make one latent."""
        return self._event_dim

    def check(self, value: Tensor) -> Tensor:
        """Which latents `[*batch, *positions, d]` are made of vectors of the book: `[*batch]`."""
        same = self.book[nearest(self.book, value)] == value
        return same.flatten(value.ndim - self._event_dim).all(-1)


class Codes(Distribution):
    """What distributions over sequences of codes share.

    Args:
        book: `[K, d]`.
        batch_shape: of the distribution.
        positions: shape of a sequence; its n positions are in row-major order.
    """

    def __init__(self, book: Tensor, batch_shape: Shape, positions: Shape) -> None:
        self.book = book
        self.positions = tuple(positions)
        event = torch.Size((*positions, book.shape[-1]))
        super().__init__(torch.Size(batch_shape), event, validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, Constraint]:
        """Any real vectors."""
        return {"book": constraints.real}

    @property
    def support(self) -> Constraint:
        """Vectors of the book at every position."""
        return InBook(self.book.detach(), len(self.event_shape))

    def _impossible(self, z: Tensor) -> Tensor:
        """0 for latents made of vectors of the book, else -inf: `[*batch]`."""
        return torch.where(InBook(self.book, len(self.event_shape)).check(z), 0.0, -math.inf)


@final
class PointCodes(Codes):
    """q(z | x): all mass on the vectors that are nearest to the features z_e.

        z_q = e_j,   j = argmin_j ||z_e - e_j||^2,   log q(z_q | x) = 0

    Van den Oord, Vinyals and Kavukcuoglu (2017), eqs. 1 and 2. `rsample` gives z_q, with the
    gradient of z_q handed to z_e as it is (the straight-through estimator of their section 3.2).
    That is not the derivative of an expectation, so `has_rsample` is False.

    Args:
        features: z_e, `[*batch, *positions, d]`.
        book: e, `[K, d]`.

    Example:
        >>> q = PointCodes(torch.tensor([[0.4], [9.0]]), torch.tensor([[0.0], [1.0]]))
        >>> q.codes, q.log_prob(q.sample((3,)))
        (tensor([0, 1]), tensor([0., 0., 0.]))
    """

    has_rsample = False

    def __init__(self, features: Tensor, book: Tensor, event_ndim: int = 2) -> None:
        self.features = features
        self.codes = nearest(book, features)
        lead = features.ndim - event_ndim
        super().__init__(book, features.shape[:lead], features.shape[lead:-1])

    @property
    def vectors(self) -> Tensor:
        """z_q `[*batch, *positions, d]`; its gradient reaches the book, not the features."""
        return self.book[self.codes]

    @property
    def mean(self) -> Tensor:
        """z_q."""
        return self.vectors

    @property
    def mode(self) -> Tensor:
        """z_q."""
        return self.vectors

    @property
    def variance(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.features)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> PointCodes:
        """The same distribution for a larger batch."""
        features = self.features.expand(*batch_shape, *self.event_shape)
        return PointCodes(features, self.book, len(self.event_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """z_q, as often as asked: `[*sample, *batch, *positions, d]`."""
        return self.vectors.expand(self._extended_shape(torch.Size(sample_shape))).clone()

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """z_q to the last bit, with the identity as its derivative with respect to z_e."""
        through = self.vectors.detach() + (self.features - self.features.detach())
        return through.expand(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, z: Tensor) -> Tensor:
        """0 where z is z_q, else -inf: `[*batch]`."""
        same = (z == self.vectors).flatten(z.ndim - len(self.event_shape)).all(-1)
        return torch.where(same, 0.0, -math.inf).to(self.book.dtype)


@final
class UniformCodes(Codes):
    """p(z) = K^-n: every sequence of n codes is as likely as any other.

    Args:
        book: `[K, d]`.
        positions: shape of a sequence.

    Example:
        >>> book = torch.tensor([[0.0], [1.0]])
        >>> round(UniformCodes(book, (3,)).log_prob(torch.ones(3, 1)).exp().item(), 4)
        0.125
    """

    def __init__(self, book: Tensor, positions: Shape) -> None:
        super().__init__(book, (), positions)

    @property
    def log_mass(self) -> float:
        """-n log K, nats."""
        return -math.prod(self.positions) * math.log(len(self.book))

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Vectors of codes drawn at random, `[*sample, *positions, d]`."""
        shape = (*sample_shape, *self.positions)
        return self.book[torch.randint(len(self.book), shape, device=self.book.device)]

    def log_prob(self, z: Tensor) -> Tensor:
        """-n log K, or -inf where z is not made of vectors of the book: `[*batch]`."""
        return (self._impossible(z) + self.log_mass).to(self.book.dtype)


@final
class AutoregressiveCodes(Codes):
    """p(z) = prod_i p(j_i | j_1 … j_{i-1}), for the codes j of z in row-major order.

    Args:
        book: `[K, d]`.
        positions: shape of a sequence.
        network: gives log p(j_i | j_1 … j_{i-1}) `[rows, n, K]` for codes `[rows, n]`; entry i
            must not depend on codes from i on.
    """

    def __init__(self, book: Tensor, positions: Shape, network: Any) -> None:
        self.network = network
        super().__init__(book, (), positions)

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Vectors of codes drawn one after the other, `[*sample, *positions, d]`."""
        rows, length = math.prod(sample_shape), math.prod(self.positions)
        codes = torch.zeros(rows, length, dtype=torch.int64, device=self.book.device)
        for i in range(length):
            weights = self.network(codes[:, : i + 1])[:, i].exp()
            codes[:, i] = torch.multinomial(weights, 1).squeeze(-1)
        return self.book[codes.reshape(*sample_shape, *self.positions)]

    def log_prob(self, z: Tensor) -> Tensor:
        """Nats, `[*batch]`; -inf where z is not made of vectors of the book."""
        log_mass = self.log_prob_of_codes(nearest(self.book, z))
        return log_mass + self._impossible(z).to(log_mass.dtype)

    def log_prob_of_codes(self, codes: Tensor) -> Tensor:
        """Nats, `[*batch]`, of indices `[*batch, *positions]`."""
        lead = codes.ndim - len(self.positions)
        rows = codes.reshape(-1, math.prod(self.positions))
        each = self.network(rows).gather(-1, rows.unsqueeze(-1)).squeeze(-1)
        return each.sum(-1).reshape(codes.shape[:lead])


@register_kl(PointCodes, UniformCodes)
def _kl_point_uniform(q: PointCodes, p: UniformCodes) -> Tensor:
    """n log K, whatever the codes."""
    return q.book.new_full(q.batch_shape, -p.log_mass)


@register_kl(PointCodes, AutoregressiveCodes)
def _kl_point_autoregressive(q: PointCodes, p: AutoregressiveCodes) -> Tensor:
    """-log p(z_q)."""
    return -p.log_prob_of_codes(q.codes)
