"""Numbers and foreign names as text that is safe to show."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

MISSING = "–"


def plain(text: object, limit: int = 60) -> str:
    r"""One line of printable characters, cut to a length.

    Example:
        >>> plain("a\n\x1b[31mb" + "c" * 99, limit=12)
        'a �[31mbccc…'
    """
    shown = _visible(" ".join(str(text).split()))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def lines(text: str) -> str:
    """Several lines of printable characters, indentation kept."""
    return "\n".join(_visible(line) for line in text.split("\n"))


def number(value: object, digits: int = 2) -> str:
    """A number with thousands separators and a true minus sign; a dash where there is none.

    Example:
        >>> number(-12345.678), number(None), number(float("nan")), number(3)
        ('−12,345.68', '–', 'NaN', '3')
    """
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    shown = f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
    return shown.replace("-", "−")


def measured(value: object, se: object = None, digits: int = 2) -> str:
    """A value and its standard error.

    Example:
        >>> measured(-93.125, 0.25), measured(2.0)
        ('−93.12 ± 0.25', '2.00')
    """
    known = isinstance(se, int | float) and math.isfinite(se)
    return f"{number(value, digits)} ± {number(se, digits)}" if known else number(value, digits)


def seconds(value: object) -> str:
    """A duration.

    Example:
        >>> seconds(7.25), seconds(75), seconds(7260)
        ('7.2 s', '1 min 15 s', '2 h 1 min')
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        return MISSING
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(value: object) -> str:
    """Seconds since the epoch as a date and time in UTC."""
    if not isinstance(value, int | float):
        return MISSING
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M UTC")


def component(value: Any) -> str:
    """A setting in short: a component as `type(option=value)`.

    Example:
        >>> component({"type": "vamp", "components": 500}), component(0.00123456)
        ('vamp(components=500)', '0.001235')
    """
    if isinstance(value, Mapping) and "type" in value:
        options = ", ".join(f"{k}={component(v)}" for k, v in value.items() if k != "type")
        return f"{value['type']}({options})" if options else str(value["type"])
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def named(manifest: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Some entries of a manifest, those that it has."""
    known = {name: manifest[name] for name in names if manifest.get(name) not in (None, "")}
    return {
        name.replace("_", " "): value if isinstance(value, str) else number(value)
        for name, value in known.items()
    }


def _visible(line: str) -> str:
    """Control characters, direction overrides and the like give way to a mark."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
