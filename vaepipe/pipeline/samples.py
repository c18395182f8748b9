"""Examples a model made up, as a picture or a table."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import Tensor

from vaepipe import files
from vaepipe.core import DataSpec
from vaepipe.data import schema, shards
from vaepipe.errors import UserError


def write(path: Path, x: Tensor, data: DataSpec) -> None:
    """Write examples `[n, *shape]`: a sheet for `.png`, `id` and `x` for `.parquet`.

    Raises:
        UserError: a picture was asked for and the examples are not images.
    """
    values = x.float().cpu().numpy()
    if path.suffix == ".parquet":
        batch = schema.record(np.arange(len(values)), values)
        shards.write_table(path, pa.Table.from_batches([batch]))
        return
    from matplotlib import image

    with files.whole(path) as draft:
        image.imsave(draft, sheet(values, data), cmap="gray_r", format="png")


def sheet(values: np.ndarray, data: DataSpec) -> np.ndarray:
    """Images `[n, *shape]` side by side, one pixel apart: `[height, width]`."""
    height, width = image_shape(data)
    columns = math.ceil(math.sqrt(len(values)))
    rows = math.ceil(len(values) / columns)
    canvas = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1), np.float32)
    for number, picture in enumerate(values.reshape(len(values), height, width)):
        top, left = divmod(number, columns)
        place = np.s_[top * (height + 1) :, left * (width + 1) :]
        canvas[place][:height, :width] = picture
    return canvas


def image_shape(data: DataSpec) -> tuple[int, int]:
    """Height and width of grey images: `[1, h, w]`, `[h, w]` or a square vector.

    Raises:
        UserError: the examples are not images.
    """
    shape = data.shape[1:] if len(data.shape) == 3 and data.shape[0] == 1 else data.shape
    side = math.isqrt(shape[0]) if len(shape) == 1 else 0
    if len(shape) == 2:
        return shape[0], shape[1]
    if side and side**2 == shape[0]:
        return side, side
    raise UserError(f"examples of shape {data.shape} are no grey images; write a .parquet file.")
