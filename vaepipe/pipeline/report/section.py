"""What a report is made of: artifacts that go in, blocks that come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from vaepipe.pipeline.report.movement import Movement
    from vaepipe.registry import PartSpec
    from vaepipe.training.bundle import Bundle

Kind = Literal["data", "train", "sweep", "evaluate", "encode", "report", "register", "model"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Some examples of a dataset.

    Args:
        x: as stored, `[n, *shape]`.
        ids: `[n]`; they seed the view, so the page shows what evaluation saw.
        labels: `[n]`, where the data have them; None marks a row without one.
        dataset: through which a model sees them; None: the one that it was fitted through.
    """

    x: np.ndarray
    ids: np.ndarray
    labels: Sequence[Any] | None = None
    dataset: PartSpec | None = None


@dataclass(frozen=True, slots=True)
class Worst:
    """The examples of lowest evidence.

    Args:
        split: they are of.
        sample: the examples, the lowest first.
        log_evidence: `[n]`, nats.
        model: that was evaluated.
    """

    split: str
    sample: Sample
    log_evidence: Sequence[float]
    model: Bundle


@dataclass(frozen=True, slots=True)
class Section:
    """One artifact that a report shows.

    Args:
        kind: of the stage; `model` is a bundle without one.
        name: of the stage.
        path: the artifact's folder.
        manifest: the artifact's manifest.
        model: the opened bundle of a train stage or of a sweep's winner; of an evaluation, where
            no other section tells of it.
        data: examples to show the model with.
        worst: of an evaluation, the examples that its model explains least.
        notes: what else the reader is told.
    """

    kind: Kind
    name: str
    path: Path
    manifest: Mapping[str, Any]
    model: Bundle | None = None
    data: Sample | None = None
    worst: Worst | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure; `key` names its files, unique within a section."""

    key: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True, slots=True)
class Motion:
    """A figure that moves; `key` names its files, unique within a section."""

    key: str
    title: str
    caption: str
    movement: Movement


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a head; columns whose cells are all numbers are aligned as such."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Named values."""

    pairs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence, where there is nothing to draw or something to beware of."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """Text whose line breaks count, such as settings."""

    title: str
    text: str


Block = Plot | Motion | Table | Facts | Note | Code
