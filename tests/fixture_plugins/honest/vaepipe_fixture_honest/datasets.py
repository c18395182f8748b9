"""Datasets: a hundred binary rows."""

import numpy as np
import torch

from vaepipe.core import SUPPORTS, DataSpec
from vaepipe.data.schema import record
from vaepipe.datasets.base import Dataset, bernoulli


class Honest(Dataset):
    """Grey values 0 to 255, drawn as bits."""

    start = {"train": 0, "test": 80}
    size = {"train": 80, "test": 20}

    @property
    def spec(self):
        """Shape and support."""
        return DataSpec((4,), SUPPORTS["boolean"], 80)

    @property
    def splits(self):
        """train, test."""
        return ("train", "test")

    def ids(self, split):
        """Ids of a split."""
        return np.arange(self.start[split], self.start[split] + self.size[split])

    def examples(self, split):
        """Rows."""
        ids = self.ids(split)
        x = (np.outer(ids + 1, np.arange(1, 5)) * 37 % 256).astype(np.uint8)
        yield record(ids, x)

    def tensor(self, x, uniform):
        """Bits."""
        return bernoulli(x.to(torch.get_default_dtype()) / 255, uniform)
