"""Recurrent networks over words or over real sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, final

import torch
from annotated_types import Ge
from torch import Tensor, nn

from vaepipe.core import Network, Shape
from vaepipe.core.sequences import EOS, spoken
from vaepipe.errors import CompatibilityError

_CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


@final
class Recurrent(Network):
    """An affine map of the state after the last position of a sequence: W s_n + b.

    Integers are embedded, and a sequence of them is read up to and including its first `end`:
    what stands after it changes nothing. Real sequences `[length, channels]` (a vector is one
    channel) are read whole. In both directions the backward state is that at the first position,
    begun at the last one read.

    LSTM: Hochreiter and Schmidhuber (1997), with forget gates whose bias starts at one; GRU: Cho
    et al. (2014). As an encoder of sentences: Bowman et al. (2016), section 3.

    Args:
        in_shape: `[length]` of integers; `[length, *channels]` of real numbers.
        out_shape: event shape of the features.
        cell: `lstm` or `gru`.
        hidden: size of the state in each direction.
        layers: number of layers, each reading the states of the one before.
        embedding: size of an embedded integer.
        bidirectional: read backwards as well.
        levels: number of integers that are read; null: those of the data, or real numbers.
        end: the integer that ends a sequence; null: all positions are read.

    Raises:
        CompatibilityError: integers of more than one dimension.

    Example:
        >>> network = Recurrent((4,), (3,), levels=10, hidden=8, embedding=5)
        >>> x = torch.tensor([[5.0, 6.0, 1.0, 0.0], [5.0, 6.0, 1.0, 9.0]])
        >>> features = network(x)
        >>> features.shape, torch.equal(features[0], features[1])
        (torch.Size([2, 3]), True)
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        cell: Literal["lstm", "gru"] = "lstm",
        hidden: Annotated[int, Ge(1)] = 128,
        layers: Annotated[int, Ge(1)] = 1,
        embedding: Annotated[int, Ge(1)] = 64,
        bidirectional: bool = False,
        levels: int | None = None,
        end: int | None = EOS,
    ) -> None:
        super().__init__()
        if levels is not None and len(in_shape) != 1:
            raise CompatibilityError(
                f"network 'recurrent' reads sequences of integers [length], got {list(in_shape)}. "
                "Choose another encoder for such data, or give `shape` to the dataset."
            )
        self.end = end
        self.embedding = None if levels is None else nn.Embedding(levels, embedding)
        width = embedding if levels is not None else math.prod(in_shape[1:])
        directions = 2 if bidirectional else 1
        widths = [width, *[hidden * directions] * (layers - 1)]
        self.layers = nn.ModuleList(
            nn.ModuleList(_layer(cell, width, hidden) for _ in range(directions))
            for width in widths
        )
        self.head = nn.Linear(hidden * directions, math.prod(out_shape))

    def forward(self, v: Tensor) -> Tensor:
        """`[n, *in_shape] -> [n, prod(out_shape)]`."""
        states, last = self._embedded(v), self._last(v)
        reverse = _reversal(last, states.shape[1])
        each: list[Tensor] = []
        for layer in self.layers:
            each = _read(list(layer.children()), states, reverse)
            states = torch.cat(each, -1)
        ends = [last, torch.zeros_like(last)][: len(each)]
        final = [_along(s, at[:, None])[:, 0] for s, at in zip(each, ends, strict=True)]
        return self.head(torch.cat(final, -1))

    def _embedded(self, v: Tensor) -> Tensor:
        """`[n, length, width]`."""
        if self.embedding is None:
            return v.reshape(*v.shape[:2], -1)
        return self.embedding(v.long())

    def _last(self, v: Tensor) -> Tensor:
        """The last position that is read, int64 `[n]`."""
        if self.embedding is None or self.end is None:
            return torch.full((len(v),), v.shape[1] - 1, device=v.device)
        return spoken(v, self.end).sum(-1) - 1


def _read(layer: Sequence[nn.Module], states: Tensor, reverse: Tensor) -> list[Tensor]:
    """`[n, length, hidden]` of each direction of a layer, at the positions that it has read."""
    forwards, *backwards = layer
    back = [_along(one(_along(states, reverse))[0], reverse) for one in backwards]
    return [forwards(states)[0], *back]


def _layer(cell: str, width: int, hidden: int) -> nn.LSTM | nn.GRU:
    made = _CELLS[cell](width, hidden, batch_first=True)
    if cell == "lstm":  # the forget gate has two biases; together they start at one
        for name, start in (("bias_ih_l0", 1.0), ("bias_hh_l0", 0.0)):
            nn.init.constant_(made.get_parameter(name)[hidden : 2 * hidden], start)
    return made


def _reversal(last: Tensor, length: int) -> Tensor:
    """`[n, length]`: positions last, …, 0 and then those after the last, in place."""
    at = torch.arange(length, device=last.device)
    return torch.where(at <= last[:, None], last[:, None] - at, at)


def _along(states: Tensor, at: Tensor) -> Tensor:
    """The states `[n, length, width]` at positions `[n, m]`: `[n, m, width]`."""
    return states.gather(1, at[..., None].expand(*at.shape, states.shape[-1]))
