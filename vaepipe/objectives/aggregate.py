"""A prior that is fitted to a trained model's codes."""

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
    provided,
    rate,
)
from vaepipe.errors import CompatibilityError
from vaepipe.registry import options_signature


@final
class AggregatePosterior(Objective):
    """Only p(z) is trained, on draws from the aggregate posterior of a fixed encoder.

        max over p:  E_{q(z)} log p(z),   q(z) = (1/N) sum_n q(z | x_n)

    The M-step of the prior: the ELBO falls short of its maximum over priors by KL(q(z) || p(z))
    (Hoffman and Johnson, 2016, eq. 5). Start from the weights of a trained model. `bound` is the
    ELBO of the whole model.

    Args:
        samples: draws of z per example.

    Raises:
        CompatibilityError: the prior has nothing to train.
    """

    needs = Cap.SAMPLE
    trains = Part.PRIOR
    conformance = {"prior": {"type": "mixture", "components": 2}}

    def __init__(self, *, samples: Annotated[int, Ge(1)] = 1) -> None:
        super().__init__()
        self.samples = samples

    def phases(self) -> tuple[Phase, ...]:
        """A single phase, `prior`."""
        return (Phase("prior", Part.PRIOR, self.estimate),)

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        _require_parameters(model)
        with torch.no_grad():
            q = model.inference(x)
            z = q.sample((self.samples,))
            log_lik = model.generator(z).log_prob(x).mean(0)
        p = model.p_z()
        global_rate = p.global_kl / ctx.num_examples
        surrogate = global_rate - p.z.log_prob(z).mean()
        with torch.no_grad():
            exact = rate(q, p.z, z).expand(self.samples, -1).mean(0)
        bound = (log_lik - exact - global_rate).detach()
        return Estimate(bound, surrogate, {"log_lik": log_lik, "rate": exact})


def _require_parameters(model: LatentModel) -> None:
    if not any(True for _ in model.prior.parameters()):
        raise CompatibilityError(
            f"objective 'aggregate' trains only the prior, and {type(model.prior).__name__} has "
            f"nothing to train: {_learned(model)}."
        )


def _learned(model: LatentModel) -> str:
    """What to do about a prior without parameters."""
    if "learned" in options_signature(type(model.prior)):
        return "write `learned: true` among its options"
    if Cap.CODES in provided(model.inference.head):
        return "choose a learned prior over the codes of the family"
    return "choose a learned prior, such as 'vamp'"
