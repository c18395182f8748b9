"""The family whose posterior is a point mass on codes, and how its book is learned."""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
from annotated_types import Ge, Lt
from torch import Tensor, distributed, nn

from vaepipe.core import Cap, Family, Shape, WholeBatch
from vaepipe.errors import CompatibilityError
from vaepipe_vq.codes import PointCodes, nearest

_SMALLEST = 1e-8
"""Where the usage of a code that nobody takes stops to fall, so that it never divides by zero."""
_ITERATIONS = 10
"""Of k-means, before the first batch is quantized."""
_ROWS_PER_CODE = 16
"""Features that k-means looks at, at most."""


@final
class VQ(Family):
    """q(z | x): each position of z_e(x) is replaced by the nearest vector of a book.

    Van den Oord, Vinyals and Kavukcuoglu (2017), eqs. 1 and 2; the features are z_e itself. With
    `update: gradient` the book is a parameter that the objective pulls towards z_e (their eq. 3).
    With `update: ema` it is a buffer, and each vector is the running mean of the z_e that chose it
    (their appendix A.1). The objective calls `begin` and `learn` for every batch; workers and parts
    of a batch add up what they saw, so that the book is that of one worker with the whole batch.

    The book starts at the k-means of the features of the first batch, whatever their scale.

    It does not promise `rsample`: the straight-through gradient is no derivative of an
    expectation, and an objective that relies on one would leave the book where it is.

    Args:
        latent_shape: `[*positions, d]`, d being the dimension of the vectors.
        codes: K, how many vectors the book has.
        update: how the book is learned.
        decay: of the running means, and of the usage of codes, per update.
        restart: a code that was chosen less often than this share of the mean is moved onto a
            random z_e of the batch; 0 leaves it.

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
        self.register_buffer("usage", torch.zeros(codes))
        self._begun = False
        self.register_load_state_dict_post_hook(_forget)

    def forward(self, h: Tensor) -> PointCodes:
        """q(z | h) for features `h` `[*batch, *positions, d]`; it changes nothing."""
        return PointCodes(h, self.book, len(self.feature_shape))

    @torch.no_grad()
    def begin(self, features: Tensor) -> None:
        """Put the book at the k-means of the first features that are seen in training mode.

        Args:
            features: z_e, `[*batch, *positions, d]`.
        """
        if self._begun or not self.training:
            return
        self._begun = True
        if self.usage.any():  # the weights of a fit that goes on, or of another model
            return
        book = k_means(features.detach().flatten(0, -2), len(self.book))
        self.book.copy_(_from_first_worker(book))

    @torch.no_grad()
    def learn(self, q: PointCodes, batch: WholeBatch) -> None:
        """Follow a batch that was just quantized; in training mode only.

            u_j <- g u_j + (1 - g) K f_j,   e_j <- e_j + (1 - g) K (s_j - f_j e_j) / u_j

        f_j is the share of code j among all n * batch codes, s_j the sum of the z_e that chose it,
        divided by as much; g is the decay. Both u and the sums of z_e that it divides start at 0,
        so e_j is the ratio of their running means from the first batch on. Van den Oord et al.
        (2017), eqs. 6 to 8.

        Args:
            q: what `forward` gave for the examples at hand.
            batch: that they belong to.
        """
        if not self.training:
            return
        features = q.features.detach().flatten(0, -2)
        sums = batch.total(_sums(features, q.codes.flatten(), len(self.book)))
        if sums is None:
            return
        sums = sums / sums[:, -1].sum()
        share, total = sums[:, -1], sums[:, :-1]
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
        places, mean = _from_first_worker(features[picks]), self.usage.mean()
        dead = self.usage < self.restart * mean
        self.book.copy_(torch.where(dead.unsqueeze(-1), places, self.book))
        self.usage.copy_(torch.where(dead, mean, self.usage))


@torch.no_grad()
def k_means(rows: Tensor, k: int) -> Tensor:
    """Return k centres `[k, d]` of rows `[n, d]`: Lloyd's iterations from random rows.

    Lloyd (1982). A centre that no row is nearest to stays where it is. Of many rows a random part
    is looked at; where rows are fewer than centres, some centres are the same.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> rows = torch.tensor([[0.0], [1.0], [9.0], [11.0]])
        >>> k_means(rows, 2).flatten().sort().values
        tensor([ 0.5000, 10.0000])
    """
    order = torch.randperm(len(rows), device=rows.device)[: _ROWS_PER_CODE * k]
    rows = rows[order]
    centres = rows[torch.arange(k, device=rows.device) % len(rows)]
    for _ in range(_ITERATIONS):
        sums = _sums(rows, nearest(centres, rows), k)
        means = sums[:, :-1] / sums[:, -1:].clamp(min=1)
        centres = torch.where(sums[:, -1:] > 0, means, centres)
    return centres


def _forget(family: VQ, keys: object) -> None:
    """Let `begin` look again at whether the book is in use, after a state was loaded."""
    family._begun = False


def _sums(features: Tensor, codes: Tensor, size: int) -> Tensor:
    """`[K, d + 1]`: sums of the features `[rows, d]` of each code, and how many those are."""
    sums = features.new_zeros(size, features.shape[-1] + 1)
    ones = torch.ones_like(features[:, :1])
    return sums.index_add_(0, codes, torch.cat([features, ones], -1))


def _from_first_worker(value: Tensor) -> Tensor:
    """The first worker's tensor, on all workers."""
    value = value.contiguous()
    if _several():
        distributed.broadcast(value, src=0)
    return value


def _several() -> bool:
    available = distributed.is_available() and distributed.is_initialized()
    return available and distributed.get_world_size() > 1
