"""Networks."""


from torch import nn
from vaepipe_fixture_honest.networks import Honest


class BatchNorm(Honest):
    """Divides by the spread of the batch, in evaluation too."""

    def forward(self, v):
        """Features."""
        h = super().forward(v)
        return h / (h.std(0, correction=0) + 1e-3)


class Dropout(Honest):
    """Drops features in evaluation too."""

    def forward(self, v):
        """Features."""
        return nn.functional.dropout(super().forward(v), 0.5, training=True)
