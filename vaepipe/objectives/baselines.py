"""What a score-function estimator takes off its learning signal, to vary less.

Each is a module of x `[batch, *x]`, the signal f `[k, batch]`, a constant, and the whole batch that
they are a part of. It gives what is left
of the signal, `[k, batch]`, and an error `[]` whose gradient trains the baseline itself.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d

from vaepipe.core import WholeBatch

_DECAY = 0.9
_READ = 64
_HIDDEN = 100


@final
class NoBaseline(nn.Module):
    """b = 0."""

    def forward(self, x: Tensor, signal: Tensor, batch: WholeBatch) -> tuple[Tensor, Tensor]:
        """The signal as it is."""
        return signal, signal.new_zeros(())


@final
class OthersBaseline(nn.Module):
    """b_i = the mean of f over the other draws of the same example."""

    def forward(self, x: Tensor, signal: Tensor, batch: WholeBatch) -> tuple[Tensor, Tensor]:
        """f_i - (sum_j f_j - f_i) / (k - 1) = (f_i - mean f) k / (k - 1)."""
        k = len(signal)
        return (signal - signal.mean(0)) * (k / (k - 1)), signal.new_zeros(())


@final
class Moments(nn.Module):
    """Moving mean and spread of the signal over past batches; zero and one before the first.

    They never contain the batch at hand, whose gradient would be biased by its own average.
    """

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(3))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (at least one nat), `[]` each."""
        weight, first, second = self.sums.clone()
        seen = weight.clamp(min=1 - _DECAY)
        mean = first / seen
        return mean, (second / seen - mean.square()).clamp(min=1.0).sqrt()

    @torch.no_grad()
    def add(self, signal: Tensor, batch: WholeBatch) -> None:
        """Let a batch in when its last part is here, with the weight 1 - 0.9."""
        values = torch.stack([torch.ones_like(signal), signal, signal.square()])
        total = batch.total(values.flatten(1).sum(1))
        if total is not None:
            self.sums.mul_(_DECAY).add_((1 - _DECAY) * total / total[0])


@final
class AverageBaseline(nn.Module):
    """b = a moving average of f over past batches."""

    def __init__(self) -> None:
        super().__init__()
        self.moments = Moments()

    def forward(self, x: Tensor, signal: Tensor, batch: WholeBatch) -> tuple[Tensor, Tensor]:
        """f - b."""
        mean, _ = self.moments()
        self.moments.add(signal, batch)
        return signal - mean, signal.new_zeros(())


@final
class LearnedBaseline(nn.Module):
    """b(x) = mean + spread * c(x): a moving average, corrected by what a small network sees in x.

    Mnih and Gregor (2014), section 2.3.1. The network reads x averaged into 64 stretches, so that
    it fits data of any shape, and is trained by the square of its error in units of the spread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moments = Moments()
        self.correction = nn.Sequential(
            nn.LayerNorm(_READ, elementwise_affine=False),
            nn.Linear(_READ, _HIDDEN),
            nn.Tanh(),
            nn.Linear(_HIDDEN, 1),
        )

    def forward(self, x: Tensor, signal: Tensor, batch: WholeBatch) -> tuple[Tensor, Tensor]:
        """f - b(x), and the mean square of the correction's error."""
        mean, spread = self.moments()
        started = self.moments.sums[0] > 0  # nothing is known of the scale of the first batch
        self.moments.add(signal, batch)
        read = adaptive_avg_pool1d(x.to(signal.dtype).flatten(1).unsqueeze(1), _READ).squeeze(1)
        guess = self.correction(read).squeeze(-1)  # [batch]
        wanted = (signal.mean(0) - mean) / spread
        error = started * (wanted - guess).square().mean()
        return signal - mean - spread * guess.detach(), error
