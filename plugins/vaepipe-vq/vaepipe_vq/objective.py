"""What trains a vector-quantized model."""

from __future__ import annotations

from typing import Annotated, final

from annotated_types import Ge
from torch import Tensor
from torch.distributions import Distribution

from vaepipe.core import (
    Cap,
    Estimate,
    JointObjective,
    LatentModel,
    StepContext,
    has_closed_form,
    rate,
)
from vaepipe.errors import CompatibilityError
from vaepipe_vq.codes import PointCodes, perplexity
from vaepipe_vq.family import VQ


@final
class VQObjective(JointObjective):
    """log p(x | z_q) - KL(q(z | x) || p(z)), with what pulls features and book together.

        surrogate = rate - log p(x | z_q) + ||sg[z_e] - e||^2 + c ||z_e - sg[e]||^2

    Van den Oord, Vinyals and Kavukcuoglu (2017), eq. 3, with sums over positions and dimensions;
    sg stops the gradient, and z_q hands its own to z_e. The second term vanishes where running
    means update the book. `bound` is log p(x | z_q) + log p(z_q) <= log p(x): with a uniform prior
    log p(x | z_q) - n log K. `terms` also hold the squared distance of z_e to its codes and, the
    same for all examples of a batch, the perplexity of its codes and its share of the largest that
    is possible, which is K or the number of codes in the batch.

    Args:
        commitment: c, what it costs the features to leave their codes.
    """

    needs = Cap.CODES
    couples = True
    conformance = {
        "latent_shape": (2, 3),
        "family": {"type": "vq", "codes": 4, "update": "gradient", "restart": 0.0},
        "prior": "uniform_codes",
    }

    def __init__(self, *, commitment: Annotated[float, Ge(0)] = 0.25) -> None:
        super().__init__()
        self.commitment = commitment

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`; in training mode the book may move."""
        family, p = _family(model), model.p_z()
        features = model.inference.features(x)
        family.begin(features)
        q = family(features)
        z = q.rsample((1,))
        log_lik, r = model.generator(z).log_prob(x)[0], _per_example(q, p.z, z)
        global_rate = p.global_kl / ctx.num_examples
        pull = _squared(q.features.detach(), q.vectors) if family.update == "gradient" else 0.0
        cost = pull + self.commitment * _squared(q.features, q.vectors.detach())
        bound = (log_lik - r - global_rate).detach()
        surrogate = (r - log_lik + cost).mean() + global_rate
        terms = _terms(q, log_lik, r, ctx.batch.rows(q.codes))
        family.learn(q, ctx.batch)  # after everything was computed with the book as it was
        return Estimate(bound, surrogate, terms)

    def notes(self, q: Distribution, p: Distribution) -> dict[str, str]:
        """How the rate is computed."""
        return {"rate": "closed form" if has_closed_form(q, p) else "sampled"}


def _family(model: LatentModel) -> VQ:
    head = model.inference.head
    if not isinstance(head, VQ):
        raise CompatibilityError(
            f"objective 'vq' trains the code book of family 'vq', not of {type(head).__name__}: "
            "write family: {type: vq}."
        )
    return head


def _per_example(q: PointCodes, p: Distribution, z: Tensor) -> Tensor:
    """The rate `[batch]`; its only draw stands for all."""
    return rate(q, p, z).reshape(q.batch_shape)


def _squared(one: Tensor, other: Tensor) -> Tensor:
    """||one - other||^2 of every example: `[batch]`."""
    return (one - other).square().flatten(1).sum(-1)


def _terms(q: PointCodes, log_lik: Tensor, r: Tensor, codes: Tensor) -> dict[str, Tensor]:
    """What is reported of the examples, and of the codes of the whole batch."""
    used = perplexity(codes, len(q.book)).to(log_lik)
    terms = {
        "log_lik": log_lik,
        "rate": r,
        "distance": _squared(q.features, q.vectors),
        "code_perplexity": used,
        "code_share": used / min(len(q.book), codes.numel()),
    }
    return {name: value.detach().expand_as(log_lik) for name, value in terms.items()}
