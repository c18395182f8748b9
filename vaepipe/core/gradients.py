"""The few gradient primitives that estimators share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    """log (1/k) sum_i exp(log_w_i) over `dim`, safe for any magnitude.

    Example:
        >>> log_mean_exp(torch.tensor([-900.0, -900.0])).item()
        -900.0
    """
    return log_w.logsumexp(dim) - math.log(log_w.shape[dim])


def frozen(module: nn.Module) -> Callable[..., Any]:
    """The same function with its parameters held constant; gradients still reach its inputs.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> v = torch.ones(1, 1, requires_grad=True)
        >>> frozen(layer)(v).sum().backward()
        >>> layer.weight.grad is None, v.grad is None
        (True, False)
    """
    constants = {name: value.detach() for name, value in module.named_parameters()}
    if not constants:
        return module
    return lambda *args: torch.func.functional_call(module, constants, args)


def scale_gradient(z: Tensor, weight: Tensor) -> Tensor:
    """From now on, multiply the gradient that flows back through `z` by `weight`.

    It is a hook, so that weights computed *from* z may scale the gradient *of* z without a
    second forward pass.

    Args:
        z: `[k, *batch, *event]`.
        weight: `[k, *batch]`, a constant.

    Returns:
        `z` itself.
    """
    factor = weight.detach().reshape(*weight.shape, *[1] * (z.ndim - weight.ndim))
    if z.requires_grad:
        z.register_hook(lambda gradient: gradient * factor)
    return z
