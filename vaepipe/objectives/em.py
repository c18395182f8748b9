"""Coordinate ascent on the ELBO: inference and generation take turns."""

from __future__ import annotations

from typing import Annotated, final

import torch
from annotated_types import Ge
from torch import Tensor

from vaepipe.core import (
    Cap,
    Estimate,
    LatentModel,
    Objective,
    Part,
    Phase,
    StepContext,
    stratified,
)
from vaepipe.objectives.bounds import elbo_at, elbo_under


@final
class VariationalEM(Objective):
    """Some steps on q(z | x), then some on p(x | z) and p(z), all of them on the ELBO.

        E: phi <- phi + d/dphi ELBO, e_steps times
        M: theta <- theta + d/dtheta ELBO, m_steps times

    Neal and Hinton (1998), eq. 7, with gradient steps instead of maxima and one batch instead of
    the data. Many E-steps keep the encoder near its optimum for the batch at hand. This is not the
    aggressive training of He et al. (2019), algorithm 1, which takes a new batch for every step of
    the encoder, until its bound stops rising, and goes back to joint steps once the mutual
    information of x and z has stopped rising.

    Args:
        e_steps: updates of the encoder for each batch.
        m_steps: updates of decoder and prior for each batch.
        samples: draws of z per example.
    """

    needs = Cap.RSAMPLE
    trains = Part.MODEL

    def __init__(
        self,
        *,
        e_steps: Annotated[int, Ge(1)] = 1,
        m_steps: Annotated[int, Ge(1)] = 1,
        samples: Annotated[int, Ge(1)] = 1,
    ) -> None:
        super().__init__()
        self.e_steps = e_steps
        self.m_steps = m_steps
        self.samples = samples

    def phases(self) -> tuple[Phase, ...]:
        """E, then M."""
        return (
            Phase("e", Part.INFERENCE, self.expect, self.e_steps),
            Phase("m", Part.GENERATOR | Part.PRIOR, self.maximise, self.m_steps),
        )

    def expect(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """The ELBO as a function of the encoder."""
        q = model.inference(x)
        return elbo_at(model, x, q, stratified(q, self.samples), ctx)

    def maximise(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """The ELBO as a function of decoder and prior."""
        with torch.no_grad():
            q = model.inference(x)
        return elbo_under(model, x, q, self.samples, ctx)
