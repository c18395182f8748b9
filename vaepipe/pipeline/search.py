"""Search algorithms: which settings the trials of a sweep try.

A proposer is asked for a trial by its index and told what became of it; after a restart it is
told what earlier runs found, and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, final

import numpy as np

from vaepipe.pipeline import space
from vaepipe.pipeline.choices import GridSearch, OptunaSearch
from vaepipe.pipeline.expressions import Alternatives, Decision, Expression
from vaepipe.pipeline.metrics import sweepable
from vaepipe.pipeline.settings import SweepStage
from vaepipe.pipeline.space import combinations as combinations
from vaepipe.wording import Loc

if TYPE_CHECKING:
    from vaepipe.core import Stream

Settings = dict[str, Any]
"""By dotted path: what a trial sets."""


class Proposer(Protocol):
    """Proposes the settings of trials."""

    @property
    def size(self) -> int | None:
        """How many trials there are."""
        ...

    def propose(self, index: int) -> Settings | None:
        """The settings of a trial; None where the search is exhausted."""
        ...

    def observe(self, index: int, settings: Mapping[str, Any], value: float | None) -> None:
        """What a trial was worth, in this run or an earlier one; None if it failed."""
        ...


def make_proposer(sweep: SweepStage, stream: Stream) -> Proposer:
    """The search of a sweep.

    Args:
        sweep: its space, its number of trials, and how it searches.
        stream: of what is drawn (`plan.search_stream`).
    """
    if isinstance(sweep.search, GridSearch):
        return GridProposer(sweep.space, sweep.trials)
    if isinstance(sweep.search, OptunaSearch):
        mode = sweepable(sweep.metric).mode
        return OptunaProposer(sweep.space, sweep.trials, stream, mode, sweep.search.startup)
    return RandomProposer(sweep.space, sweep.trials, stream)


@final
class RandomProposer:
    """Independent draws: trial i depends on the stream and on i alone.

    A `grid` is not drawn: over the trials, its values come in turn.
    """

    def __init__(self, tree: Mapping[str, Any], size: int | None, stream: Stream) -> None:
        """Nothing is drawn yet."""
        self.size, self._tree, self._stream = size, tree, stream

    def propose(self, index: int) -> Settings | None:
        """The draw of this index."""
        if self.size is not None and index >= self.size:
            return None
        return space.concrete(self._tree, _Draw(self._stream, index))

    def observe(self, index: int, settings: Mapping[str, Any], value: float | None) -> None:
        """Draws are independent of what came before."""


@final
class GridProposer:
    """Every combination, the last path of the space varying fastest."""

    def __init__(self, tree: Mapping[str, Any], trials: int | None) -> None:
        """The first `trials` combinations, or all."""
        total = space.size(tree) or 0
        self.size = total if trials is None else min(trials, total)
        self._tree = tree

    def propose(self, index: int) -> Settings | None:
        """The combination of this index."""
        return self._all[index] if index < self.size else None

    def observe(self, index: int, settings: Mapping[str, Any], value: float | None) -> None:
        """A grid does not learn."""

    @cached_property
    def _all(self) -> list[Settings]:
        return list(islice(space.grid(self._tree), self.size))


@final
class OptunaProposer:
    """Tree-structured Parzen estimators over a space that is asked as it is walked.

    A proposal depends on the stream, the index and what has been observed.
    """

    def __init__(
        self, tree: Mapping[str, Any], size: int | None, stream: Stream, mode: str, startup: int
    ) -> None:
        """Start a study in memory; its history comes by `observe`."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.size, self._tree, self._stream, self._startup = size, tree, stream, startup
        direction = "maximize" if mode == "max" else "minimize"
        self._study = optuna.create_study(direction=direction)
        self._asked: dict[int, Any] = {}

    def propose(self, index: int) -> Settings | None:
        """Ask the study, with a sampler of this index's own."""
        if self.size is not None and index >= self.size:
            return None
        self._study.sampler = self._sampler(index)
        trial = self._study.ask()
        self._asked[index] = trial
        return space.concrete(self._tree, lambda at, search: _ask(trial, at, search))

    def observe(self, index: int, settings: Mapping[str, Any], value: float | None) -> None:
        """Tell the study; a trial of an earlier run is made anew from its settings."""
        from optuna.trial import TrialState

        worth = value if value is not None and math.isfinite(value) else None
        state = TrialState.FAIL if worth is None else TrialState.COMPLETE
        if index in self._asked:
            self._study.tell(self._asked.pop(index), worth, state)
        elif worth is not None:
            self._remember(settings, worth)

    def _remember(self, settings: Mapping[str, Any], value: float) -> None:
        from optuna.trial import create_trial

        names: dict[str, Decision] = {}
        kinds: dict[str, Any] = {}
        made = space.decisions(self._tree, dict(settings))
        if made is None:  # of another space: the file has been changed since
            return

        def decide(at: Loc, search: Expression) -> Decision:
            names[_name(at)], kinds[_name(at)] = made[at], _distribution(search)
            return made[at]

        space.concrete(self._tree, decide)
        self._study.add_trial(create_trial(params=names, distributions=kinds, value=value))

    def _sampler(self, index: int) -> Any:
        from optuna.samplers import TPESampler

        seed = int(_sequence(self._stream, index).generate_state(1)[0])
        return TPESampler(seed=seed, n_startup_trials=self._startup)


class _Draw:
    """Decides at random, from a generator that belongs to one trial."""

    def __init__(self, stream: Stream, index: int) -> None:
        self._uniform = np.random.default_rng(_sequence(stream, index))
        self._turn = index

    def __call__(self, at: Loc, search: Expression) -> Decision:
        count = search.count()
        if isinstance(search, Alternatives) and search.word == "grid":
            self._turn, chosen = divmod(self._turn, search.count())
            return chosen
        return (
            float(self._uniform.random()) if count is None else int(self._uniform.integers(count))
        )


def _sequence(stream: Stream, index: int) -> np.random.SeedSequence:
    """What the numbers of a trial follow from."""
    return np.random.SeedSequence([stream.word, index])


def _ask(trial: Any, at: Loc, search: Expression) -> Decision:
    count, name = search.count(), _name(at)
    if count is None:
        return trial.suggest_float(name, 0.0, 1.0)
    if isinstance(search, Alternatives):
        return trial.suggest_categorical(name, tuple(range(count)))
    return trial.suggest_int(name, 0, count - 1)


def _distribution(search: Expression) -> Any:
    """What `_ask` asks for, as Optuna keeps it."""
    from optuna import distributions as kinds

    count = search.count()
    if count is None:
        return kinds.FloatDistribution(0.0, 1.0)
    if isinstance(search, Alternatives):
        return kinds.CategoricalDistribution(tuple(range(count)))
    return kinds.IntDistribution(0, count - 1)


def _name(at: Loc) -> str:
    return "/".join(map(str, at))
