"""Objectives whose posterior is optimised for each example (`vaepipe.core.refine`)."""

from __future__ import annotations

from typing import Annotated, final

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from vaepipe.core import (
    Cap,
    Estimate,
    LatentModel,
    Objective,
    Part,
    Phase,
    StepContext,
    refine,
    stratified,
)
from vaepipe.core.refine import fresh_stream
from vaepipe.core.streams import Purpose, Stream, stream
from vaepipe.objectives.bounds import elbo_at, elbo_under, require_own_prior

_CHECKS = 32
"""Draws that decide, in a validation, whether a refined posterior is better than its start."""


class _Local(Objective):
    """What both share: how features are refined."""

    needs = Cap.RSAMPLE
    conformance = {"options": {"steps": 5}}

    def __init__(
        self,
        *,
        steps: Annotated[int, Ge(1)] = 20,
        lr: Annotated[float, Gt(0)] = 0.1,
        samples: Annotated[int, Ge(1)] = 1,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.lr = lr
        self.samples = samples

    def features(self, model: LatentModel, x: Tensor) -> Tensor:
        """The refined features: what the model is judged by while it is trained."""
        return self._refined(model, x, _CHECKS, stream(0, Purpose.FEATURES))

    def generate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """The ELBO of the refined posterior, as a function of decoder and prior."""
        h = self._refined(model, x, 0, fresh_stream())
        with torch.no_grad():
            q = model.inference.head(h)
        return elbo_under(model, x, q, self.samples, ctx)

    def _refined(self, model: LatentModel, x: Tensor, checks: int, noise: Stream) -> Tensor:
        with torch.no_grad():
            h = model.inference.features(x)
        how = {"steps": self.steps, "samples": self.samples, "checks": checks, "noise": noise}
        return refine(model, x, h, lr=self.lr, **how)


@final
class SVI(_Local):
    """Stochastic variational inference: no encoder is trained, each example has a q of its own.

        h_n = argmax_h ELBO(x_n, h);   theta <- theta + d/dtheta sum_n ELBO(x_n, h_n)

    Hoffman et al. (2013), figure 4. Each batch's features start at the encoder's, which stays as it
    is, weights of the family included: take the network `constant`. `bound` is the ELBO of the
    refined posterior; validation during training judges that posterior, too. Evaluate such a model
    with a refined proposal.

    Args:
        steps: of Adam on the features of each batch.
        lr: of Adam on the features.
        samples: draws of z per example and step.
    """

    trains = Part.GENERATOR | Part.PRIOR

    def phases(self) -> tuple[Phase, ...]:
        """Decoder and prior only."""
        return (Phase("generation", Part.GENERATOR | Part.PRIOR, self.learn),)

    def learn(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """The ELBO of the refined posterior, as a function of decoder and prior."""
        require_own_prior(model, "svi")
        return self.generate(model, x, ctx)


@final
class SemiAmortized(_Local):
    """An encoder that is trained as ever, a decoder that is trained on refined posteriors.

        phi <- phi + d/dphi ELBO(x, f_phi(x));   theta <- theta + d/dtheta ELBO(x, h),
        h = refined from f_phi(x)

    Krishnan, Liang and Hoffman (2018), algorithm 1. The gradient does not pass through the
    refinement: that would be Kim et al. (2018), algorithm 1; nor is the refinement learned
    (Marino et al., 2018). `bound` is the ELBO of the refined posterior in the last phase.

    Args:
        steps: of Adam on the features of each batch.
        lr: of Adam on the features.
        samples: draws of z per example and step.
    """

    trains = Part.MODEL

    def phases(self) -> tuple[Phase, ...]:
        """Encoder, then decoder and prior."""
        return (
            Phase("inference", Part.INFERENCE, self.infer),
            Phase("generation", Part.GENERATOR | Part.PRIOR, self.generate),
        )

    def infer(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """The ELBO at the encoder's features, as a function of the encoder."""
        q = model.inference(x)
        return elbo_at(model, x, q, stratified(q, self.samples), ctx)
