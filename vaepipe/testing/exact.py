"""Models whose evidence is known, so that bounds can be held against the truth."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vaepipe.core import SUPPORTS, Conditional, DataSpec, Family, LatentModel, Stream, seeded
from vaepipe.families.discrete import BernoulliFamily
from vaepipe.families.normal import DiagonalNormal, FullNormal, raw_of
from vaepipe.likelihoods.bernoulli import BernoulliLikelihood
from vaepipe.likelihoods.gaussian import GaussianLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.priors.discrete import BernoulliPrior
from vaepipe.priors.normal import StandardNormal


@dataclass(frozen=True, slots=True)
class PPCA:
    """Probabilistic principal component analysis: a model with known evidence and posterior.

        z ~ N(0, I_d),   x | z ~ N(W z + b, s^2 I_D)
        x ~ N(b, W W^T + s^2 I),   z | x ~ N(M^-1 W^T (x - b), s^2 M^-1),   M = W^T W + s^2 I

    Tipping and Bishop (1999), eqs. 2, 4 and 6.

    Args:
        weight: W, `[D, d]`.
        bias: b, `[D]`.
        scale: s.

    Example:
        >>> ppca = PPCA.random(5, 2, seed=0)
        >>> x = ppca.draw(3)
        >>> ppca.log_evidence(x).shape, ppca.posterior(x).batch_shape
        (torch.Size([3]), torch.Size([3]))
    """

    weight: Tensor
    bias: Tensor
    scale: float = 0.5

    @classmethod
    def random(cls, dim: int, latent: int, *, seed: int, orthogonal: bool = False) -> PPCA:
        """A random W `[dim, latent]`; with `orthogonal` columns the posterior is diagonal."""
        with seeded(Stream(seed)):
            weight, bias = torch.randn(dim, latent), torch.randn(dim)
        if orthogonal:
            weight = torch.linalg.qr(weight).Q * torch.arange(1, latent + 1)
        return cls(weight, bias)

    @property
    def data(self) -> DataSpec:
        """What x is."""
        return DataSpec(tuple(self.bias.shape), SUPPORTS["real"], 1000)

    def draw(self, n: int) -> Tensor:
        """Examples `[n, D]` from the model itself."""
        z = torch.randn(n, self.weight.shape[1])
        return z @ self.weight.T + self.bias + self.scale * torch.randn(n, len(self.bias))

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x), nats, `[*batch]`."""
        noise = self.scale**2 * torch.eye(len(self.bias))
        return MultivariateNormal(self.bias, self.weight @ self.weight.T + noise).log_prob(x)

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """p(z | x), batch shape `[*batch]`."""
        to_loc, scale_tril = self._posterior_maps()
        return MultivariateNormal((x - self.bias) @ to_loc.T, scale_tril=scale_tril)

    def model(self, *, diagonal: bool = False) -> LatentModel:
        """The same as a `LatentModel`, whose q(z | x) is the posterior.

        Args:
            diagonal: with the mean-field family, exact where W has orthogonal columns.
        """
        dim, latent = self.weight.shape
        family: Family = DiagonalNormal((latent,)) if diagonal else FullNormal((latent,))
        encoder = MLP((dim,), family.feature_shape, hidden=[])
        decoder = MLP((latent,), (dim,), hidden=[])
        _set(decoder, self.weight, self.bias)
        to_loc, scale_tril = self._posterior_maps()
        spread = _features(scale_tril, diagonal)
        _set(
            encoder,
            torch.cat([to_loc, torch.zeros(len(spread), dim)]),
            torch.cat([-to_loc @ self.bias, spread]),
        )
        likelihood = GaussianLikelihood(self.data, scale=self.scale)
        return LatentModel(
            Conditional(encoder, family, (dim,)),
            StandardNormal((latent,), self.data),
            Conditional(decoder, likelihood, (latent,)),
        )

    def _posterior_maps(self) -> tuple[Tensor, Tensor]:
        """M^-1 W^T `[d, D]`, and the lower-triangular scale of the posterior `[d, d]`."""
        latent = self.weight.shape[1]
        m = self.weight.T @ self.weight + self.scale**2 * torch.eye(latent)
        return torch.linalg.solve(m, self.weight.T), torch.linalg.cholesky(
            self.scale**2 * torch.linalg.inv(m)
        )


