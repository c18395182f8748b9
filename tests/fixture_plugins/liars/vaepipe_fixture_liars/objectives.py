"""Objectives, all of them with five draws for each example."""

import torch
from vaepipe_fixture_honest.objectives import Weighted

from vaepipe.core import Estimate, Part, frozen, log_mean_exp, log_weights


class Surrogate(Weighted):
    """Reports sum_i v_i log w_i, the surrogate, as the bound."""

    def estimate(self, model, x, ctx):
        """Bound and surrogate."""
        log_w, kl = self.weights(model, x)
        value = (log_w.detach().softmax(0) * log_w).sum(0) - kl / ctx.num_examples
        return Estimate(value.detach(), -value.mean(), {})


class Global(Weighted):
    """Counts the global divergence for every example."""

    def estimate(self, model, x, ctx):
        """Bound and surrogate."""
        log_w, kl = self.weights(model, x)
        bound = log_mean_exp(log_w) - kl
        return Estimate(bound.detach(), -bound.mean(), {})


class Sign(Weighted):
    """Returns the bound where its negative belongs."""

    def estimate(self, model, x, ctx):
        """Bound and surrogate."""
        log_w, kl = self.weights(model, x)
        bound = log_mean_exp(log_w) - kl / ctx.num_examples
        return Estimate(bound.detach(), bound.mean(), {})


class Beta(Weighted):
    """Reports a bound whose weight depends on where training stands."""

    def estimate(self, model, x, ctx):
        """Bound and surrogate."""
        q, p = model.inference(x), model.p_z()
        z = q.rsample((5,))
        beta = min(1.0, ctx.epoch / 10)
        rate = beta * (q.log_prob(z) - p.z.log_prob(z)) + p.global_kl / ctx.num_examples
        bound = (model.generator(z).log_prob(x) - rate).mean(0)
        return Estimate(bound.detach(), -bound.mean(), {})


class Encoder(Weighted):
    """Draws without gradients: the encoder hears nothing of the decoder, or of the prior."""

    trains = Part.GENERATOR | Part.PRIOR

    def estimate(self, model, x, ctx):
        """Bound and surrogate."""
        with torch.no_grad():
            q = model.inference(x)
            z = q.sample((5,))
        p = model.p_z()
        bound = log_mean_exp(log_weights(model, x, z, p, q)) - p.global_kl / ctx.num_examples
        return Estimate(bound.detach(), -bound.mean(), {})


class Twin(Weighted):
    """Says that its bound is that of ten draws, and takes five."""

    conformance = {"same_bound_as": {"type": "iwae", "k": 10}}

    def estimate(self, model, x, ctx):
        """Bound and surrogate."""
        log_w, kl = self.weights(model, x)
        bound = log_mean_exp(log_w) - kl / ctx.num_examples
        return Estimate(bound.detach(), -bound.mean(), {})


class Landing(Weighted):
    """Sticks the landing with five draws in one logarithm, where that is biased."""

    conformance = {"same_gradient_as": {"type": "iwae", "k": 5}}

    def estimate(self, model, x, ctx):
        """Bound and surrogate."""
        h, p = model.inference.features(x), model.p_z()
        z = model.inference.head(h).rsample((5,))
        q = frozen(model.inference.head)(h.detach())
        bound = log_mean_exp(log_weights(model, x, z, p, q)) - p.global_kl / ctx.num_examples
        return Estimate(bound.detach(), -bound.mean(), {})
