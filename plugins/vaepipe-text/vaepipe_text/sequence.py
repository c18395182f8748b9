"""p(x | z) of sentences: a recurrent network that writes one word after another."""

from __future__ import annotations

import math
from typing import Annotated, Literal, final

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.distributions import constraints

from vaepipe.core import DataSpec, Likelihood
from vaepipe.errors import CompatibilityError
from vaepipe_text.cells import CELLS
from vaepipe_text.distribution import Sentences, Weights


@final
class SequenceLikelihood(Likelihood):
    """p(x | z) = prod_t p(x_t | x_<t, z), to the first end of sentence or to the last position.

        log p(x | z) = sum_t log softmax(W s_t + b)[x_t]
        s_t = cell(s_{t-1}, [e(x_{t-1}), h]),   s_0 = tanh(A h + a)

    where h are the features of z, given to every step, and e(x_0) is learned. A sentence ends
    with the value 1; the filling after it, 0, costs nothing, and anything else there has no mass
    (10^4 nats each, which no float tells from it). One without an end has as many words as there
    is room for. These two kinds are all there are, so their masses add up to one. Before an end, 0
    is a word like any other.

    In training mode each word that is read (not the one that is predicted) is replaced by the
    unknown word, 2, with probability `word_dropout`, alike for all draws of z; evaluation reads
    what was written.

    References:
        Generating Sentences from a Continuous Space (Bowman et al., 2016), sections 3 and 3.1.
        https://arxiv.org/abs/1511.06349

    Args:
        data: `[length]` integers, `levels` of them.
        cell: `lstm` or `gru`.
        hidden: size of the state, and of the features.
        embedding: size of an embedded word.
        word_dropout: how often training hides a word that was written.

    Raises:
        CompatibilityError: x is no sequence of integers, or their number is not known.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> data = DataSpec((5,), SUPPORTS["integer"], 1, levels=7)
        >>> head = SequenceLikelihood(data, hidden=4, embedding=3)
        >>> p = head(torch.zeros(2, 4))
        >>> p.log_prob(torch.tensor([3, 4, 1, 0, 0])).shape, p.sample((6,)).shape
        (torch.Size([2]), torch.Size([6, 2, 5]))
    """

    support = constraints.nonnegative_integer
    conformance = {
        "data": {"shape": (3,), "support": "integer", "levels": 4},
        "options": {"hidden": 5, "embedding": 3},
    }

    def __init__(
        self,
        data: DataSpec,
        *,
        cell: Literal["lstm", "gru"] = "lstm",
        hidden: Annotated[int, Ge(1)] = 128,
        embedding: Annotated[int, Ge(1)] = 64,
        word_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        super().__init__()
        if len(data.shape) != 1 or data.levels is None or data.levels < 3:
            raise CompatibilityError(
                "likelihood 'sequence' is of sequences [length] of integers whose number is known "
                f"and at least 3 (filling, end, unknown word), got shape {list(data.shape)} and "
                f"{data.levels or 'any number of'} values. Dataset 'text' makes such data."
            )
        self.feature_shape = (hidden,)
        self.length, self.levels = data.shape[0], data.levels
        self.cell, self.word_dropout = cell, word_dropout
        gates, memories, _ = CELLS[cell]
        self.embedding = nn.Embedding(self.levels + 1, embedding)
        self.reads = nn.Linear(embedding, gates * hidden, bias=False)
        self.hears = nn.Linear(hidden, gates * hidden, bias=False)
        self.keeps = nn.Linear(hidden, gates * hidden)
        self.starts = nn.Linear(hidden, memories * hidden)
        self.writes = nn.Linear(hidden, self.levels)
        _initialise(self, hidden)

    @property
    def values_per_example(self) -> int:
        """A step holds one number for each word of the vocabulary, and its gates twice."""
        return self.levels + 2 * self.keeps.out_features

    def forward(self, h: Tensor) -> Sentences:
        """p(x | h) for features `h` `[*batch, hidden]`.

        The weights are taken now, so that the distribution is the same function later on.
        """
        weights = Weights(
            embedding=self.embedding.weight,
            reads=self.reads.weight,
            keeps=(self.keeps.weight, self.keeps.bias),
            writes=(self.writes.weight, self.writes.bias),
        )
        start = self.starts(h).tanh().chunk(CELLS[self.cell].memories, -1)
        hidden_words = self.word_dropout if self.training else 0.0
        return Sentences(self.cell, weights, self.hears(h), tuple(start), self.length, hidden_words)


def _initialise(head: SequenceLikelihood, hidden: int) -> None:
    """Uniform weights as is usual for recurrent networks; the LSTM's forget gate starts open."""
    bound = 1 / math.sqrt(hidden)
    for layer in (head.reads, head.hears, head.keeps, head.starts, head.writes):
        nn.init.uniform_(layer.weight, -bound, bound)
    for layer in (head.keeps, head.starts, head.writes):
        nn.init.zeros_(layer.bias)
    nn.init.normal_(head.embedding.weight, std=0.1)
    if head.cell == "lstm":
        with torch.no_grad():
            head.keeps.bias[hidden : 2 * hidden] = 1.0
