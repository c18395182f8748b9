"""Optimisers by name, and learning rates as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn, optim
from torch.optim import Optimizer

from vaepipe.errors import UserError, did_you_mean

TYPES: Mapping[str, Callable[..., Optimizer]] = MappingProxyType(
    {
        "adam": optim.Adam,
        "adamax": optim.Adamax,
        "adamw": optim.AdamW,
        "rmsprop": optim.RMSprop,
        "sgd": optim.SGD,
    }
)
FUSED = frozenset({"adam", "adamw", "sgd"})
"""Those that torch can apply to all parameters in one kernel."""
OPTIONS = ("betas", "centered", "eps", "momentum", "weight_decay")
SMALLEST = 1e-7
"""Added to the norm of a gradient that is divided by it."""
LAST = 0.01
"""What an exponential schedule leaves of the learning rate at the last step."""


def build(settings: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimiser that the settings name, fused where torch can.

    Args:
        settings: `type`, `lr` and options of the type; None leaves torch's default.
        parameters: what it moves.

    Raises:
        UserError: no optimiser has this name.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> build({"type": "adam", "lr": 0.001}, layer.parameters()).defaults["fused"]
        True
    """
    kind = settings["type"]
    if kind not in TYPES:
        known = ", ".join(TYPES)
        raise UserError(f"unknown optimizer '{kind}'.{did_you_mean(kind, TYPES)} Known: {known}.")
    moved = list(parameters)
    options = {name: settings[name] for name in OPTIONS if settings.get(name) is not None}
    if kind in FUSED and all(_fusible(p) for p in moved):
        options["fused"] = True
    return TYPES[kind](moved, lr=settings["lr"], **options)


@torch.no_grad()
def normalise(parameters: Iterable[nn.Parameter]) -> None:
    """Divide the gradient of every parameter by its Euclidean norm.

    Each tensor then moves as far as any other of its size, whatever the scale of its gradient, as
    in the experiments of Tomczak and Welling (2018).

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> normalise([weight])
        >>> weight.grad
        tensor([0.6000, 0.8000])
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(norms, SMALLEST)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_div_(gradients, norms)  # pyright: ignore[reportPrivateImportUsage]


def schedule(settings: Mapping[str, Any], steps: int) -> Callable[[int], float]:
    """The learning rate as a function of the step 0, 1, … of `steps` in all.

    A linear warm-up over `warmup_steps`, then `constant`, `linear`, `cosine` (Loshchilov and
    Hutter, 2017, eq. 5, without restarts) or `exponential` (to one hundredth).

    Example:
        >>> rate = schedule({"lr": 1.0, "schedule": "cosine", "warmup_steps": 2}, 12)
        >>> [round(rate(step), 2) for step in (0, 1, 2, 7)]
        [0.5, 1.0, 1.0, 0.5]
    """
    lr, warmup = float(settings["lr"]), int(settings.get("warmup_steps") or 0)
    shape = SHAPES[settings.get("schedule") or "constant"]

    def rate(step: int) -> float:
        if step < warmup:
            return lr * (step + 1) / warmup
        return lr * shape(min(1.0, (step - warmup) / max(1, steps - warmup)))

    return rate


SHAPES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "constant": lambda done: 1.0,
        "linear": lambda done: 1.0 - done,
        "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
        "exponential": lambda done: LAST**done,
    }
)
"""What is left of the learning rate when a fraction of the steps is done."""


def _fusible(parameter: nn.Parameter) -> bool:
    return parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda")
