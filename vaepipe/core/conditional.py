"""q(z | x) and p(x | z): a network that makes features, then a head that reads them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from vaepipe.core.spec import Cap, Shape


class Network(nn.Module, ABC):
    """A function `[n, *in_shape] -> [n, prod(out_shape)]`; it knows no distribution.

    Authors write `__init__(in_shape, out_shape, *, options)` and `forward`. An encoder that knows
    what integers mean (words) takes an option `levels: int | None = None`: left null in a file, it
    receives the number of values of the data. Others see integers scaled to the order of one.
    """

    @abstractmethod
    def forward(self, v: Tensor) -> Tensor:
        """Features of `v` `[n, *in_shape]`, flat: `[n, prod(out_shape)]`."""


class Head(nn.Module, ABC):
    """Features `[*batch, *feature_shape]` to a distribution of batch shape `[*batch]`."""

    feature_shape: Shape
    """What the network before it must produce; set by the constructor."""

    @abstractmethod
    def forward(self, h: Tensor) -> Distribution:
        """The distribution that the features `h` `[*batch, *feature_shape]` describe."""


class Family(Head):
    """q(z | h), of event shape `latent_shape`.

    Authors write `__init__(latent_shape, *, options)`, `provides` and `forward`.
    """

    provides: ClassVar[Cap]
    """What its distributions can do."""

    def read(self, z: Tensor) -> Tensor:
        """What the decoder is shown of z `[*batch, *latent]`: z itself, unless said otherwise.

        A family whose latents are safe to compute with in other coordinates than those in which
        they mean something (logits of relaxed bits) translates them here.
        """
        return z


class Likelihood(Head):
    """p(x | h), of event shape `data.shape`, in nats per example.

    Authors write `__init__(data, *, options)`, `support` and `forward`.
    """

    support: ClassVar[Constraint]
    """Where one value of x lives."""

    @property
    def values_per_example(self) -> int:
        """How many numbers log p(x | z) of one example holds at a time; sizes chunks of work.

        As many as it has features, unless said otherwise.
        """
        return math.prod(self.feature_shape)


@final
class Conditional(nn.Module):
    """A network followed by a head: q(z | x) and p(x | z) are both this.

    Args:
        network: makes the features.
        head: turns features into a distribution.
        in_shape: event shape of what the network reads.
        read: what the network is shown of its input, such as `Units`; all of it by default.

    Example:
        >>> import torch
        >>> from vaepipe.families.normal import DiagonalNormal
        >>> from vaepipe.networks.mlp import MLP
        >>> head = DiagonalNormal((2,))
        >>> q = Conditional(MLP((4,), head.feature_shape, hidden=[8]), head, (4,))
        >>> q(torch.zeros(7, 3, 4)).batch_shape
        torch.Size([7, 3])
    """

    def __init__(
        self,
        network: nn.Module,
        head: Head,
        in_shape: Shape,
        read: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.head = head
        self.in_shape = tuple(in_shape)
        self.read = read
        self.precision: torch.dtype | None = None

    def features(self, v: Tensor) -> Tensor:
        """Features `[*batch, *feature_shape]` of `v` `[*batch, *in_shape]`.

        The only place that folds leading dimensions, so networks see one batch dimension.

        Raises:
            ValueError: the trailing dimensions of `v` are not `in_shape`.
        """
        lead = v.ndim - len(self.in_shape)
        batch, event = tuple(v.shape[: max(lead, 0)]), tuple(v.shape[max(lead, 0) :])
        if lead < 0 or event != self.in_shape:
            raise ValueError(
                f"expected trailing dimensions {self.in_shape}, got a tensor of shape "
                f"{tuple(v.shape)}"
            )
        seen = v if self.read is None else self.read(v)
        flat = self._compute(seen.reshape(math.prod(batch), *event))
        return flat.reshape(*batch, *self.head.feature_shape)

    def forward(self, v: Tensor) -> Distribution:
        """The distribution given `v` `[*batch, *in_shape]`, of batch shape `[*batch]`."""
        return self.head(self.features(v))

    def _compute(self, v: Tensor) -> Tensor:
        """The network's answer; while training perhaps in a lower `precision`, which ends here."""
        v = v.to(next(self.network.parameters(), v).dtype)
        if self.precision is None or not self.training:
            return self.network(v)
        with torch.autocast(v.device.type, dtype=self.precision):
            flat = self.network(v)
        return flat.to(torch.get_default_dtype())
