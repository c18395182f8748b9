"""Priors over the codes of a book that the family owns."""

from __future__ import annotations

import math
from typing import Annotated, final

from annotated_types import Ge
from torch import Tensor, nn

from vaepipe.core import Cap, Conditional, DataSpec, Prior, PriorDraw, Shape
from vaepipe.errors import CompatibilityError
from vaepipe_vq.codes import AutoregressiveCodes, UniformCodes


@final
class UniformCodesPrior(Prior):
    """p(z) = K^-n: each of the n positions holds any of the K vectors of the family's book.

    Van den Oord, Vinyals and Kavukcuoglu (2017), section 3.1: KL(q(z | x) || p(z)) = n log K. The
    book is the family's, which alone stores it.

    Args:
        latent_shape: `[*positions, d]`.
        data: ignored.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> from vaepipe_vq.family import VQ
        >>> q = Conditional(nn.Identity(), VQ((3, 2), codes=8), (3, 2))
        >>> prior = UniformCodesPrior((3, 2), DataSpec((4,), SUPPORTS["real"], 100))
        >>> prior(q).z.sample((5,)).shape
        torch.Size([5, 3, 2])
    """

    needs = Cap.CODES
    conformance = {"latent_shape": (2, 3), "family": {"type": "vq", "codes": 4}}

    def __init__(self, latent_shape: Shape, data: DataSpec) -> None:
        super().__init__()
        self.positions = tuple(latent_shape[:-1])

    def forward(self, inference: Conditional) -> PriorDraw:
        """The prior over the vectors of the family of `inference`."""
        return PriorDraw(UniformCodes(_book(inference), self.positions))


@final
class AutoregressiveCodesPrior(Prior):
    """p(z) = prod_i p(j_i | j_1 … j_{i-1}), a categorical for each position given those before it.

    Positions are in row-major order. A recurrent network (Cho et al., 2014, eqs. 5 to 8) reads
    learned embeddings of the codes so far. Van den Oord, Vinyals and Kavukcuoglu (2017), section
    3.3, fit such a prior after the rest; here it also learns with it, since its gradient moves
    nothing but itself.

    Args:
        latent_shape: `[*positions, d]`.
        data: ignored.
        codes: K, as many as the family has.
        hidden: width of the embeddings and of the recurrent state.

    Raises:
        CompatibilityError: the family has another number of codes.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> from vaepipe_vq.family import VQ
        >>> q = Conditional(nn.Identity(), VQ((3, 2), codes=8), (3, 2))
        >>> data = DataSpec((4,), SUPPORTS["real"], 100)
        >>> AutoregressiveCodesPrior((3, 2), data, codes=8, hidden=16)(q).z.sample((5,)).shape
        torch.Size([5, 3, 2])
    """

    needs = Cap.CODES
    conformance = {
        "latent_shape": (2, 3),
        "family": {"type": "vq", "codes": 4},
        "options": {"codes": 4, "hidden": 8},
    }

    def __init__(
        self,
        latent_shape: Shape,
        data: DataSpec,
        *,
        codes: Annotated[int, Ge(2)] = 64,
        hidden: Annotated[int, Ge(1)] = 128,
    ) -> None:
        super().__init__()
        self.positions = tuple(latent_shape[:-1])
        self.codes = codes
        self.begin = codes
        self.embedding = nn.Embedding(codes + 1, hidden)
        self.network = nn.GRU(hidden, hidden, batch_first=True)
        self.readout = nn.Linear(hidden, codes)

    def forward(self, inference: Conditional) -> PriorDraw:
        """The prior over the vectors of the family of `inference`."""
        book = _book(inference)
        if len(book) != self.codes:
            raise CompatibilityError(
                f"prior 'autoregressive_codes' has {self.codes} codes, the family {len(book)}: "
                f"write codes: {len(book)} in the prior."
            )
        return PriorDraw(AutoregressiveCodes(book, self.positions, self.log_masses))

    def log_masses(self, codes: Tensor) -> Tensor:
        """log p(j_i | j_1 … j_{i-1}) `[rows, n, K]` for codes `[rows, n]`."""
        before = nn.functional.pad(codes[:, :-1], (1, 0), value=self.begin)
        state, _ = self.network(self.embedding(before))
        return self.readout(state).log_softmax(-1)

    def extra_repr(self) -> str:
        """What a printed model says of it."""
        return f"codes={self.codes}, n={math.prod(self.positions)}"


def _book(inference: Conditional) -> Tensor:
    """The book of the family; a prior never moves it."""
    book = getattr(inference.head, "book", None)
    if not isinstance(book, Tensor):
        raise CompatibilityError(
            f"a prior over codes needs a family with a code book, which "
            f"{type(inference.head).__name__} has not: write family: {{type: vq}}."
        )
    return book.detach()
