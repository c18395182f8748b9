"""The batch of a step, of which an objective may be shown a part at a time."""

from __future__ import annotations

from torch import Tensor


class WholeBatch:
    """All examples of a step, as an objective sees them that holds some of them.

    Several workers share a batch, and `accumulate` computes it in parts. The losses of parts add up
    to that of the batch where a loss is a mean over examples. What is another function of several
    examples at once, such as max(lambda, mean rate) or a distance between samples, asks here for
    the rest. This class is for a batch that is not divided.

    Example:
        >>> import torch
        >>> WholeBatch().rows(torch.ones(3)).mean()
        tensor(1.)
    """

    def rows(self, mine: Tensor) -> Tensor:
        """Return the rows `[N, *]` of all examples, given those `[n, *]` of the examples at hand.

        Rows of other examples are constants, in any order; the gradient of the rows at hand is
        N / n times its own, so that any function of all rows may stand in a surrogate as it is: the
        surrogates of parts, added with weights n / N, have the gradient of the whole. An objective
        that calls this sets `couples`. What is asked for must not depend on earlier answers.
        """
        return mine

    def total(self, mine: Tensor) -> Tensor | None:
        """Return the sum of `mine` over all parts of the batch, or None before the last part.

        For what is learned from a batch without a gradient, such as running means: once a step.
        """
        return mine.detach()
