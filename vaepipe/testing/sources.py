"""Small files of the usual kinds, for datasets whose option is a path."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from vaepipe.data.schema import record

_NOWHERE = "http://127.0.0.1:9"
_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
_ROWS = 60
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sings"]


def write(folder: Path) -> list[Path]:
    """One source of each kind: Parquet files, an array, pictures in folders, lines of text."""
    rng = np.random.default_rng(0)
    values = rng.random((_ROWS, 1, 4, 4), np.float32)
    tables, arrays, pictures = folder / "tables", folder / "arrays", folder / "pictures"
    for each in (tables, arrays, *(pictures / split for split in ("train", "val", "test"))):
        each.mkdir(parents=True)
    pq.write_table(_table(values), tables / "part-0.parquet")
    np.save(arrays / "x.npy", values)
    _draw(pictures, values)
    text = folder / "lines.txt"
    lines = [" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(_ROWS)]
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [tables, arrays / "x.npy", arrays, pictures, text]


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables inside, and no network: a check downloads nothing."""
    changed = {**dict.fromkeys(_PROXIES, _NOWHERE), **values}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    urllib.request.install_opener(None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        urllib.request.install_opener(None)  # type: ignore[arg-type]


def _table(values: np.ndarray):  # noqa: ANN202 (a pyarrow Table)
    import pyarrow as pa

    return pa.Table.from_batches([record(np.arange(len(values)), values)])


def _draw(folder: Path, values: np.ndarray) -> None:
    """The same numbers as pictures, in a folder for each split and each of two classes."""
    from PIL import Image

    splits = ["train"] * 8 + ["val", "test"]
    for number, value in enumerate(values):
        place = folder / splits[number % 10] / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        grey = (value[0] * 255).astype(np.uint8)
        Image.fromarray(grey).save(place / f"{number:03d}.png")
