"""Settings as the flat text that trackers keep."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

KEY_LENGTH = 250
_FOREIGN = re.compile(r"[^\w\-./ ]")


def flatten(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as dotted keys and text; lists and numbers are JSON.

    Example:
        >>> flatten({"prior": {"type": "vamp", "components": 500}, "latent_shape": [2, 3]})
        {'prior.type': 'vamp', 'prior.components': '500', 'latent_shape': '[2, 3]'}
    """
    return {key(path): text(value) for path, value in _leaves(values, "")}


def key(name: str) -> str:
    """A name that every store takes: foreign characters become underscores.

    Example:
        >>> key("setting.model prior[0]")
        'setting.model prior_0_'
    """
    return _FOREIGN.sub("_", name)[:KEY_LENGTH]


def text(value: Any) -> str:
    """Text as it is, anything else as JSON; without NUL, which databases refuse."""
    plain = value if isinstance(value, str) else json.dumps(value, default=str)
    return plain.replace("\0", "")


def cut(value: str, length: int) -> str:
    """At most `length` characters; a cut is marked.

    Example:
        >>> cut("abcdefgh", 6)
        'abcde…'
    """
    return value if len(value) <= length else value[: length - 1] + "…"


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value
