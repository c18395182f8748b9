"""One step of a recurrent cell, as functions of its weights.

The part of the gates that comes from the input is given ready-made, because it is shared: that of
a word by all draws of z, that of z by all words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

State = tuple[Tensor, ...]
"""The visible state `[*batch, hidden]` first, then what else a cell remembers."""


class Cell(NamedTuple):
    """What a cell is.

    Args:
        gates: gate vectors of size `hidden`, both of the input and of the state.
        memories: parts of its state.
        step: input part of the gates `[*batch, gates * hidden]`, weight
            `[gates * hidden, hidden]`, bias `[gates * hidden]` and state, to the next state.
    """

    gates: int
    memories: int
    step: Callable[[Tensor, Tensor, Tensor, State], State]


def _lstm(given: Tensor, weight: Tensor, bias: Tensor, state: State) -> State:
    """c' = f c + i g,  h' = o tanh c'  (Hochreiter and Schmidhuber, 1997)."""
    h, c = state
    i, f, o, g = (given + linear(h, weight, bias)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru(given: Tensor, weight: Tensor, bias: Tensor, state: State) -> State:
    """h' = (1 - u) n + u h,  n = tanh(a + r b)  (Cho et al., 2014, with r after the product)."""
    (h,) = state
    r_given, u_given, n_given = given.chunk(3, -1)
    r_state, u_state, n_state = linear(h, weight, bias).chunk(3, -1)
    n = torch.tanh(n_given + (r_given + r_state).sigmoid() * n_state)
    return (torch.lerp(n, h, (u_given + u_state).sigmoid()),)


CELLS = {"lstm": Cell(4, 2, _lstm), "gru": Cell(3, 1, _gru)}
