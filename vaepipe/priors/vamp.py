"""The VampPrior: a mixture of posteriors at learned pseudo-inputs."""

from __future__ import annotations

from typing import Annotated, final

import torch
from annotated_types import Ge
from torch import Tensor
from torch.distributions import Categorical, constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform

from vaepipe.core import (
    Cap,
    Conditional,
    DataSpec,
    Mixture,
    Prior,
    PriorDraw,
    Shape,
    Units,
    count_units,
    provided,
    units_of,
)
from vaepipe.errors import CompatibilityError

_NOISE = 0.1
_RELAXED = {
    "boolean": constraints.unit_interval,
    "integer": constraints.positive,
    "real": constraints.real,
    "unit_interval": constraints.unit_interval,
}
_INSIDE = {
    "boolean": (1e-3, 1 - 1e-3),
    "integer": (1e-3, None),
    "real": (None, torch.inf),
    "unit_interval": (1e-3, 1 - 1e-3),
}


@final
class VampPrior(Prior):
    """p(z) = (1/K) sum_k q(z | u_k): a mixture of variational posteriors.

    Tomczak and Welling (2018), eq. 9. The pseudo-inputs u_k are learned; binary data are relaxed to
    [0, 1], integers to the interval from 0 to their largest value. They start near the mean
    training example where it is known: real numbers within 0.1 of their standard deviations,
    and so logarithms of integers that have no largest value. It has no parameters besides: the
    gradient reaches the encoder through it.

    Args:
        latent_shape: unused; q(z | x) knows it.
        data: shape, support and moments of the examples that pseudo-inputs imitate.
        components: K, the number of pseudo-inputs.

    Raises:
        CompatibilityError: q(z | x) is a point at a code, which pseudo-inputs cannot learn from.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> data = DataSpec((4,), SUPPORTS["boolean"], 100)
        >>> VampPrior((2,), data, components=3).pseudo_inputs().shape
        torch.Size([3, 4])
    """

    needs = Cap.SAMPLE | Cap.DENSITY
    logits: Tensor

    def __init__(
        self, latent_shape: Shape, data: DataSpec, *, components: Annotated[int, Ge(1)] = 500
    ) -> None:
        super().__init__()
        self.transform = transform_to(_relaxed(data))
        self.units = _units(data)
        noise = _NOISE * torch.randn(components, *data.shape)
        self.raw = torch.nn.Parameter(_start(data, self.transform) + noise)
        self.register_buffer("logits", torch.zeros(components), persistent=False)

    def pseudo_inputs(self) -> Tensor:
        """u `[K, *x]`, inside the (relaxed) support of the data; in float64 where it has units."""
        return self.transform(self.raw if self.units is None else self.units.back(self.raw))

    def forward(self, inference: Conditional) -> PriorDraw:
        """The mixture of q(z | u_k)."""
        _require_a_density(inference)
        weights = Categorical(logits=self.logits, validate_args=False)
        parts = inference(self.pseudo_inputs())
        return PriorDraw(Mixture(weights, parts))


def _require_a_density(inference: Conditional) -> None:
    """Points at codes have no derivative in u, and no mass anywhere else."""
    if Cap.CODES in provided(inference.head):
        raise CompatibilityError(
            f"prior 'vamp' averages q(z|x) over learned pseudo-inputs, and that of "
            f"{type(inference.head).__name__} is a point at a code: it gives the pseudo-inputs no "
            "gradient, and no other code any mass. Choose a prior over the codes of the family."
        )


def _relaxed(data: DataSpec) -> Constraint:
    """Where pseudo-inputs live: between the ends of the data, where they have ends."""
    if data.levels is not None:
        return constraints.interval(0.0, data.levels - 1.0)
    return _RELAXED[data.support_name]


def _units(data: DataSpec) -> Units | None:
    """Those of x, or of its logarithm, where values have no largest one."""
    if data.support_name == "real":
        return units_of(data)
    return count_units(data) if data.counts else None


def _start(data: DataSpec, transform: Transform) -> Tensor:
    """The mean example before the transform, kept off the ends of its interval; else zero.

    Zero is the mean of values that have units.
    """
    if data.mean is None or (data.scale is not None and _units(data) is not None):
        return torch.zeros(data.shape)
    low, high = _INSIDE[data.support_name]
    if data.levels is not None:
        high = data.levels - 1.001
    mean = data.mean.to(torch.get_default_dtype()).clamp(low, high)
    return torch.as_tensor(transform.inv(mean))
