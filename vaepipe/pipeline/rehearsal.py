"""Before anything is rented: do the parts compose, and does every parameter learn?"""

from __future__ import annotations

from collections.abc import Callable

from vaepipe.compute.base import ModelSpec, TrainTask
from vaepipe.core import Assembly, DataSpec, Purpose, build, check, seeded, stream
from vaepipe.core import rehearse as rehearse_model
from vaepipe.files import digest
from vaepipe.registry import PartSpec
from vaepipe.training.loop import require_examples
from vaepipe.training.start import Agreement, compare

_done: dict[str, Assembly] = {}


def rehearse(task: TrainTask, specs: Callable[[str], DataSpec]) -> Assembly:
    """Rehearse a task on two synthetic examples of its data.

    Raises:
        CompatibilityError: the parts do not compose; the message says which, why, and what would.
    """
    return rehearse_parts(task.model, task.objective, specs(task.data.path), task.batch_size)


def rehearse_parts(
    model: ModelSpec, objective: PartSpec, data: DataSpec, batch_size: int
) -> Assembly:
    """Check declarations, build, and run every phase once; the same parts are tried once.

    Raises:
        CompatibilityError: the parts do not compose, or a batch is too small for the objective.
    """
    require_examples(objective.build(), batch_size)
    key = digest({"m": model.to_dict(), "o": objective.to_dict(), "d": data.to_dict()})
    if key not in _done:
        _done[key] = _rehearse(model, objective, data)
    return _done[key]


def agreement(
    model: ModelSpec, data: DataSpec, source: ModelSpec, source_data: DataSpec
) -> Agreement:
    """Which weights of a trained model another one begins with."""
    with seeded(stream(0, Purpose.PLACEHOLDERS)):
        states = [
            build(spec.latent_shape, of, **spec.parts()).state_dict()
            for spec, of in ((model, data), (source, source_data))
        ]
    return compare(model.parts(), states[0], source.parts(), states[1])


def _rehearse(model: ModelSpec, objective: PartSpec, data: DataSpec) -> Assembly:
    parts = (model.family, model.prior, objective, model.likelihood)
    check(*parts, data, latent_shape=model.latent_shape)
    with seeded(stream(0, Purpose.REHEARSAL, "weights")):
        made = build(model.latent_shape, data, **model.parts())
    return rehearse_model(made, objective.build(), data)
