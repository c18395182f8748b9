"""Annealed importance sampling: a lower bound on log p(x), and an upper one on simulated data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.distributions import Independent

from vaepipe.core import (
    Cap,
    LatentModel,
    Purpose,
    Stream,
    by_row,
    provided,
    row_uniform,
    stream,
)
from vaepipe.core.noise import id_tensor
from vaepipe.errors import CompatibilityError
from vaepipe.evaluation.proposals import is_real, normals, row_moments
from vaepipe.evaluation.weights import summarise_weights

TARGET = 0.65
"""Share of accepted moves that the step size aims at (Wu et al., 2017)."""
_GROW = 1.05
_FIRST_STEP = 0.3
"""In standard deviations of the start."""
_WIDER = 1.2
"""The start is a little wider than q(z | x), which is narrower than p(z | x) as a rule."""
_TUNING_CHAINS = 4


@dataclass(frozen=True, slots=True)
class Annealing:
    """How long and how broad the path is.

    Args:
        temperatures: distributions between the start and p(z | x).
        chains: independent paths of each example.
        leapfrog: steps of each Hamiltonian move.
    """

    temperatures: int = 100
    chains: int = 16
    leapfrog: int = 5


class Annealed(NamedTuple):
    """Of each example, `[batch]`, nats."""

    value: Tensor
    """log (1/chains) sum_c w_c; for reversed paths -log (1/chains) sum_c 1/w_c."""
    se: Tensor
    """Its standard error, by the delta method."""


class Sandwich(NamedTuple):
    """Bounds of log p(x) of simulated examples, `[n]`, nats."""

    lower: Tensor
    """From forward paths: E lower <= log p(x)."""
    upper: Tensor
    """From reversed paths that begin at the z that made x: E upper >= log p(x)."""


def ais(
    model: LatentModel,
    x: Tensor,
    ids: Sequence[int],
    *,
    path: Annealing,
    seed: int = 0,
) -> Annealed:
    """A stochastic lower bound on log p(x) that MCMC makes tight, whatever q(z | x) misses.

        f_t(z) = s(z)^(1 - b_t) (p(x | z) p(z))^b_t,   0 = b_0 < ... < b_T = 1
        log w = sum_t log f_t(z_t-1) - log f_t-1(z_t-1),   E w = p(x)

    Neal (2001), *Annealed importance sampling*, for decoder-based models as in Wu, Burda,
    Salakhutdinov and Grosse (2017), https://arxiv.org/abs/1611.04273. Moves are Hamiltonian (Neal,
    2011), their step size tuned for each example and temperature on chains of its own and then
    fixed, so that E w = p(x) holds. The start s is a factorised Normal of the mean and 1.2
    standard deviations of q(z | x).

    Args:
        model: p(x, z) with q(z | x), z real.
        x: examples `[batch, *shape]`.
        ids: the examples' ids, which seed the paths.
        path: temperatures, chains, leapfrog steps.
        seed: of the paths, together with the id.

    Raises:
        CompatibilityError: z is discrete or bounded, so that it has no Hamiltonian moves.

    Example:
        >>> from vaepipe.testing.exact import PPCA
        >>> ppca = PPCA.random(5, 2, seed=0)
        >>> path = Annealing(temperatures=10, chains=4)
        >>> ais(ppca.model(), ppca.draw(3), [0, 1, 2], path=path).value.shape
        torch.Size([3])
    """
    paths = _Paths.of(model, x, ids, path, stream(seed, Purpose.ANNEALING))
    log_w = paths.forward(paths.tuned(), path.chains)
    value, se, _ = summarise_weights(log_w)
    return Annealed(value, se)


def bdmc(model: LatentModel, n: int, *, path: Annealing, seed: int = 0, first: int = 0) -> Sandwich:
    """Both sides of log p(x) on data that the model made: how far off an estimate can be.

        z* ~ p(z),  x ~ p(x | z*);  z* is an exact draw of p(z | x), so reversed paths begin there
        E log w_forward <= log p(x) <= E log w_reversed

    Grosse, Ghahramani and Adams (2015), *Sandwiching the marginal likelihood using bidirectional
    Monte Carlo*, https://arxiv.org/abs/1511.02543.

    Args:
        model: p(x, z) with q(z | x), z real, whose p(x | z) can be sampled.
        n: how many examples are simulated.
        path: temperatures, chains, leapfrog steps.
        seed: of examples and paths.
        first: number of the first example, where they are made in parts.

    Raises:
        CompatibilityError: z is discrete or bounded.
    """
    ids = range(first, first + n)
    z, x = simulated(model, ids, seed)
    paths = _Paths.of(model, x, ids, path, stream(seed, Purpose.SIMULATED_ANNEALING))
    steps = paths.tuned()
    lower, _, _ = summarise_weights(paths.forward(steps, path.chains))
    upper, _, _ = summarise_weights(-paths.backward(steps, z, path.chains))
    return Sandwich(lower, -upper)


@torch.no_grad()
def simulated(model: LatentModel, ids: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """z* ~ p(z) `[n, *latent]` and x ~ p(x | z*) `[n, *x]`, each pair seeded by its number."""
    p = model.p_z().z

    def one(_: int) -> tuple[Tensor, Tensor]:
        z = p.sample(torch.Size((1,)))
        return z, model.generator(z).sample()

    device = next(model.parameters()).device
    pairs = by_row(one, ids, stream(seed, Purpose.SIMULATION), device)
    z, x = zip(*pairs, strict=True)
    return torch.cat(z), torch.cat(x)


@final
class _Paths:
    """Annealed paths of a batch of examples, `[chains, batch, *latent]` at a time."""

    def __init__(
        self,
        model: LatentModel,
        x: Tensor,
        start: Independent,
        ids: Tensor,
        shape: Annealing,
        stream: Stream,
    ) -> None:
        self.model, self.x, self.start, self.ids, self.shape = model, x, start, ids, shape
        self.stream = stream
        self.scale = start.base_dist.scale
        self.p = model.p_z().z

    @classmethod
    def of(
        cls, model: LatentModel, x: Tensor, ids: Sequence[int], path: Annealing, stream: Stream
    ) -> _Paths:
        """Where paths begin, from q(z | x)."""
        _check(model)
        with torch.no_grad():
            h = model.inference.features(x)
            mean, scale = row_moments(model, h, ids, stream.at("start")).like(h)
            start = normals(mean, _WIDER * scale)
            return cls(model, x, start, id_tensor(ids, x.device), path, stream)

    def tuned(self) -> list[Tensor]:
        """A step size for each temperature and example, from a forward run of a few chains."""
        sizes: list[Tensor] = []
        step = torch.full((len(self.x),), _FIRST_STEP, dtype=self.x.dtype, device=self.x.device)
        z = self._begin(_TUNING_CHAINS, "tune")
        for t in range(1, self.shape.temperatures):
            sizes.append(step)
            z, accepted = self._move(z, t, step, "tune")
            step = step * torch.where(accepted > TARGET, _GROW, 1 / _GROW)
        return sizes

    def forward(self, steps: Sequence[Tensor], chains: int) -> Tensor:
        """log w `[chains, batch]` of paths from the start to the posterior."""
        z, log_w = self._begin(chains, "forward"), 0.0
        for t in range(1, self.shape.temperatures + 1):
            log_w = log_w + self._gain(z, t)
            if t < self.shape.temperatures:
                z, _ = self._move(z, t, steps[t - 1], "forward")
        assert isinstance(log_w, Tensor)
        return log_w

    def backward(self, steps: Sequence[Tensor], z: Tensor, chains: int) -> Tensor:
        """log w `[chains, batch]` of paths from exact draws of the posterior to the start."""
        z, log_w = z.expand(chains, *z.shape), 0.0
        for t in range(self.shape.temperatures, 0, -1):
            if t < self.shape.temperatures:
                z, _ = self._move(z, t, steps[t - 1], "backward")
            log_w = log_w + self._gain(z, t)
        assert isinstance(log_w, Tensor)
        return log_w

    def _begin(self, chains: int, what: str) -> Tensor:
        return self.start.mean + self.scale * self._normal(chains, 0, what)

    def _gain(self, z: Tensor, t: int) -> Tensor:
        """log f_t(z) - log f_t-1(z), `[chains, batch]`, float64."""
        with torch.no_grad():
            start, joint = self._logs(z)
        return (self._beta(t) - self._beta(t - 1)) * (joint.double() - start.double())

    def _beta(self, t: int) -> float:
        """A sigmoid schedule: more temperatures at both ends, where f changes fastest."""
        low, high = (1 / (1 + math.exp(-v)) for v in (-4.0, 4.0))
        at = 1 / (1 + math.exp(4.0 - 8.0 * t / self.shape.temperatures))
        return (at - low) / (high - low)

    def _logs(self, z: Tensor) -> tuple[Tensor, Tensor]:
        joint = self.model.generator(z).log_prob(self.x) + self.p.log_prob(z)
        return self.start.log_prob(z), joint

    def _energy(self, z: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        """-log f(z) `[chains, batch]` and its gradient."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            start, joint = self._logs(z)
            energy = -((1 - beta) * start + beta * joint)
            (slope,) = torch.autograd.grad(energy.sum(), [z])
        return energy.detach(), slope

    def _move(self, z: Tensor, t: int, step: Tensor, what: str) -> tuple[Tensor, Tensor]:
        """One Hamiltonian move that leaves f_t unchanged; share accepted `[batch]`."""
        chains, beta = len(z), self._beta(t)
        size = self._along(step) * self.scale
        p = self._normal(chains, t, what)
        energy, slope = self._energy(z, beta)
        before = energy + self._kinetic(p)
        new, p = z, p - 0.5 * size * slope
        for i in range(self.shape.leapfrog):
            new = new + size * p
            energy, slope = self._energy(new, beta)
            p = p - (size if i < self.shape.leapfrog - 1 else 0.5 * size) * slope
        log_ratio = before - energy - self._kinetic(p)
        accept = self._uniform(chains, t, what).log() < log_ratio
        moved = torch.where(self._along(accept), new, z)
        return moved.detach(), accept.to(z.dtype).mean(0)

    def _kinetic(self, p: Tensor) -> Tensor:
        return 0.5 * p.flatten(2).square().sum(-1)

    def _along(self, values: Tensor) -> Tensor:
        """`[..., batch]` to something that multiplies `[..., batch, *latent]`."""
        return values.reshape(*values.shape, *[1] * len(self.start.event_shape))

    def _normal(self, chains: int, t: int, what: str) -> Tensor:
        """Standard Normal noise `[chains, batch, *latent]` that ids seed."""
        u = self._noise((chains, *self.start.event_shape), what, "momenta", t)
        return torch.special.ndtri(u).transpose(0, 1).to(self.x.dtype)

    def _uniform(self, chains: int, t: int, what: str) -> Tensor:
        return self._noise((chains,), what, "accept", t).T.to(self.x.dtype)

    def _noise(self, shape: tuple[int, ...], *keys: str | int) -> Tensor:
        return row_uniform(self.stream.at(*keys), self.ids, shape).double() + 2.0**-25


def _check(model: LatentModel) -> None:
    head = model.inference.head
    provides = provided(head)
    q = head(torch.zeros(1, *head.feature_shape, device=next(model.parameters()).device))
    if Cap.CODES in provides or not (is_real(q) and is_real(model.p_z().z)):
        raise CompatibilityError(
            f"annealed importance sampling moves z along gradients: it needs a posterior and a "
            f"prior on the real numbers, got family {type(head).__name__} and prior "
            f"{type(model.prior).__name__}. Leave out `ais` and `bdmc` for this model."
        )
