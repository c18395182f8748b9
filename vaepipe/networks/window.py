"""The part of its input that a network reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vaepipe.core import Shape
from vaepipe.errors import CompatibilityError


def window(in_shape: Shape, reads: Sequence[int] | None) -> slice:
    """Where in a flat input a network looks: [from, to), by default everywhere.

    Raises:
        CompatibilityError: these are no two places of the input in their order.

    Example:
        >>> window((150,), [0, 100])
        slice(0, 100, None)
    """
    width = math.prod(in_shape)
    if reads is None:
        return slice(0, width)
    if len(reads) != 2 or not 0 <= reads[0] < reads[1] <= width:
        raise CompatibilityError(
            f"`reads` of a network: expected [from, to] with 0 <= from < to <= {width}, the width "
            f"of its input, got {list(reads)}."
        )
    return slice(reads[0], reads[1])
