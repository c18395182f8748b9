"""Local variational parameters: the features of q(z | x), optimised for each example."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.optim import Adam

from vaepipe.core.divergence import rate
from vaepipe.core.model import LatentModel
from vaepipe.core.noise import seeded
from vaepipe.core.spec import Cap, provided
from vaepipe.core.strata import over_strata, stratified
from vaepipe.core.streams import Purpose, Stream, stream

Drawn = tuple[Tensor, Tensor]
"""`stratified` draws z `[k S, batch, *latent]` and their rate `[k S, batch]`, nats."""

_TAIL = 0.5
"""Share of the steps, the last ones, whose iterates are averaged."""
_NOISE = stream(0, Purpose.REFINEMENT)
_AT_ONCE = 32
"""Draws of a comparison that are decoded together."""


def refine(
    model: LatentModel,
    x: Tensor,
    h0: Tensor,
    *,
    steps: int = 100,
    lr: float = 0.05,
    samples: int = 1,
    checks: int = 256,
    noise: Stream = _NOISE,
) -> Tensor:
    """Features h that maximise each example's ELBO, everything else fixed: mean-field SVI.

        h* = argmax_h  E_{q(z | h)} log p(x | z) - KL(q(z | h) || p(z))

    Hoffman et al. (2013), section 2.3, here with the reparameterized gradient of Kingma and
    Welling (2014), eq. 7, and with Adam. Started at the encoder's features it closes the
    amortization gap (Cremer et al., 2018, section 3). The result is the mean of the last half of
    the iterates (Polyak and Juditsky, 1992); a row where that is not better than `h0` by a standard
    error, on `checks` common draws, stays at `h0`.

    A row depends on its own x, h0 and the stream only: all rows see the same noise, Adam works on
    single numbers, and no row's gradient reaches another (put a model with batch statistics into
    evaluation mode). It works under `no_grad` and `inference_mode`, and leaves the model's
    gradients and torch's generators alone.

    Args:
        model: its family must provide `RSAMPLE`.
        x: examples `[batch, *x]`.
        h0: where to start, `[batch, *feature_shape]`.
        steps: of Adam.
        lr: of Adam, in units of the features.
        samples: draws of z per example and step.
        checks: draws per example, at least 2, that compare the result with `h0`; 0: no comparison.
        noise: of the draws.

    Returns:
        `[batch, *feature_shape]`, a constant.

    Raises:
        NotImplementedError: draws of q(z | x) carry no gradient.

    Example:
        >>> from vaepipe.testing.exact import PPCA
        >>> ppca = PPCA.random(5, 2, seed=0)
        >>> model, x = ppca.model(), ppca.draw(3)
        >>> h0 = model.inference.features(x)
        >>> refine(model, x, h0, steps=5).shape == h0.shape
        True
    """
    with seeded(noise), torch.inference_mode(False), torch.enable_grad():
        x, start = x.clone(), h0.detach().clone()
        row_elbo = _RowELBO(model, x, start)
        result = _ascend(row_elbo, start, steps, lr, samples)
        if checks:
            result = _better(row_elbo, start, result, checks)
    return result


def fresh_stream() -> Stream:
    """Return a stream drawn from torch's own generator on the host, without waiting for a device.

    Its purpose is that of the stream which seeded the generator.
    """
    return Stream(int(torch.randint(2**62, (), device="cpu")))


@final
class _RowELBO:
    """The ELBO of each row as a function of its features; the prior is built once.

    Every row sees the same noise, so neither the size of a batch nor a row's place in it matters.
    Rows are drawn together where q(z | x) can be vectorised, else one by one, to the same numbers.
    """

    def __init__(self, model: LatentModel, x: Tensor, like: Tensor) -> None:
        self.head, self.generator, self.x = model.inference.head, model.generator, x
        self.dense = Cap.DENSITY in provided(self.head)
        with torch.no_grad():
            self.p = model.p_z().z
        self.draw = self._together if self._vectorises(like) else self._apart

    def __call__(self, h: Tensor, k: int, noise: Stream) -> Tensor:
        """Its integrand `[k, batch]`, nats, at k draws of this noise."""
        z, cost = self.draw(h, k, noise)
        return over_strata(self.head(h), self.generator(z).log_prob(self.x) - cost)

    def _one(self, h: Tensor, k: int) -> Drawn:
        """Of one row: here q still knows the density of what it drew."""
        q = self.head(h.unsqueeze(0))
        z = stratified(q, k)
        if torch.is_grad_enabled() or not self.dense:
            return z.squeeze(1), rate(q, self.p, z).expand(len(z), 1).squeeze(1)
        # Without gradients values are compared: near the posterior these hardly vary.
        return z.squeeze(1), (q.log_prob(z) - self.p.log_prob(z)).squeeze(1)

    def _together(self, h: Tensor, k: int, noise: Stream) -> Drawn:
        with seeded(noise):
            return torch.vmap(self._one, (0, None), 1, randomness="same")(h, k)

    def _apart(self, h: Tensor, k: int, noise: Stream) -> Drawn:
        rows = []
        for row in h:
            with seeded(noise):
                rows.append(self._one(row, k))
        z, cost = zip(*rows, strict=True)
        return torch.stack(z, 1), torch.stack(cost, 1)

    def _vectorises(self, like: Tensor) -> bool:
        """Whether vmap knows all that a draw does; what fails in both ways will say why."""
        try:
            with torch.no_grad():
                self._together(like[:1], 1, stream(0, Purpose.PROBE))
        except RuntimeError:
            return False
        return True


def _ascend(elbo: _RowELBO, start: Tensor, steps: int, lr: float, samples: int) -> Tensor:
    """Adam from `start`; the mean of the last iterates."""
    h = start.clone().requires_grad_()
    adam, total = Adam([h], lr=lr), torch.zeros_like(start)
    kept = max(1, round(_TAIL * steps))
    for step in range(steps):
        loss = -elbo(h, samples, fresh_stream()).mean(0).sum()
        (h.grad,) = torch.autograd.grad(loss, [h])
        adam.step()
        if step >= steps - kept:
            total += h.detach()
    return total / kept if steps else start


def _better(elbo: _RowELBO, start: Tensor, result: Tensor, checks: int) -> Tensor:
    """Row by row the result where its ELBO is larger by a standard error on common draws."""
    with torch.no_grad():
        parts = []
        for done in range(0, checks, _AT_ONCE):
            k, noise = min(_AT_ONCE, checks - done), fresh_stream()
            parts.append(elbo(result, k, noise) - elbo(start, k, noise))
    gain = torch.cat(parts)  # [checks, batch]
    better = gain.mean(0) > gain.std(0) / checks**0.5
    return torch.where(better.reshape(-1, *[1] * (start.ndim - 1)), result, start)