@dataclass(frozen=True, slots=True)
class Enumeration:
    """Everything about a model with few latent codes, by going through all of them.

    Each number is differentiable in every parameter of the model, so `torch.autograd.grad` of it is
    the exact gradient that an estimator must have in the mean.

    Args:
        model: p(x, z) with q(z | x), z discrete.
        z: every code, `[n, *latent]`.

    Example:
        >>> exact = Enumeration.binary(8, 6, seed=0)
        >>> x = torch.bernoulli(torch.full((3, 6), 0.5))
        >>> exact.elbo(x).shape, bool((exact.elbo(x) < exact.log_evidence(x)).all())
        (torch.Size([3]), True)
    """

    model: LatentModel
    z: Tensor

    @classmethod
    def binary(cls, latent: int, dim: int, *, seed: int) -> Enumeration:
        """A random model of bits, of `latent` bits in codes: 2^latent of them.

        A learned Bernoulli prior, a Bernoulli posterior that is not the true one, and a decoder
        with curvature.
        """
        data = DataSpec((dim,), SUPPORTS["boolean"], 1000)
        with seeded(Stream(seed)):
            family, likelihood = BernoulliFamily((latent,)), BernoulliLikelihood(data)
            model = LatentModel(
                Conditional(MLP((dim,), (latent,), hidden=[]), family, (dim,)),
                BernoulliPrior((latent,), data, learned=True),
                Conditional(
                    MLP((latent,), (dim,), hidden=[8], activation="tanh"), likelihood, (latent,)
                ),
            )
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.5 * torch.randn_like(parameter))
        return cls(model, binary_codes(latent))

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, z) of every code, `[n, batch]`."""
        z = self.z.unsqueeze(1)
        return self.model.generator(z).log_prob(x) + self.model.p_z().z.log_prob(z)

    def log_q(self, x: Tensor) -> Tensor:
        """log q(z | x) of every code, `[n, batch]`."""
        return self.model.inference(x).log_prob(self.z.unsqueeze(1))

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x), `[batch]`."""
        return self.log_joint(x).logsumexp(0)

    def posterior(self, x: Tensor) -> Tensor:
        """p(z | x) of every code, `[n, batch]`."""
        return self.log_joint(x).softmax(0)

    def elbo(self, x: Tensor) -> Tensor:
        """E_q log p(x, z) - log q(z | x), `[batch]`."""
        log_q = self.log_q(x)
        return (log_q.exp() * (self.log_joint(x) - log_q)).sum(0)

    def iwae_2(self, x: Tensor) -> Tensor:
        """The importance-weighted bound of two draws, over all pairs of codes, `[batch]`."""
        log_q = self.log_q(x)
        log_w = self.log_joint(x) - log_q
        pair = torch.logaddexp(log_w.unsqueeze(0), log_w.unsqueeze(1)) - math.log(2)
        return ((log_q.unsqueeze(0) + log_q.unsqueeze(1)).exp() * pair).sum((0, 1))

    def divergence(self, x: Tensor) -> Tensor:
        """KL(p(z | x) || q(z | x)) of a constant posterior, `[batch]`: what encoders dream of."""
        p = self.posterior(x).detach()
        return (p * (p.log() - self.log_q(x))).sum(0)


def evidence(model: LatentModel, x: Tensor, z: Tensor, log_cell: float = 0.0) -> Tensor:
    """log p(x) by summation over all z of a small model, nats, `[batch]`.

        log sum_z p(x | z) p(z) dz

    Args:
        model: supplies p(x | z) and p(z).
        x: `[batch, *x]`.
        z: every code of a discrete latent, or a grid over a continuous one: `[n, *latent]`.
        log_cell: log volume that one point of the grid stands for.
    """
    z = z.unsqueeze(1)
    log_joint = model.generator(z).log_prob(x) + model.p_z().z.log_prob(z)  # [n, batch]
    return log_joint.logsumexp(0) + log_cell


def grid(latent: int, half_width: float, points: int) -> tuple[Tensor, float]:
    """An even grid on [-half_width, half_width]^latent: z `[points^latent, latent]`, log_cell."""
    axis = torch.linspace(-half_width, half_width, points)
    z = torch.cartesian_prod(*[axis] * latent).reshape(-1, latent)
    return z, latent * math.log(2 * half_width / (points - 1))


def binary_codes(latent: int) -> Tensor:
    """Every z in {0, 1}^latent: `[2^latent, latent]`.

    Example:
        >>> binary_codes(2).tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=latent)))


def _features(scale_tril: Tensor, diagonal: bool) -> Tensor:
    """What the heads of the Normal families read for this scale."""
    raw = raw_of(scale_tril.diagonal())
    if diagonal:
        return raw
    rows, columns = torch.tril_indices(*scale_tril.shape, offset=-1)
    return torch.cat([raw, scale_tril[rows, columns] * math.sqrt(len(scale_tril))])


def _set(affine: MLP, weight: Tensor, bias: Tensor) -> None:
    (layer,) = affine.layers
    layer.load_state_dict({"weight": weight, "bias": bias})
