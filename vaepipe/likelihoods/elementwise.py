"""What likelihoods of independent numbers share: a base, checks of x, starting points."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.distributions.constraints import Constraint
from torch.nn.functional import softplus

from vaepipe.core import DataSpec, Shape
from vaepipe.errors import CompatibilityError

_UNIT = math.log(math.expm1(1.0))
Formula = Callable[[Tensor], Tensor]
_TAIL = -15.0
_HALVINGS = 60


class Elementwise(Distribution, ABC):
    """Independent numbers, one for each element of some tensors of parameters.

    Authors write the mean, the variance, `sample` and `log_prob`; the constructor passes tensors of
    one shape to this one. The parameters are not checked, x is: a value that has no mass raises.

    Args:
        parameters: each `[*batch, *(trailing dimensions)]`.
    """

    trailing: ClassVar[int] = 0
    """How many last dimensions of the parameters describe one number."""
    values: ClassVar[Constraint]
    """Where one number lives."""
    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, *parameters: Tensor) -> None:
        self.parameters = parameters
        shape = parameters[0].shape
        super().__init__(shape[: len(shape) - self.trailing], validate_args=False)

    @property
    def support(self) -> Constraint:
        """Where one number lives."""
        return self.values

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Self:
        """The same distribution for a larger batch."""
        shapes = [p.shape[p.ndim - self.trailing :] for p in self.parameters]
        wider = [p.expand(*batch_shape, *s) for p, s in zip(self.parameters, shapes, strict=True)]
        return self._of(wider)

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) of each number, in nats, for x that broadcasts against the batch shape."""

    @abstractmethod
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws `[*sample, *batch]`."""

    def _of(self, parameters: list[Tensor]) -> Self:
        return type(self)(*parameters)

    def _wide(self, sample_shape: Shape) -> list[Tensor]:
        """The parameters, repeated for draws."""
        return [p.expand(*sample_shape, *p.shape) for p in self.parameters]


def joint(each: Distribution, event_ndim: int) -> Independent:
    """The product over the last `event_ndim` dimensions."""
    return Independent(each, event_ndim, validate_args=False)


def require(fine: Tensor, message: str) -> None:
    """All elements are true; on a GPU the check does not make the host wait.

    Raises:
        ValueError: some are not.
    """
    if fine.is_cuda:
        torch.ops.aten._assert_async.msg(fine.all(), message)
    elif not fine.all():
        raise ValueError(message)


def require_integers(x: Tensor, levels: int | None = None) -> None:
    """x is 0, 1, 2 …, below `levels` where there is an end.

    Raises:
        ValueError: it is not.
    """
    fine = (x >= 0) & (x == x.floor()) & x.isfinite()
    end = "" if levels is None else f" up to {levels - 1}"
    require(
        fine if levels is None else fine & (x < levels),
        f"a likelihood of the integers 0, 1, 2 …{end} was given other values. Declare "
        "'support: integer' (for images 'binarize: levels'), or choose another likelihood.",
    )


def levels_of(data: DataSpec) -> int:
    """How many values the data have.

    Raises:
        CompatibilityError: nobody knows.
    """
    if data.levels is None:
        raise CompatibilityError(
            "this likelihood needs to know how many values the integers of the data have. Give the "
            "dataset 'levels' (for images 'binarize: levels'), or choose a likelihood of counts: "
            "poisson, negative_binomial, zinb."
        )
    if data.levels < 2:
        raise CompatibilityError(f"data of {data.levels} values have nothing to model.")
    return data.levels


def positive(raw: Tensor) -> Tensor:
    """A positive number from a feature: softplus(raw + c), with c so that zero gives one.

    It grows like exp(raw) below one and linearly above, so that no feature overflows.

    Example:
        >>> round(positive(torch.zeros(())).item(), 5)
        1.0
    """
    return softplus(raw + _UNIT)


def log_positive(raw: Tensor) -> Tensor:
    """log(positive(raw)), finite where that has no float left: for raw << 0 it is raw + c."""
    return piecewise(_TAIL, raw + _UNIT, lambda v: v, lambda v: softplus(v).log())


def piecewise(edge: float, v: Tensor, low: Formula, high: Formula) -> Tensor:
    """Evaluate `low` where v < edge and `high` elsewhere, each on its own side only.

    The gradient is that of the chosen formula for every v, the edge included, where the gradient
    of a clamped v is zero.

    Args:
        edge: a number at which both formulas are finite.
        v: numbers of any shape.
        low: formula for v below `edge`.
        high: formula for v from `edge` on.

    Example:
        >>> v = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
        >>> y = piecewise(2.0, v, lambda v: v.square(), lambda v: 4 * v - 4)
        >>> y.tolist(), torch.autograd.grad(y.sum(), v)[0].tolist()
        ([1.0, 4.0, 12.0], [2.0, 4.0, 4.0])
    """
    first, other = v < edge, torch.full_like(v, edge)
    return torch.where(first, low(torch.where(first, v, other)), high(torch.where(first, other, v)))


def matching(mean: Callable[[Tensor], Tensor], target: Tensor, low: float, high: float) -> Tensor:
    """The parameter at which an increasing `mean` has the value `target`, by bisection.

    Example:
        >>> p = torch.tensor([0.2, 0.7], dtype=torch.float64)
        >>> torch.allclose(matching(torch.sigmoid, p, -20.0, 20.0), p.logit())
        True
    """
    below, above = torch.full_like(target, low), torch.full_like(target, high)
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        less = mean(middle) < target
        below, above = torch.where(less, middle, below), torch.where(less, above, middle)
    return (below + above) / 2


def mean_of(data: DataSpec, default: float) -> Tensor:
    """The mean training example `[*shape]` in double precision, or `default` everywhere."""
    mean = torch.full(data.shape, default) if data.mean is None else data.mean
    return mean.reshape(data.shape).double()


def stored(value: Tensor) -> Tensor:
    """A starting point in the default precision."""
    return value.to(torch.get_default_dtype())
