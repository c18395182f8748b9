"""The answers of a component to all questions of its contract."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vaepipe import options as checked
from vaepipe import registry
from vaepipe.testing.contracts.base import Contract, Exempted, NotAsked, ask, questions
from vaepipe.testing.contracts.installed import contract_of
from vaepipe.testing.setting import Setting, words
from vaepipe.testing.statistics import figures

Verdict = Literal["kept", "broken", "exempt", "not asked"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a component said to one question.

    Args:
        question: its name, in words.
        meaning: what is promised, in a sentence.
        verdict: `exempt` is a breach that the component declares, with its reason.
        detail: how the promise is broken, or why it is exempt or was not asked.
        figures: what was measured.
    """

    question: str
    meaning: str
    verdict: Verdict
    detail: str = ""
    figures: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        """Is there nothing to mend?"""
        return self.verdict != "broken"


def examine(group: str, name: str, options: Mapping[str, Any]) -> Iterator[Answer]:
    """Ask an installed component everything, in double precision.

    Raises:
        UserError: an option does not fit.
    """
    declared = Setting.of(registry.load(group, name)).options
    part = registry.part(group, name, {**declared, **options})
    if options:
        checked.validate(part)
    contract = contract_of(group, name, **options)
    with _double():
        for question in questions(type(contract)):
            yield answer(contract, question)


def answer(contract: Contract, question: str) -> Answer:
    """Put one question and take down what is said, whatever is raised."""
    lines = inspect.getdoc(getattr(contract, question)) or ""
    asked = words(question), lines.split("\n")[0]
    with figures() as seen:
        try:
            ask(contract, question)
        except Exempted as reason:
            return Answer(*asked, "exempt", str(reason), tuple(seen))
        except NotAsked as reason:
            return Answer(*asked, "not asked", str(reason))
        except Exception as error:  # whatever a plugin raises is its answer
            return Answer(*asked, "broken", _line(error), tuple(seen))
    return Answer(*asked, "kept", "", tuple(seen))


@contextmanager
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _line(error: Exception) -> str:
    """The first line of an error, and its type where it is not a broken promise."""
    text = (str(error).strip().splitlines() or ["no message"])[0]
    return text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"
