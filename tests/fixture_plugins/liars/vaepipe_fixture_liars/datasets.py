"""Datasets: a hundred binary rows."""

import numpy as np
import torch
from vaepipe_fixture_honest.datasets import Honest


class Ids(Honest):
    """Two rows have one id."""

    def ids(self, split):
        """Ids of a split."""
        return np.maximum(super().ids(split), 1)


class Splits(Honest):
    """Rows of the test split are in the training split too."""

    start = {"train": 0, "test": 70}


class Support(Honest):
    """Grey levels, declared as bits."""

    def tensor(self, x, uniform):
        """Grey."""
        return x.to(torch.get_default_dtype()) / 255


class Noise(Honest):
    """Draws from torch instead of what it is given."""

    def tensor(self, x, uniform):
        """Bits."""
        return super().tensor(x, lambda: torch.rand(x.shape))


class Order(Honest):
    """Every reading is shuffled."""

    def examples(self, split):
        """Rows."""
        for batch in super().examples(split):
            yield batch.take(torch.randperm(batch.num_rows).numpy())
