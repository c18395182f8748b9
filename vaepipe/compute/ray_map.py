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
"""How often a unit is tried again after its actor died, and a worker is started again."""
IN_FLIGHT = 2
"""Units that an actor holds: one at work, and one so that it need not wait for the next; a unit
that was lost with its actor is held alone, so that its next death can be nobody else's."""
PATIENCE = 900.0
"""Seconds to wait for a worker when there is none left: a cluster may be adding a node."""


def run(
    target: str,
    units: Sequence[Mapping[str, Any]],
    common: Mapping[str, Any],
    share: Share,
    actors: int,
) -> Iterator[dict[str, Any]]:
    """Results of `target(common)(unit)` as they complete.

    Raises:
        TrainingError: the actors of a unit died, time and again, or none could be started.
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
        self.target, self.common, self.share = target, common, share

    def start(self) -> None:
        """Load the model: here, because an error of a constructor would arrive as a death."""
        torch.set_num_threads(self.share.cpus)
        if not self.share.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self.work = build_worker(self.target, self.common)

    def run(self, unit: Mapping[str, Any]) -> Any:
        """The result of one unit."""
        return self.work(unit)


@final
class _Pool:
    """Actors that start, actors with the units they hold, and the units that wait.

    Only actors that have answered are given units: one that finds no place, because its node is
    gone, holds nothing up.
    """

    def __init__(
        self,
        target: str,
        units: Sequence[Mapping[str, Any]],
        common: Mapping[str, Any],
        share: Share,
        actors: int,
    ) -> None:
        self.units, self.waiting = units, deque(range(len(units)))
        self.tries, self.failed_starts, self.share = [0] * len(units), 0, share
        self.suspects: set[int] = set()
        self.make = (
            ray.remote(_Actor).options(num_cpus=share.cpus, num_gpus=share.gpus).remote,
            (target, ray.put(dict(common)), share),
        )
        self.starting: dict[Any, Any] = {}
        self.held: dict[Any, deque[tuple[int, Any]]] = {}
        self.flying: dict[Any, Any] = {}
        for _ in range(actors):
            self._start()

    def results(self) -> Iterator[dict[str, Any]]:
        """Every unit's result, once."""
        while self.flying or self.waiting:
            ref = self._next()
            if ref in self.starting:
                self._started(ref)
            else:
                yield from self._landed(self.flying[ref])
            self._hand_out()

    def close(self) -> None:
        """Give the actors' resources back."""
        for actor in (*self.held, *self.starting.values()):
            ray.kill(actor)

    def _next(self) -> Any:
        """What is ready next: an actor, or the result of a unit."""
        limit = None if self.flying else PATIENCE
        ready, _ = ray.wait([*self.flying, *self.starting], num_returns=1, timeout=limit)
        if not ready:
            raise TrainingError(
                f"no worker could be started in {PATIENCE:.0f} seconds; each needs "
                f"{self.share.times(1)}. Has the cluster lost its nodes? What is done stays done: "
                "run again."
            )
        return ready[0]

    def _start(self) -> None:
        remote, arguments = self.make
        actor = remote(*arguments)
        self.starting[actor.start.remote()] = actor

    def _started(self, ref: Any) -> None:
        """An actor has loaded its model, or died of it."""
        actor = self.starting.pop(ref)
        try:
            ray.get(ref)
        except RayActorError as error:
            self.failed_starts += 1
            if self.failed_starts > RETRIES:
                raise TrainingError(f"workers die while they start: {_last_line(error)}") from error
            self._start()
        except RayTaskError as error:
            raise _cause(error) from error
        else:
            self.held[actor] = deque()

    def _landed(self, actor: Any) -> Iterator[dict[str, Any]]:
        """The result of the unit that an actor was given first, or none because it died."""
        try:
            result: Any = ray.get(self.held[actor][0][1])
        except RayActorError as error:
            self._replace(actor, error)
        except RayTaskError as error:
            raise _cause(error) from error
        else:
            _, ref = self.held[actor].popleft()
            del self.flying[ref]
            yield result

    def _hand_out(self) -> None:
        """Give units to those who hold the fewest."""
        while self.waiting and self.held:
            actor = min(self.held, key=lambda each: len(self.held[each]))
            if not self._has_room(actor, self.waiting[0]):
                return
            unit = self.waiting.popleft()
            ref = actor.run.remote(dict(self.units[unit]))
            self.held[actor].append((unit, ref))
            self.flying[ref] = actor

    def _has_room(self, actor: Any, unit: int) -> bool:
        """Whether an actor can take a unit: one that was lost before is taken alone."""
        holds = [each for each, _ in self.held[actor]]
        alone = not self.suspects.isdisjoint([*holds, unit])
        return len(holds) < (1 if alone else IN_FLIGHT)

    def _replace(self, actor: Any, error: Exception) -> None:
        """A new actor for a dead one, whose units go back; the first of them counts a try.

        It need not be the one that was at work: an actor can die with a result not yet sent.
        """
        lost = [unit for unit, _ in self.held.pop(actor)]
        self.suspects.update(lost)
        self.flying = {ref: each for ref, each in self.flying.items() if each is not actor}
        ray.kill(actor)  # one out of reach may be alive
        self.tries[lost[0]] += 1
        if self.tries[lost[0]] > RETRIES:
            raise TrainingError(
                f"the worker of unit {dict(self.units[lost[0]])} died {self.tries[lost[0]]} times: "
                f"{_last_line(error)}"
            ) from error
        self.waiting.extendleft(reversed(lost))
        self._start()


def _cause(error: RayTaskError) -> Exception:
    """Our own error as it was raised, or a line about another's."""
    cause = error.cause
    if isinstance(cause, VaepipeError):
        return cause
    return TrainingError(f"a worker failed: {type(cause).__name__}: {cause}")


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
