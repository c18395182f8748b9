"""Columns of latents: what is kept of q(z | x) for each row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from vaepipe.core import (
    LatentModel,
    Purpose,
    has_closed_form,
    rate,
    refine,
    row_uniform,
    stream,
)
from vaepipe.data import schema
from vaepipe.evaluation.evidence import log_likelihood, over_draws
from vaepipe.evaluation.proposals import batch_draws, row_moments

DRAWS = 16
"""Samples behind `log_lik`, `elbo` and a rate that has no closed form, however many are kept."""
VALUES_AT_ONCE = 2**21
"""Values of draws that are held at the same time."""


@final
class Latents:
    """Turns examples into columns of their posteriors.

    Args:
        model: p(x, z) with q(z | x).
        options: `samples` (draws a row), `extras` (`elbo`, `log_lik`), `sir` (candidates of a
            draw by sampling-importance-resampling; 0: none), `refine` (steps that move the
            posterior's parameters to the row's own optimum; 0: amortized), `seed`, `precision`
            (of the networks: `float32` or `bfloat16`).
    """

    def __init__(self, model: LatentModel, options: Mapping[str, Any]) -> None:
        """Keep the model."""
        self.model, self.options = model, options
        self.samples, self.seed = int(options["samples"]), int(options["seed"])
        with torch.no_grad():
            self.latent_shape = model.p_z().z.event_shape

    def columns(self, x: Tensor, ids: np.ndarray) -> dict[str, pa.Array]:
        """`mean` and `scale`, or `codes`; `rate`; and what else was asked for.

        Moments without a closed form come from 256 draws as in every command, `log_lik`, `elbo` and
        a rate without one from 16: none of them depends on what else is asked for. Rows are taken a
        few at a time where there are many draws of each, so that memory is bounded.
        """
        most = max(1, VALUES_AT_ONCE // max(1, self._draws_a_row * math.prod(self.latent_shape)))
        parts = [
            self._columns(rows, ids[start : start + most])
            for start, rows in zip(range(0, len(x), most), x.split(most), strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        return {name: pa.concat_arrays([part[name] for part in parts]) for name in parts[0]}

    @property
    def _draws_a_row(self) -> int:
        return max(self.samples, DRAWS, int(self.options["sir"]))

    def _columns(self, x: Tensor, ids: np.ndarray) -> dict[str, pa.Array]:
        h = self._features(x)
        q, p = self.model.inference.head(h), self.model.p_z().z
        codes = codes_of(q)
        found = self._moments(h, ids) if codes is None else {"codes": _vectors(codes)}
        z = _some(q)
        if self.options["extras"] or not has_closed_form(q, p):
            q, z = self._drawn(h, ids, DRAWS, Purpose.SAMPLES)
        r = over_draws(rate(q, p, z), 1)
        found |= {"rate": _column(r), **self._extras(x, z, r)}
        if self.samples:
            _, z = self._drawn(h, ids, self.samples, Purpose.SAMPLES)
            found |= {f"sample_{i}": _vectors(z[i]) for i in range(self.samples)}
        if self.options["sir"]:
            found["sir"] = _vectors(self._resampled(x, h, p, ids))
        return found

    def _features(self, x: Tensor) -> Tensor:
        half = self.options["precision"] == "bfloat16"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            h = self.model.inference.features(x)
        h = h.to(x.dtype)
        steps = int(self.options["refine"])
        own = stream(self.seed, Purpose.REFINEMENT)
        return refine(self.model, x, h, steps=steps, noise=own) if steps else h

    def _moments(self, h: Tensor, ids: np.ndarray) -> dict[str, pa.Array]:
        own = stream(self.seed, Purpose.MOMENTS)
        mean, scale = row_moments(self.model, h, ids.tolist(), own).like(h)
        return {"mean": _vectors(mean), "scale": _vectors(scale)}

    def _drawn(
        self, h: Tensor, ids: np.ndarray, k: int, purpose: Purpose
    ) -> tuple[Distribution, Tensor]:
        return batch_draws(self.model, h, ids.tolist(), k, stream(self.seed, purpose))

    def _extras(self, x: Tensor, z: Tensor, r: Tensor) -> dict[str, pa.Array]:
        wanted: Sequence[str] = self.options["extras"]
        if not wanted:
            return {}
        log_lik = log_likelihood(self.model, x, z).mean(0)
        values = {"elbo": log_lik - r, "log_lik": log_lik}
        return {name: _column(values[name]) for name in wanted}

    def _resampled(self, x: Tensor, h: Tensor, p: Distribution, ids: np.ndarray) -> Tensor:
        """A draw from q^(K)(z | x): K candidates from q, one chosen by its importance weight.

        Cremer, Morris and Duvenaud (2017), section 3. The choice is the inverse of the weights'
        distribution function at a uniform number of the row's own, which no candidate has seen.
        """
        candidates = int(self.options["sir"])
        q, z = self._drawn(h, ids, candidates, Purpose.SIR_CANDIDATES)
        log_w = log_likelihood(self.model, x, z) + p.log_prob(z) - q.log_prob(z)
        below = log_w.double().softmax(0).cumsum(0)
        choice = stream(self.seed, Purpose.SIR_CHOICE)
        u = row_uniform(choice, torch.from_numpy(ids).to(x.device), (1,))[:, 0]
        chosen = (below < u).sum(0).clamp(max=candidates - 1)
        return z[chosen, torch.arange(len(x), device=x.device)]


def codes_of(q: Distribution) -> Tensor | None:
    """The most probable value of a discrete posterior, as numbers `[batch, n]`; else None.

    Bits are 0 or 1; one-hot vectors and entries of a code book are their index.
    """
    own = getattr(q, "codes", None)
    if own is not None:
        return own.reshape(len(own), -1)
    if q.support is None or not q.support.is_discrete:
        return None
    mode = q.mode.nan_to_num(0.0)  # torch's mode of a fair coin is NaN
    kind = getattr(q.support, "base_constraint", q.support)
    hot = isinstance(kind, type(constraints.one_hot))
    return (mode.argmax(-1) if hot else mode).reshape(len(mode), -1)


def _some(q: Distribution) -> Tensor:
    """Anything where a closed form reads no draws."""
    return torch.zeros(1, *q.batch_shape, *q.event_shape)


def _vectors(values: Tensor) -> pa.Array:
    return schema.to_vectors(values.float().cpu().numpy().reshape(len(values), -1))


def _column(values: Tensor) -> pa.Array:
    return pa.array(values.float().cpu().numpy().astype(np.float32))
