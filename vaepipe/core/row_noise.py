"""Draws of a whole batch at once, each row's from a stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._python_dispatch import TorchDispatchMode

from vaepipe.core.noise import row_uniform
from vaepipe.core.streams import Stream, word_of

HALF_STEP = 2.0**-25
"""Puts numbers with 24 bits from [0, 1) into the middle of their steps: none of them is 0."""


class NoRowNoiseError(NotImplementedError):
    """A distribution draws in a way that cannot be told apart by rows."""


@torch.no_grad()
def row_sample(q: Distribution, ids: Tensor, k: int, stream: Stream) -> Tensor:
    """k draws of each row, `[k, batch, *event]`, which depend on stream and id only.

    The distribution draws as ever; whatever it asks of torch's generators is answered from the
    rows' own numbers (`row_uniform`), so any batching gives the same draws without a loop.

    Args:
        q: of batch shape `[batch]`.
        ids: int64 `[batch]`, on the device of `q`.
        k: draws of a row.
        stream: what the draws are for; the n-th noise that `q` asks for is that of `stream.at(n)`.

    Raises:
        TypeError: a bare seed is given, which does not say what the draws are for.
        NoRowNoiseError: `q` uses a kind of noise that is not known here, or not one for each row.

    Example:
        >>> from vaepipe.core import Purpose, stream
        >>> own = stream(0, Purpose.SAMPLES)
        >>> q = torch.distributions.Normal(torch.zeros(6), torch.ones(6))
        >>> ids = torch.arange(6)
        >>> part = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
        >>> torch.equal(row_sample(q, ids, 3, own)[:, 4:], row_sample(part, ids[4:], 3, own))
        True
    """
    word_of(stream)
    with _RowNoise(ids, k, stream):
        return q.sample(torch.Size((k,)))


@final
class _RowNoise(TorchDispatchMode):
    """Answers what is asked of torch's generators inside the block."""

    def __init__(self, ids: Tensor, k: int, stream: Stream) -> None:
        super().__init__()
        self.ids, self.k, self.stream, self.asked = ids, k, stream, 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        make = _MAKERS.get(func)
        if make is None or kwargs.pop("generator", None) is not None:
            raise NoRowNoiseError(f"noise of {func} is not known by rows")
        return make(self, *args, **kwargs)

    def uniform(self, shape: Sequence[int], rows: int = 1) -> Tensor:
        """U(0, 1) of a shape whose dimension `rows` counts the rows; another stream each time."""
        if len(shape) <= rows or shape[rows] != len(self.ids):
            raise NoRowNoiseError(f"noise of shape {tuple(shape)} for {len(self.ids)} rows")
        own = self.stream.at(self.asked)
        self.asked += 1
        rest = (*shape[:rows], *shape[rows + 1 :])
        return row_uniform(own, self.ids, rest).movedim(0, rows)

    def normal(self, like: Tensor) -> Tensor:
        """N(0, 1), shaped like a tensor `[k, batch, ...]`."""
        u = self.uniform(like.shape).double()
        return torch.special.ndtri(u + HALF_STEP).to(like.dtype)


def _normal(noise: _RowNoise, mean: Tensor | float, std: Tensor | float) -> Tensor:
    shape = torch.broadcast_tensors(*(torch.as_tensor(v) for v in (mean, std)))[0]
    return mean + std * noise.normal(shape)


def _normal_(noise: _RowNoise, out: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return out.copy_(mean + std * noise.normal(out))


def _randn(noise: _RowNoise, size: Sequence[int], **options: Any) -> Tensor:
    return noise.normal(torch.empty(size, **options))


def _rand(noise: _RowNoise, size: Sequence[int], **options: Any) -> Tensor:
    return _uniform_(noise, torch.empty(size, **options))


def _uniform_(noise: _RowNoise, out: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    return out.copy_(low + (high - low) * noise.uniform(out.shape))


def _exponential_(noise: _RowNoise, out: Tensor, rate: float = 1.0) -> Tensor:
    return out.copy_((noise.uniform(out.shape).double() + HALF_STEP).log() / -rate)


def _bernoulli(noise: _RowNoise, p: Tensor) -> Tensor:
    return (noise.uniform(p.shape) < p).to(p.dtype)


def _multinomial(noise: _RowNoise, p: Tensor, count: int, replacement: bool = False) -> Tensor:
    """Indices `[n, count]` for weights `[n, K]`, n being rows times what each row has of them."""
    each, rest = divmod(len(p), len(noise.ids))
    if rest or count != noise.k or not replacement:
        raise NoRowNoiseError(f"{count} of the categories of {len(p)} weights")
    u = noise.uniform((len(noise.ids), each, count), rows=0).reshape(len(p), count).double()
    below = p.double().cumsum(-1)
    chosen = torch.searchsorted(below, u * below[:, -1:], right=True)
    return chosen.clamp(max=p.shape[-1] - 1)


aten = torch.ops.aten
_MAKERS: Mapping[Any, Callable[..., Tensor]] = {
    aten.normal.Tensor_Tensor: _normal,
    aten.normal.Tensor_float: _normal,
    aten.normal.float_Tensor: _normal,
    aten.normal_.default: _normal_,
    aten.randn.default: _randn,
    aten.randn_like.default: lambda noise, like, **_: noise.normal(like),
    aten.rand.default: _rand,
    aten.rand_like.default: lambda noise, like, **_: _uniform_(noise, torch.empty_like(like)),
    aten.uniform_.default: _uniform_,
    aten.exponential_.default: _exponential_,
    aten.bernoulli.default: _bernoulli,
    aten.multinomial.default: _multinomial,
}
