"""Examples a model made up, or made of others, as a picture, a table or lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from vaepipe import files
from vaepipe.core import DataSpec
from vaepipe.data import schema, shards
from vaepipe.data.lexicon import Lexicon
from vaepipe.errors import UserError

DRAWS = 32
"""Samples behind a mean that has no closed form."""
SUFFIXES = (".png", ".parquet", ".txt")
TILE, GAP = 32, 2
"""Least height or width of a picture on a sheet, and what lies between two, in pixels."""
ACROSS = 16
"""Examples in a row of a sheet that shows several pictures of each."""


def check_output(path: Path) -> None:
    """A file of this name can be written.

    Raises:
        UserError: its suffix is none of `SUFFIXES`.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"--output '{path}': expected a .png, a .parquet or a .txt file.")


def write(
    path: Path,
    x: Tensor,
    data: DataSpec,
    lexicon: Lexicon | None = None,
    *,
    ids: np.ndarray | None = None,
    more: Mapping[str, Tensor] | None = None,
    facts: Mapping[str, Any] | None = None,
    columns: int | None = None,
) -> None:
    """Write examples `[n, *shape]`.

    A sheet for `.png`; `id`, `x` and, of sentences, `text` for `.parquet`; lines for `.txt`.

    Args:
        path: its suffix decides the kind.
        x: the examples.
        data: what they are.
        lexicon: what their integers say, where they are text.
        ids: `[n]`; by default 0, 1, ….
        more: further versions of the examples, `[n, *shape]`: pictures below, columns, or text in
            the same line after a tab.
        facts: further columns of a table, `[n]` or `[n, *any]`.
        columns: pictures in a row of a sheet.

    Raises:
        UserError: a picture was asked for and the examples are not images, or a text and they are
            not sentences.
    """
    versions = {"x": _array(x)} | {name: _array(value) for name, value in (more or {}).items()}
    text = {n: lexicon.read(v) for n, v in versions.items()} if lexicon is not None else {}
    if path.suffix == ".txt":
        _write_lines(path, text)
    elif path.suffix == ".parquet":
        _write_table(path, versions, text, ids, facts or {})
    elif lexicon is not None:
        raise UserError("these examples are sentences; write a .txt or a .parquet file.")
    else:
        from matplotlib import image

        picture = sheet(versions, data, columns)
        with files.whole(path) as draft:
            image.imsave(draft, picture, cmap="gray_r", format="png")


def sheet(
    versions: Mapping[str, np.ndarray], data: DataSpec, columns: int | None = None
) -> np.ndarray:
    """Images side by side, small ones enlarged: `[height, width]`, or with 3 channels in [0, 1].

    Args:
        versions: arrays `[n, *shape]`; several of them stand below each other.
        data: what the examples are.
        columns: pictures in a row; by default a square of one version, `ACROSS` of several.

    Raises:
        UserError: they are not images.
    """
    height, width, channels = image_shape(data)
    scale = max(1, math.ceil(TILE / max(height, width)))
    pictures = [_pictures(v, data.shape, (height, width, channels)) for v in versions.values()]
    pictures = [p.repeat(scale, axis=1).repeat(scale, axis=2) for p in pictures]
    count, kinds = len(pictures[0]), len(pictures)
    across = columns or (math.ceil(math.sqrt(count)) if kinds == 1 else min(count, ACROSS))
    tall, wide = height * scale + GAP, width * scale + GAP
    rows = math.ceil(count / across) * kinds
    canvas = np.zeros((rows * tall - GAP, across * wide - GAP, channels), np.float32)
    for kind, each in enumerate(pictures):
        for number, picture in enumerate(each):
            top, left = number // across * kinds + kind, number % across
            canvas[top * tall :, left * wide :][: tall - GAP, : wide - GAP] = picture
    return canvas[..., 0] if channels == 1 else canvas.clip(0, 1)


def image_shape(data: DataSpec) -> tuple[int, int, int]:
    """Height, width and channels of images: `[c, h, w]`, `[h, w, c]`, `[h, w]`, a square vector.

    Raises:
        UserError: the examples are not images.
    """
    from vaepipe.pipeline.report import sheets

    found = sheets.image_shape(data.shape)
    if found is None:
        raise UserError(f"examples of shape {data.shape} are no images; write a .parquet file.")
    return found


def _pictures(
    values: np.ndarray, shape: tuple[int, ...], image: tuple[int, int, int]
) -> np.ndarray:
    """`[n, *shape]` as `[n, height, width, channels]`."""
    height, width, channels = image
    if len(shape) == 3 and shape[0] == channels:
        return values.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    return values.reshape(-1, height, width, channels)


def _write_lines(path: Path, text: Mapping[str, list[str]]) -> None:
    if not text:
        raise UserError("these examples are no sentences; write a .png or a .parquet file.")
    lines = ("\t".join(row) + "\n" for row in zip(*text.values(), strict=True))
    with files.whole(path) as draft:
        draft.write_text("".join(lines), encoding="utf-8")


def _write_table(
    path: Path,
    versions: Mapping[str, np.ndarray],
    text: Mapping[str, list[str]],
    ids: np.ndarray | None,
    facts: Mapping[str, Any],
) -> None:
    x = versions["x"]
    batch = schema.record(np.arange(len(x)) if ids is None else ids, x)
    table = pa.Table.from_batches([batch])
    for name, value in {**versions, **facts}.items():
        if name == "x":
            continue
        array = np.asarray(value)
        if array.ndim == 1:
            table = table.append_column(name, pa.array(array))
        else:
            field = schema.vector_field(name, pa.from_numpy_dtype(array.dtype), array.shape[1:])
            table = table.append_column(field, schema.to_vectors(array))
    for name, lines in text.items():
        table = table.append_column("text" if name == "x" else f"{name}_text", pa.array(lines))
    shards.write_table(path, table)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().float().cpu().numpy()
