"""The family whose posterior is a point mass on codes, and how its book is learned."""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
from annotated_types import Ge, Lt
from torch import Tensor, distributed, nn

from vaepipe.core import Cap, Family, Shape
from vaepipe.errors import CompatibilityError
from vaepipe_vq.codes import PointCodes

_SMALLEST = 1e-8
"""Where the usage of a code that nobody takes stops to fall, so that it never divides by zero."""


@final
class VQ(Family):
    """q(z | x): each position of z_e(x) is replaced by the nearest vector of a book.

    Van den Oord, Vinyals and Kavukcuoglu (2017), eqs. 1 and 2; the features are z_e itself. With
    `update: gradient` the book is a parameter that the objective pulls towards z_e (their eq. 3).
    With `update: ema` it is a buffer, and each vector is the running mean of the z_e that chose it
    (their appendix A.1); the objective calls `learn` once for every batch, and several workers
    add up what they saw, so that the book is that of one worker with the whole batch.

    It does not promise `rsample`: the straight-through gradient is no derivative of an
    expectation, and an objective that relies on one would leave the book where it is.

    Args:
        latent_shape: `[*positions, d]`, d being the dimension of the vectors.
        codes: K, how many vectors the book has.
        update: how the book is learned.
        decay: of the running means, and of the usage of codes, per update.
        restart: a code chosen less often than this share of 1/K is moved onto a random z_e of the
            batch; 0 leaves it.

    Raises:
        CompatibilityError: the latent shape is empty.

    Example:
        >>> q = VQ((16, 4), codes=32)(torch.randn(5, 16, 4))
        >>> q.codes.shape, q.event_shape
        (torch.Size([5, 16]), torch.Size([16, 4]))
    """

    provides = Cap.SAMPLE | Cap.DENSITY | Cap.CODES
    conformance = {"latent_shape": (2, 3), "options": {"codes": 4}}
    book: Tensor
    usage: Tensor

    def __init__(
        self,
        latent_shape: Shape,
        *,
        codes: Annotated[int, Ge(2)] = 64,
        update: Literal["ema", "gradient"] = "ema",
        decay: Annotated[float, Ge(0), Lt(1)] = 0.99,
        restart: Annotated[float, Ge(0), Lt(1)] = 0.05,
    ) -> None:
        super().__init__()
        if not latent_shape:
            raise CompatibilityError(
                "family 'vq' needs a latent_shape [n, d]: n positions, vectors of dimension d."
            )
        self.feature_shape = tuple(latent_shape)
        self.update, self.decay, self.restart = update, decay, restart
        start = torch.randn(codes, latent_shape[-1])
        if update == "ema":
            self.register_buffer("book", start)
        else:
            self.book = nn.Parameter(start)
        self.register_buffer("usage", torch.ones(codes))

    def forward(self, h: Tensor) -> PointCodes:
        """q(z | h) for features `h` `[*batch, *positions, d]`; it changes nothing."""
        return PointCodes(h, self.book, len(self.feature_shape))

    @torch.no_grad()
    def learn(self, q: PointCodes) -> None:
        """Follow a batch that was just quantized; in training mode only.

            u_j <- g u_j + (1 - g) K f_j,   e_j <- e_j + (1 - g) K (s_j - f_j e_j) / u_j

        f_j is the share of code j among all n * batch codes of all workers, s_j the sum of the z_e
        that chose it, divided by as much; g is the decay. So u_j is one where codes are used
        evenly, and e_j is the ratio of the running means of s_j and f_j. Van den Oord et al.
        (2017), eqs. 6 to 8.

        Args:
            q: what `forward` gave for the batch.
        """
        if not self.training:
            return
        features, codes = q.features.detach().flatten(0, -2), q.codes.flatten()
        share, total = _shares(features, codes, len(self.book))
        weight = (1 - self.decay) * len(self.book)
        self.usage.mul_(self.decay).add_(weight * share).clamp_(min=_SMALLEST)
        if self.update == "ema":
            gap = total - share.unsqueeze(-1) * self.book
            self.book.add_(weight * gap / self.usage.unsqueeze(-1))
        if self.restart:
            self._restart(features)

    def _restart(self, features: Tensor) -> None:
        """Every code that is hardly used gets another place, the same on all workers."""
        picks = torch.randint(len(features), (len(self.book),), device=features.device)
        places = features[picks].contiguous()
        if _several():
            distributed.broadcast(places, src=0)
        dead = self.usage < self.restart
        self.book.copy_(torch.where(dead.unsqueeze(-1), places, self.book))
        self.usage.masked_fill_(dead, 1.0)


def _shares(features: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """f `[K]` and s `[K, d]` over the rows of all workers: features `[rows, d]`, codes `[rows]`."""
    sums = features.new_zeros(size, features.shape[-1] + 1)
    sums.index_add_(0, codes, torch.cat([features, torch.ones_like(features[:, :1])], -1))
    if _several():
        distributed.all_reduce(sums)
    sums /= sums[:, -1].sum()
    return sums[:, -1], sums[:, :-1]


def _several() -> bool:
    available = distributed.is_available() and distributed.is_initialized()
    return available and distributed.get_world_size() > 1
