"""Checkpoints: safetensors and JSON, replaced in one piece, resumed exactly.

A checkpoint stands at the end of an epoch. Randomness is seeded anew for every epoch, so weights,
optimiser states and the number of the epoch are all that a fit needs to go on as if it had never
been interrupted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from vaepipe import files

LAST, AVERAGE, BEST, ROWS, OPTIMIZER, STATE = (
    "last.safetensors",
    "average.safetensors",
    "best.safetensors",
    "validation.safetensors",
    "optimizer.safetensors",
    "state.json",
)


@dataclass(frozen=True)
class State:
    """Where a fit stands.

    Args:
        fingerprint: of settings and inputs; a fit of another fingerprint does not resume.
        epoch: finished epochs.
        step: optimiser steps so far.
        history: metrics of each epoch, with its `epoch` and `step`.
        best_epoch: the epoch of the best weights; None while no epoch counts.
        best_value: their validation evidence, in nats.
    """

    fingerprint: str
    epoch: int = 0
    step: int = 0
    history: tuple[Mapping[str, float], ...] = field(default=())
    best_epoch: int | None = None
    best_value: float | None = None

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights become the model: the best, or else the last."""
        return self.epoch if self.best_epoch is None else self.best_epoch

    def metrics(self, epoch: int) -> dict[str, float]:
        """Metrics of an epoch; empty if there are none."""
        return next((dict(row) for row in self.history if row["epoch"] == epoch), {})


def save(
    folder: Path,
    state: State,
    step: nn.Module,
    optimizers: Sequence[Optimizer],
    average: nn.Module | None = None,
    rows: Mapping[str, Tensor] | None = None,
) -> None:
    """Replace the checkpoint: the last weights, their average, the best weights, optimisers, state.

    Of validation rows it keeps what they were worth under the weights that become the model.

    Args:
        folder: of the checkpoint.
        state: where the fit stands; if its best epoch is this one, these are the best weights.
        step: model and objective.
        optimizers: one for each phase.
        average: the same with averaged weights, which then are those that count.
        rows: what each validation row is worth now, as tensors by name; None without validation.
    """
    tensors, numbers = _flatten(optimizers)
    files.recover_folder(folder)
    with files.whole_folder(folder) as draft:
        save_weights(draft / LAST, step)
        if average is not None:
            save_weights(draft / AVERAGE, average)
        if state.best_epoch is not None:
            newest = draft / (LAST if average is None else AVERAGE)
            source = newest if state.best_epoch == state.epoch else folder / BEST
            _link(source, draft / BEST)
        if rows is not None and state.kept_epoch == state.epoch:
            write_tensors(draft / ROWS, dict(rows))
        elif (folder / ROWS).exists():
            _link(folder / ROWS, draft / ROWS)
        write_tensors(draft / OPTIMIZER, tensors)
        files.write_json(draft / STATE, {**asdict(state), "optimizer": numbers})


def load(folder: Path, fingerprint: str) -> State | None:
    """The state of a checkpoint with this fingerprint; None if there is none."""
    files.recover_folder(folder)
    path = folder / STATE
    if not path.exists():
        return None
    data = files.read_json(path)
    if data.pop("fingerprint") != fingerprint:
        return None
    del data["optimizer"]
    return State(fingerprint, **{**data, "history": tuple(data["history"])})


def restore(
    folder: Path,
    step: nn.Module,
    optimizers: Sequence[Optimizer],
    average: nn.Module | None = None,
) -> None:
    """Put the last weights, their average and the optimisers' states back."""
    load_weights(folder / LAST, step)
    if average is not None:
        load_weights(folder / AVERAGE, average)
    numbers = files.read_json(folder / STATE)["optimizer"]
    tensors = load_file(folder / OPTIMIZER)
    for index, optimizer in enumerate(optimizers):
        prefix = f"{index}."
        state: dict[int, dict[str, Any]] = {}
        for key, value in (*tensors.items(), *numbers.items()):
            if key.startswith(prefix):
                _, parameter, name = key.split(".", 2)
                state.setdefault(int(parameter), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def kept_weights(folder: Path, state: State) -> Path:
    """The file with the weights that become the model."""
    if state.best_epoch is not None:
        return folder / BEST
    return folder / (AVERAGE if (folder / AVERAGE).exists() else LAST)


def kept_rows(folder: Path) -> dict[str, Tensor] | None:
    """What each validation row was worth under these weights; None if nothing was validated."""
    return load_file(folder / ROWS) if (folder / ROWS).exists() else None


def save_weights(path: Path, module: nn.Module) -> None:
    """Write a module's state as safetensors."""
    write_tensors(path, {name: _plain(value) for name, value in module.state_dict().items()})


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors that everybody may read."""
    save_file(tensors, path)
    path.chmod(0o644)


def load_weights(path: Path, module: nn.Module) -> None:
    """Put a module's state back, every name of it."""
    module.load_state_dict(load_file(path))


def _flatten(optimizers: Sequence[Optimizer]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Optimiser states as tensors and numbers, named `optimizer.parameter.name`."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    for index, optimizer in enumerate(optimizers):
        for parameter, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                key = f"{index}.{parameter}.{name}"
                if isinstance(value, Tensor):
                    tensors[key] = _plain(value)
                elif value is not None:
                    numbers[key] = value
    return tensors, numbers


def _plain(value: Tensor) -> Tensor:
    """A copy of its own on the host, as safetensors asks."""
    return torch.empty_like(value, device="cpu", memory_format=torch.contiguous_format).copy_(value)


def _link(source: Path, target: Path) -> None:
    """The same bytes under another name; a copy where the filesystem has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
