"""Faster networks: lower precision and compilation, of the networks alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn

from vaepipe.core import LatentModel
from vaepipe.errors import CompatibilityError

PRECISIONS: Mapping[str, torch.dtype | None] = MappingProxyType(
    {"float32": None, "bfloat16": torch.bfloat16}
)
"""Names in files; None leaves everything as it is."""
BACKEND = "inductor"
"""Torch's own compiler."""


def hasten(model: LatentModel, precision: str, *, compiled: bool) -> None:
    """Let the networks of a model compute in a lower precision while training, and compile them.

    Heads, priors and densities stay as they are.

    Raises:
        CompatibilityError: there is no working compiler.
    """
    for conditional in (model.inference, model.generator):
        conditional.precision = PRECISIONS[precision]
    if compiled:
        _try_compiler(next(model.parameters(), torch.zeros(1)).device)
        for conditional in (model.inference, model.generator):
            conditional.network.compile(backend=BACKEND)


def _try_compiler(device: torch.device) -> None:
    """Compile something small: what is missing shows here, and not in the middle of a step."""
    try:
        small = torch.compile(nn.Sequential(nn.Linear(2, 2), nn.Tanh()).to(device), backend=BACKEND)
        small(torch.ones(3, 2, device=device)).sum().backward()
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CompatibilityError(
            f"`compile: true` needs torch's compiler, which does not work here: {lines[0]} "
            "Install a C++ compiler such as g++, or set `compile: false`."
        ) from error
