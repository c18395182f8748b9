"""A model bundle as an MLflow `pyfunc`: any MLflow client can encode, reconstruct and score.

MLflow stores the name of this module and the bundle's files; no Python object is pickled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from vaepipe import registry
from vaepipe.core import LatentModel, Purpose, seeded, stream
from vaepipe.datasets.base import Dataset
from vaepipe.errors import UserError, did_you_mean
from vaepipe.evaluation.evidence import row_draws, score
from vaepipe.evaluation.moments import typical
from vaepipe.evaluation.proposals import row_moments
from vaepipe.training import bundle

DEFAULTS: Mapping[str, tuple[str, Any]] = {
    "output": ("string", "mean"),
    "seed": ("long", 0),
    "k": ("long", 16),
}
"""Parameters of `predict`: MLflow's type and the default of each."""
ROWS_AT_ONCE = 500
DRAWS = 32
"""Samples behind a reconstruction's mean that has no closed form."""


def _load_pyfunc(data_path: str) -> Predictor:
    """What MLflow calls to open a model."""
    return Predictor(Path(data_path))


@final
class Predictor:
    """Answers `predict` with one row for each row of input.

    Args:
        path: folder of a bundle.
    """

    def __init__(self, path: Path) -> None:
        opened = bundle.load(path)
        part = self.part = opened.dataset
        self.model: LatentModel = opened.model
        self.spec, self.stored = opened.data, opened.card.get("stored")
        self.dataset: Dataset = registry.part(part.group, part.type, part.options).build()

    @torch.no_grad()
    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> np.ndarray:
        """Rows of examples to rows of codes, reconstructions or scores.

        Args:
            model_input: array or data frame `[n, D]`, values as the dataset stores them (grey
                levels, say); the row number seeds what is random, together with `seed`. Named
                columns of a data frame, and arrays `[n]` by name, are taken by the names that the
                model's values have.
            params: `output`, one of mean, scale, sample (`[n, d]`), recon (`[n, D]`), elbo,
                log_lik, rate, log_evidence (`[n]`, nats); `seed`; `k`, samples of the posterior
                behind a score without a closed form.

        Raises:
            UserError: an unknown output, rows of another size, columns of other names, or values
                that are none of the data's.
        """
        options = {name: default for name, (_, default) in DEFAULTS.items()} | dict(params or {})
        output = OUTPUTS.get(options["output"])
        if output is None:
            offer = did_you_mean(options["output"], OUTPUTS)
            raise UserError(
                f"unknown output '{options['output']}'.{offer} Outputs: {', '.join(OUTPUTS)}."
            )
        x = self._view(model_input)
        ids = torch.arange(len(x))
        parts = [
            output(self.model, rows, numbers.tolist(), int(options["k"]), int(options["seed"]))
            for rows, numbers in zip(x.split(ROWS_AT_ONCE), ids.split(ROWS_AT_ONCE), strict=True)
        ]
        return torch.cat(parts).float().numpy()

    def _view(self, model_input: Any) -> Tensor:
        """What the model sees of the rows, `[n, *shape]`."""
        values = self._in_order(model_input)
        size = math.prod(self.spec.shape)
        if values.size != len(values) * size:
            raise UserError(f"expected rows of {size} values, got an array {values.shape}.")
        stored = self._as_stored(np.ascontiguousarray(values).reshape(-1, *self.spec.shape))
        x = self.dataset.frozen(stored, torch.arange(len(stored)))
        inside = self.spec.support.check(x)
        if not inside.all():
            raise UserError(
                f"expected {self.spec.support_name} values as dataset '{self.part.type}' stores "
                f"them, got {stored[~inside][0].item():g}."
            )
        return x

    def _in_order(self, rows: Any) -> np.ndarray:
        """The values of rows; named columns in the order that the model knows them in."""
        names = self.spec.names
        columns = list(getattr(rows, "columns", rows if isinstance(rows, Mapping) else ()))
        if names is None or not columns or columns == list(range(len(columns))):
            return np.asarray(getattr(rows, "values", rows))
        missing = [name for name in names if name not in columns]
        if missing:
            raise UserError(f"the model reads the column '{missing[0]}', which the rows lack.")
        return np.stack([np.asarray(rows[name]) for name in names], 1)

    def _as_stored(self, values: np.ndarray) -> Tensor:
        """The values in the type in which the dataset stores them."""
        given = torch.as_tensor(values)
        if self.stored is None:  # a bundle of before this was written down
            whole = given.is_floating_point() and bool((given == given.round()).all())
            return given.long() if whole else given  # MLflow's signature made grey levels floats
        stored = given.to(getattr(torch, self.stored))
        if self.stored == "uint8" and not bool((stored == given).all()):
            other = given[stored != given][0].item()
            raise UserError(f"expected bytes (whole numbers from 0 to 255), got {other:g}.")
        return stored


Output = Callable[[LatentModel, Tensor, list[int], int, int], Tensor]


def _moments(
    model: LatentModel, x: Tensor, ids: list[int], k: int, seed: int
) -> tuple[Tensor, Tensor]:
    h = model.inference.features(x)
    return row_moments(model, h, ids, stream(seed, Purpose.MOMENTS)).like(h)


def _mean(*args: Any) -> Tensor:
    return _moments(*args)[0].flatten(1)


def _scale(*args: Any) -> Tensor:
    return _moments(*args)[1].flatten(1)


def _sample(model: LatentModel, x: Tensor, ids: list[int], k: int, seed: int) -> Tensor:
    own = stream(seed, Purpose.SAMPLES)
    _, z = row_draws(model, model.inference.features(x), ids, 1, own)
    return z[0].flatten(1)


def _recon(model: LatentModel, x: Tensor, ids: list[int], k: int, seed: int) -> Tensor:
    z = _moments(model, x, ids, k, seed)[0]
    with seeded(stream(seed, Purpose.RECONSTRUCTION_MEANS, ids[0])):
        return typical(model.generator(z), DRAWS).flatten(1)


def _score(field: str) -> Output:
    def output(model: LatentModel, x: Tensor, ids: list[int], k: int, seed: int) -> Tensor:
        return getattr(score(model, x, ids, k=k, seed=seed), field)

    return output


OUTPUTS: Mapping[str, Output] = {
    "mean": _mean,
    "scale": _scale,
    "sample": _sample,
    "recon": _recon,
    **{field: _score(field) for field in ("elbo", "log_lik", "rate", "log_evidence")},
}
