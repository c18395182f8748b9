"""What random numbers are for: every stream names its purpose, so that no two uses share one."""

from __future__ import annotations

import enum
import hashlib

from vaepipe.core.noise import row_seed


class Purpose(enum.StrEnum):
    """Every use of random numbers in vaepipe, once.

    The value is hashed into the seed. Changing a value changes the numbers of that use and of no
    other; a new use gets a new member.
    """

    FIRST_WEIGHTS = "first weights"
    ORDER_OF_ROWS = "order of rows"
    TRAINING_NOISE = "training noise"
    VALIDATION_ROWS = "validation rows"


def stream(seed: int, purpose: Purpose, *keys: int) -> int:
    """Return the seed in [0, 2^63) of the stream for one purpose.

    Two calls with different purposes or keys give unrelated streams, whatever the seeds are.

    Args:
        seed: the seed that a user or a stage gave.
        purpose: what the numbers are for.
        keys: integers that tell several streams of one purpose apart, such as an epoch.

    Example:
        >>> stream(0, Purpose.ORDER_OF_ROWS) == stream(0, Purpose.TRAINING_NOISE)
        False
    """
    tag = hashlib.sha256(purpose.value.encode()).digest()
    mixed = row_seed(row_seed(0, int.from_bytes(tag[:8], "little")), seed)
    for key in keys:
        mixed = row_seed(mixed, key)
    return mixed
