"""Objectives, all of them with five draws for each example."""

from vaepipe.core import Cap, Estimate, JointObjective, log_mean_exp, log_weights


class Weighted(JointObjective):
    needs = Cap.RSAMPLE | Cap.DENSITY

    def __init__(self) -> None:
        super().__init__()

    def weights(self, model, x):
        q, p = model.inference(x), model.p_z()
        return log_weights(model, x, q.rsample((5,)), p, q), p.global_kl


class Honest(Weighted):
    """E log (1/k) sum_i w_i."""

    conformance = {"same_bound_as": {"type": "iwae", "k": 5}}

    def estimate(self, model, x, ctx):
        """Bound and surrogate."""
        log_w, kl = self.weights(model, x)
        bound = log_mean_exp(log_w) - kl / ctx.num_examples
        return Estimate(bound.detach(), -bound.mean(), {})
