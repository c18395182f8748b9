"""Units of work over a pool of actors: handed out as they finish, again when an actor dies."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from vaepipe.compute.local import build_worker
from vaepipe.compute.ray_connect import Share
from vaepipe.errors import TrainingError, VaepipeError

RETRIES = 2
"""How often a unit is tried again after its actor died."""
IN_FLIGHT = 2
"""Units that an actor holds: one at work, and one so that it need not wait for the next."""


def run(
    target: str,
    units: Sequence[Mapping[str, Any]],
    common: Mapping[str, Any],
    share: Share,
    actors: int,
) -> Iterator[dict[str, Any]]:
    """Results of `target(common)(unit)` as they complete.

    Raises:
        TrainingError: the actors of a unit died, time and again.
        VaepipeError: whatever of ours a unit raised.
    """
    pool = _Pool(target, units, common, share, actors)
    try:
        yield from pool.results()
    finally:
        pool.close()


@final
class _Actor:
    """A worker in a process of its own, whose model is loaded once."""

    def __init__(self, target: str, common: Mapping[str, Any], share: Share) -> None:
        torch.set_num_threads(share.cpus)
        if not share.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self.work = build_worker(target, common)

    def run(self, unit: Mapping[str, Any]) -> Any:
        """The result of one unit."""
        return self.work(unit)


@final
class _Pool:
    """Actors, the units that wait, and the units in flight."""

    def __init__(
        self,
        target: str,
        units: Sequence[Mapping[str, Any]],
        common: Mapping[str, Any],
        share: Share,
        actors: int,
    ) -> None:
        self.units, self.waiting = units, deque(range(len(units)))
        self.tries = [0] * len(units)
        self.make = (
            ray.remote(_Actor).options(num_cpus=share.cpus, num_gpus=share.gpus).remote,
            (target, ray.put(dict(common)), share),
        )
        self.held: dict[Any, int] = {self._actor(): 0 for _ in range(actors)}
        self.flying: dict[Any, tuple[int, Any]] = {}

    def results(self) -> Iterator[dict[str, Any]]:
        """Every unit's result, once."""
        self._hand_out()
        while self.flying:
            ready, _ = ray.wait(list(self.flying), num_returns=1)
            unit, actor = self.flying.pop(ready[0])
            try:
                result = ray.get(ready[0])
            except RayActorError as error:
                self._again(unit, actor, error)
            except RayTaskError as error:
                raise _cause(error) from error
            else:
                self.held[actor] -= 1
                self._hand_out()
                yield result

    def close(self) -> None:
        """Give the actors' resources back."""
        for actor in self.held:
            ray.kill(actor)

    def _actor(self) -> Any:
        remote, arguments = self.make
        return remote(*arguments)

    def _hand_out(self) -> None:
        """Give units to those who hold the fewest."""
        while self.waiting:
            actor = min(self.held, key=self.held.__getitem__)
            if self.held[actor] >= IN_FLIGHT:
                return
            unit = self.waiting.popleft()
            self.held[actor] += 1
            self.flying[actor.run.remote(dict(self.units[unit]))] = (unit, actor)

    def _again(self, unit: int, actor: Any, error: Exception) -> None:
        """Put a new actor in the place of a dead one, and the unit back in the queue."""
        self.tries[unit] += 1
        if self.tries[unit] > RETRIES:
            raise TrainingError(
                f"the worker of unit {dict(self.units[unit])} died {self.tries[unit]} times: "
                f"{_last_line(error)}"
            ) from error
        if self.held.pop(actor, None) is not None:
            self.held[self._actor()] = 0
        self.waiting.appendleft(unit)
        self._hand_out()


def _cause(error: RayTaskError) -> Exception:
    """Our own error as it was raised, or a line about another's."""
    cause = error.cause
    if isinstance(cause, VaepipeError):
        return cause
    return TrainingError(f"a worker failed: {type(cause).__name__}: {cause}")


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
