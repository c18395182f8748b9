"""The worker that scores the finalists of a sweep again, with more samples than a validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from torch import Tensor

from vaepipe import files
from vaepipe.compute import outputs
from vaepipe.compute.base import TrainTask
from vaepipe.compute.evaluate import device_of, whole_floats
from vaepipe.compute.views import sample
from vaepipe.core import Objective, Purpose, stream
from vaepipe.evaluation import estimate_evidence
from vaepipe.training import bundle


@final
class Finalist:
    """Estimates log p(x) of some validation rows under the model of one trial.

    The samples of a row are the same for every trial, and do not depend on the worker.

    Args:
        common: `k` samples per row, `seed`, `device`.
    """

    def __init__(self, common: Mapping[str, Any]) -> None:
        self.k, self.seed = int(common["k"]), int(common["seed"])
        self.device = device_of(common["device"])
        self.folder: Path | None = None

    def __call__(self, unit: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `log_evidence` of `rows` rows from `first` on of the trial in `folder`."""
        self._open(Path(unit["folder"]))
        x = self.x[unit["first"] : unit["first"] + unit["rows"]]
        draws = stream(self.seed, Purpose.FINALISTS, unit["first"])
        features = self.objective.features
        with whole_floats():
            values = estimate_evidence(self.model, x, k=self.k, draws=draws, features=features)
        return {**unit, "log_evidence": values.tolist()}

    def _open(self, folder: Path) -> None:
        """Load a trial's model and its validation rows, unless they are there."""
        if folder == self.folder:
            return
        task = TrainTask.from_dict(files.read_json(folder / outputs.TASK))
        self.model = bundle.load(folder / outputs.MODEL, self.device).model
        self.objective: Objective = task.objective.build()
        self.objective.to(self.device).eval()
        rows = task.validation["examples"]
        x: Tensor = sample(task.data.path, task.data.dataset.build(), "val", rows)[1]
        self.x, self.folder = x.to(self.device), folder
