"""Every error that vaepipe raises on purpose.

    VaepipeError                    1   it failed
    ├── UserError (ValueError)      2   the user can fix it
    │   ├── ConfigError                 mistakes in a pipeline file, all of them at once
    │   ├── UnknownComponent            no installed component has this name
    │   ├── CompatibilityError          parts that the mathematics does not let compose
    │   ├── DataError                   data that are missing or not what was declared
    │   └── BundleError                 a model folder that cannot be trusted or rebuilt
    ├── TrainingError               1   a fit that diverged or a worker that died
    ├── EvaluationError             1   numbers of an evaluation that contradict each other
    ├── StorageError (OSError)      1   results that cannot be written
    ├── PartialFailure              3   finished, but trials or shards failed
    ├── PluginError                 4   a plugin that is used is broken
    └── Unreachable                 5   a cluster, a tracking server or a store is out of reach

The number is the exit code of the command line (`vaepipe.cli` maps it).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class VaepipeError(Exception):
    """The root; `exit_code` is what the command line returns."""

    exit_code = 1


class UserError(VaepipeError, ValueError):
    """Something the user can put right: usage, file, data, incompatible parts."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a pipeline file: where, at which dotted path, what."""

    file: str
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        """`file:line: dotted.path: message`."""
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (where, self.path, self.message) if part)


class ConfigError(UserError):
    """Every mistake of a pipeline file, reported in one go."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Keep the problems; the text is one line for each."""
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        """Pickle by the problems (Ray carries errors between processes)."""
        return type(self), (self.problems,)


class UnknownComponent(UserError, LookupError):
    """No installed distribution offers a component of this group and name."""


class CompatibilityError(UserError):
    """These parts do not compose; the message says which, why, and what would."""

    missing: object = None
    """The abilities (`vaepipe.core.Cap`) that are needed and not provided, if that is why."""


class DataError(UserError):
    """A dataset is missing, or its rows are not what was declared."""


class BundleError(UserError):
    """A model bundle cannot be opened, rebuilt or trusted."""


class TrainingError(VaepipeError, RuntimeError):
    """A fit failed: not finite, or a worker died."""


class EvaluationError(VaepipeError):
    """The numbers of an evaluation contradict each other; the message names them."""


class StorageError(VaepipeError, OSError):
    """Results cannot be written: a full disk, a folder that is not ours."""


class PartialFailure(VaepipeError, RuntimeError):
    """The command finished, but some trials or shards failed."""

    exit_code = 3


class PluginError(VaepipeError, ImportError):
    """A plugin that is used cannot be loaded, or breaks the rules of plugins."""

    exit_code = 4


class Unreachable(VaepipeError, ConnectionError):
    """A Ray cluster, an MLflow server or an object store does not answer."""

    exit_code = 5


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing where no known word is near; swapped letters are nearest."""
    names = list(known)
    swapped = [name for name in names if sorted(name) == sorted(str(word))]
    near = swapped or difflib.get_close_matches(str(word), names, n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
