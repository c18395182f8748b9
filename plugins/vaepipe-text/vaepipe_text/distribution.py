"""The distribution of sentences that a recurrent network writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import embedding, linear

from vaepipe.core.sequences import EOS, PAD, UNK, spoken
from vaepipe_text.cells import CELLS, State

IMPOSSIBLE = -1e4
"""Nats of a word after the end: a mass of zero, as a number that sums and gradients survive."""


class Weights(NamedTuple):
    """What the network has learned; V words, G = gates * hidden.

    Args:
        embedding: `[V + 1, embedding]`; the last row is what is read first.
        reads: of an embedded word to the gates, `[G, embedding]`.
        keeps: of the state to the gates, `[G, hidden]` and `[G]`.
        writes: of the state to the words, `[V, hidden]` and `[V]`.
    """

    embedding: Tensor
    reads: Tensor
    keeps: tuple[Tensor, Tensor]
    writes: tuple[Tensor, Tensor]


@final
class Sentences(Distribution):
    """Sequences of integers written one after another, up to an end or to `length`.

    Args:
        cell: `lstm` or `gru`.
        weights: of the network.
        heard: what z adds to the gates of every step, `[*batch, G]`.
        start: the first state, each part `[*batch, hidden]`.
        length: of a sequence.
        hidden_words: probability that `log_prob` reads a word as unknown.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(
        self,
        cell: str,
        weights: Weights,
        heard: Tensor,
        start: State,
        length: int,
        hidden_words: float = 0.0,
    ) -> None:
        self.cell, self.weights = cell, weights
        self.heard, self.start = heard, start
        self.length, self.hidden_words = length, hidden_words
        super().__init__(heard.shape[:-1], Size([length]), validate_args=False)

    @property
    def levels(self) -> int:
        """How many words there are."""
        return len(self.weights.embedding) - 1

    @property
    def support(self) -> constraints.Constraint:
        """Integers below the size of the vocabulary."""
        return constraints.independent(constraints.integer_interval(0, self.levels - 1), 1)

    @property
    def mode(self) -> Tensor:
        """The likeliest word at every step, `[*batch, length]`; not always the likeliest sentence.

        Integers have no mean worth showing, so there is none.
        """
        return self._write((), lambda logits: logits.argmax(-1))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Sentences:
        """The same distribution for a larger batch."""
        heard = self.heard.expand(*batch_shape, self.heard.shape[-1])
        start = tuple(part.expand(*batch_shape, part.shape[-1]) for part in self.start)
        return Sentences(self.cell, self.weights, heard, start, self.length, self.hidden_words)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Sentences `[*sample, *batch, length]`, filled with 0 after their end."""
        return self._write(sample_shape, _draw)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, `[*batch]`, for `x` `[*batch, length]` that broadcasts.

        Raises:
            ValueError: x holds a value that is no word.
        """
        return self.log_prob_each(x).sum(-1)

    def log_prob_each(self, x: Tensor) -> Tensor:
        """log p(x_t | x_<t) at every position, `[*batch, length]`; zero for filling after the end.

        Teacher forcing: step t reads what x says, not what the network would have written.
        """
        self._require_words(x)
        words, counted = x.long(), spoken(x)
        given = linear(embedding(self._read(words), self.weights.embedding), self.weights.reads)
        lead = torch.broadcast_shapes(self.batch_shape, x.shape[:-1])
        state: State = tuple(part.expand(*lead, part.shape[-1]) for part in self.start)
        each: list[Tensor] = []
        for t in range(self.length):
            state = self._step(given[..., t, :], state)
            each.append(self._nats(state[0], words[..., t]))
        stray = ~counted & (words != PAD)
        return torch.stack(each, -1).masked_fill(~counted, 0.0).masked_fill(stray, IMPOSSIBLE)

    def _nats(self, visible: Tensor, word: Tensor) -> Tensor:
        """log p(word) `[*batch]` in the state `[*batch, hidden]`."""
        logits = self._logits(visible)
        chosen = word.expand(logits.shape[:-1])[..., None]
        return logits.gather(-1, chosen)[..., 0] - logits.logsumexp(-1)

    def _read(self, words: Tensor) -> Tensor:
        """What is read at every step: nothing yet, then the words but the last."""
        first = torch.full_like(words[..., :1], self.levels)
        shown = words[..., :-1]
        if self.hidden_words:
            hide = torch.rand(shown.shape, device=words.device) < self.hidden_words
            shown = shown.masked_fill(hide, UNK)
        return torch.cat([first, shown], -1)

    def _step(self, given: Tensor, state: State) -> State:
        return CELLS[self.cell].step(given + self.heard, *self.weights.keeps, state)

    def _logits(self, visible: Tensor) -> Tensor:
        return linear(visible, *self.weights.writes)

    @torch.no_grad()
    def _write(self, shape: Sequence[int], choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Sentences, each word chosen from the logits `[*sample, *batch, V]` of its step."""
        lead = (*shape, *self.batch_shape)
        state: State = tuple(part.expand(*lead, part.shape[-1]) for part in self.start)
        word = torch.full(lead, self.levels, device=self.heard.device)
        ended = torch.zeros_like(word, dtype=torch.bool)
        written: list[Tensor] = []
        for _ in range(self.length):
            read = embedding(word, self.weights.embedding)
            state = self._step(linear(read, self.weights.reads), state)
            word = choose(self._logits(state[0])).masked_fill(ended, PAD)
            ended = ended | (word == EOS)
            written.append(word)
        return torch.stack(written, -1).to(self.heard.dtype)

    def _require_words(self, x: Tensor) -> None:
        """On a GPU the check does not make the host wait."""
        good = ((x >= 0) & (x < self.levels) & (x == x.floor())).all()
        said = f"a sequence likelihood was given values other than 0, 1 … {self.levels - 1}."
        if x.is_cuda:
            torch.ops.aten._assert_async.msg(good, said)
        elif not good:
            raise ValueError(said)


def _draw(logits: Tensor) -> Tensor:
    chosen = logits.softmax(-1).flatten(0, -2).multinomial(1)
    return chosen.reshape(logits.shape[:-1])
