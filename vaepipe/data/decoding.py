"""How what is encoded in a column becomes numbers: pictures and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vaepipe.data.pictures import WHITE, Pictures
from vaepipe.data.text import Words


@dataclass(frozen=True, slots=True)
class Decoding:
    """How pictures and sentences are read, as the data of a model were.

    Args:
        pictures: bytes of pictures.
        words: of a model that reads sentences; None reads none.
    """

    pictures: Pictures = WHITE
    words: Words | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, of what is not the default."""
        found: dict[str, Any] = {}
        if self.pictures != WHITE:
            found["pictures"] = asdict(self.pictures)
        if self.words is not None:
            found["words"] = self.words.to_dict()
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Decoding:
        """The inverse of `to_dict`."""
        words = Words.from_dict(data["words"]) if "words" in data else None
        return cls(Pictures(**data.get("pictures", {})), words)


PLAIN = Decoding()
"""Pictures before white; no sentences."""
