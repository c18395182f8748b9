"""From rows of a dataset to codes, and from codes back to examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaepipe.core import Purpose, Stream, by_row, centre, seeded, stream
from vaepipe.errors import CompatibilityError, UserError
from vaepipe.evaluation.moments import typical
from vaepipe.pipeline import inputs
from vaepipe.pipeline.rows import first, pick
from vaepipe.pipeline.samples import DRAWS
from vaepipe.training.bundle import Bundle


class Rows(NamedTuple):
    """Rows of a dataset as a model sees them."""

    ids: np.ndarray
    """`[n]`."""
    x: Tensor
    """`[n, *shape]`."""
    warnings: tuple[str, ...] = ()
    """What the reader of a result must know of them."""


def rows(
    model: Bundle,
    path: str,
    split: str | None,
    column: str,
    id_column: str | None,
    wanted: Sequence[int] | int,
) -> Rows:
    """Rows by id, or the first ones, of one split of a data artifact or of files.

    Args:
        model: that will see them.
        path: a data artifact's folder, or files: path, glob or URI.
        split: of an artifact; by default test, else val, else the first.
        column: of files, the examples.
        id_column: of files, unique integers; None numbers the rows.
        wanted: ids, or how many of the first rows.

    Raises:
        DataError: there is no such split, or no such row.
        CompatibilityError: the model cannot read them.
    """
    found = inputs.of_path(path, model, [split] if split else None, column, id_column)
    inputs.check_input(model, found)
    name = next(n for n in ("test", "val", *found.sources) if n in found.sources)
    source = found.sources[name]
    ids, stored = first(source, wanted) if isinstance(wanted, int) else pick(source, wanted)
    if not len(ids):
        raise UserError(f"{path}: there are no rows.")
    view = found.dataset.build().frozen(torch.tensor(stored), torch.tensor(ids))
    dtype = next((p.dtype for p in model.model.parameters()), torch.get_default_dtype())
    return Rows(ids, view.to(dtype), found.warnings)


@torch.no_grad()
def codes(model: Bundle, found: Rows, seed: int) -> Tensor:
    """The centre of q(z | x) of each row, `[n, *latent]`; draws that it needs, by id and seed."""
    own = stream(seed, Purpose.CODES)
    return _each(found.ids, found.x, own, lambda x: centre(model.model.inference(x)))


@torch.no_grad()
def means(model: Bundle, found: Rows, seed: int) -> Tensor:
    """E[x | z] at the code of each row, of words the likeliest: `[n, *shape]`."""
    z, own = codes(model, found, seed), stream(seed, Purpose.RECONSTRUCTION_MEANS)
    return _each(found.ids, z, own, lambda one: typical(model.model.generator(one), DRAWS))


@torch.no_grad()
def draws(model: Bundle, found: Rows, seed: int) -> Tensor:
    """x' ~ p(x | z), z ~ q(z | x), each row's by its id and the seed: `[n, *shape]`."""
    model_of = model.model
    return _each(
        found.ids,
        found.x,
        stream(seed, Purpose.RECONSTRUCTIONS),
        lambda x: model_of.generator(model_of.inference(x).sample()).sample(),
    )


@torch.no_grad()
def prior_ends(model: Bundle, seed: int) -> Tensor:
    """Two draws z ~ p(z), `[2, *latent]`."""
    with seeded(stream(seed, Purpose.INTERPOLATION_ENDS)):
        return model.model.p_z().z.sample((2,))


@torch.no_grad()
def line(model: Bundle, ends: Tensor, steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Shares `[steps]` of the way between two codes, the codes there, and E[x | z] of each.

    Raises:
        CompatibilityError: the latents are discrete.
    """
    support = model.model.p_z().z.support
    if support is not None and support.is_discrete:
        raise CompatibilityError(
            f"model {model.path}: its latents are discrete, so nothing lies between two of them. "
            "Interpolate with a model of continuous latents, or `vaepipe reconstruct` both rows."
        )
    share = torch.linspace(0, 1, steps, dtype=ends.dtype)
    z = torch.lerp(ends[:1], ends[1:], share.reshape(-1, *[1] * (ends.ndim - 1)))
    with seeded(stream(seed, Purpose.INTERPOLATION)):
        return share, z, typical(model.model.generator(z), DRAWS)


def _each(
    ids: np.ndarray, values: Tensor, stream: Stream, compute: Callable[[Tensor], Tensor]
) -> Tensor:
    """Row by row, with random numbers that the row's id and the stream decide."""
    rows = values.split(1)
    return torch.cat(by_row(lambda place: compute(rows[place]), ids.tolist(), stream))
