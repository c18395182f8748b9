"""Inverses that have no formula, found by iteration, with exact gradients.

What is found carries no graph; the implicit function theorem gives its derivative: of u with
F(u, y) = 0 it is du/dy = -(dF/du)^-1 dF/dy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

_FAR = 1e9
_HALVINGS = 64

Function = Callable[[Tensor], Tensor]


def fixed_point(step: Function, start: Tensor) -> Tensor:
    """u = step(u), where coordinate i of `step` reads only the coordinates before i.

    After i passes the first i coordinates are exact, whatever the others were, so d passes are
    enough; it stops earlier if a pass changes nothing. (Song et al., 2021, proposition 1.)

    Args:
        step: on vectors `[*, d]`; may read tensors that want gradients.
        start: where to begin, `[*, d]`.

    Returns:
        u `[*, d]`; its gradient with respect to what `step` reads is exact.

    Example:
        >>> below = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
        >>> fixed_point(lambda u: u @ below.T + 2, torch.zeros(2))
        tensor([2., 8.])
    """
    u = _iterate(step, start.detach())
    if not torch.is_grad_enabled():
        return u
    found = step(u)
    if found.requires_grad:
        place = u.clone().requires_grad_()
        found.register_hook(partial(_implicit, step(place), place))
    return found


@torch.no_grad()
def _iterate(step: Function, u: Tensor) -> Tensor:
    for _ in range(u.shape[-1]):
        # Coordinates that are not exact yet may be anything; infinite ones would spoil the others.
        before, u = u, step(u).nan_to_num(0.0, _FAR, -_FAR).clamp(-_FAR, _FAR)
        if torch.equal(before, u):
            break
    return u


def _implicit(image: Tensor, u: Tensor, gradient: Tensor) -> Tensor:
    """g (I - J)^-1 = g + g J + g J^2 + ..., a sum that ends: J, of `image` in u, is triangular."""
    total = term = gradient
    for _ in range(u.shape[-1] - 1):
        (term,) = torch.autograd.grad(image, u, term, retain_graph=True)
        if not term.any():
            break
        total = total + term
    return total


@torch.no_grad()
def increasing_root(f: Function, centre: Tensor, radius: Tensor) -> Tensor:
    """a in [centre - radius, centre + radius] with f(a) = 0, f increasing, by halving in float64.

    Example:
        >>> one = torch.ones(())
        >>> round(increasing_root(lambda a: a**3 - 2, one, one).item() ** 3, 12)
        2.0
    """
    low, high = (centre - radius).double(), (centre + radius).double()
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        above = f(middle) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return 0.5 * (low + high)
