"""Sentences as integers: what the first three values mean, and where a sentence ends."""

from __future__ import annotations

from torch import Tensor

PAD, EOS, UNK = range(3)
"""Filling after the end; the end of a sentence; a word outside the vocabulary."""
SPECIALS = ("<pad>", "<eos>", "<unk>")
"""Their names, in that order; words follow."""


def spoken(x: Tensor, end: int = EOS) -> Tensor:
    """Which positions of `x` `[*batch, length]` belong to the sentence: all up to the first end.

    A sentence without an end fills its whole length.

    Example:
        >>> import torch
        >>> spoken(torch.tensor([[5.0, 1.0, 0.0], [5.0, 6.0, 7.0]])).tolist()
        [[True, True, False], [True, True, True]]
    """
    ended = (x == end).long()
    return ended.cumsum(-1) == ended
