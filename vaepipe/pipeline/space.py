"""Walks through a search space: plain data in which values may be search expressions.

There is one walk, `concrete`; enumerating, covering, drawing and asking Optuna differ only in how
they decide at each expression. A value that is chosen may hold further searches, so that a space
can be conditional on a component's type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vaepipe.pipeline.expressions import Alternatives, Decision, Expression, expression, parts
from vaepipe.wording import Loc

Decisions = dict[Loc, Decision]
Decide = Callable[[Loc, Expression], Decision]


def concrete(node: Any, decide: Decide, at: Loc = ()) -> Any:
    """The space with every search replaced by what `decide(location, expression)` chooses."""
    search = expression(node)
    if search is not None:
        chosen = decide(at, search)
        inner = (*at, *node, int(chosen)) if isinstance(search, Alternatives) else at
        return concrete(search.value(chosen), decide, inner)
    if isinstance(node, Mapping):
        return {key: concrete(value, decide, (*at, key)) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [concrete(value, decide, (*at, index)) for index, value in enumerate(node)]
    return node


def decisions(node: Any, value: Any, at: Loc = ()) -> Decisions | None:
    """The decisions by which a space becomes this value: the inverse of `concrete`, or None."""
    search = expression(node)
    if isinstance(search, Alternatives):
        return _alternative(search, value, at, next(iter(node)))
    if search is not None:
        chosen = search.decision(value)
        return None if chosen is None else {at: chosen}
    inside, outside = dict(parts(node)), dict(parts(value))
    if not inside and not outside:
        return {} if node == value else None
    if inside.keys() != outside.keys():
        return None
    found = [decisions(each, outside[key], (*at, key)) for key, each in inside.items()]
    return None if None in found else {k: v for each in found for k, v in (each or {}).items()}


def _alternative(search: Alternatives, value: Any, at: Loc, word: str) -> Decisions | None:
    for index, each in enumerate(search.values):
        found = decisions(each, value, (*at, word, index))
        if found is not None:
            return {at: index, **found}
    return None


def size(node: Any) -> int | None:
    """How many concrete values a space has; None for infinitely many.

    Example:
        >>> size({"prior": {"choice": ["a", {"type": "b", "k": {"choice": [1, 2]}}]}})
        3
    """
    search = expression(node)
    if isinstance(search, Alternatives):
        sizes = [size(each) for each in search.values]
        return None if None in sizes else sum(each or 0 for each in sizes)
    if search is not None:
        return search.count()
    sizes = [size(each) for _, each in parts(node)]
    return None if None in sizes else math.prod(each or 0 for each in sizes)


def searches(node: Any) -> bool:
    """Whether anything in here is searched."""
    return expression(node) is not None or any(searches(each) for _, each in parts(node))


def product(node: Any, options: Callable[[Loc, Expression], Sequence[Decision]]) -> Iterator[Any]:
    """Every combination of the decisions that `options` allows; the last search varies fastest."""
    chosen: list[int] = []
    while True:
        counts: list[int] = []

        def decide(at: Loc, search: Expression, counts: list[int] = counts) -> Decision:
            allowed = options(at, search)
            if len(counts) == len(chosen):
                chosen.append(0)
            counts.append(len(allowed))
            return allowed[chosen[len(counts) - 1]]

        yield concrete(node, decide)
        while chosen and chosen[-1] + 1 == counts[len(chosen) - 1]:
            chosen.pop()
        if not chosen:
            return
        chosen[-1] += 1


def grid(node: Any) -> Iterator[Any]:
    """Every concrete value of a finite space."""
    return product(node, lambda _, search: range(search.count() or 0))


def combinations(node: Any) -> Iterator[Any]:
    """Every combination of component types, all else at its first value: what has to compose."""
    return product(node, _types)


def cover(node: Any) -> Iterator[tuple[Any, Decisions]]:
    """Concrete values in which every value that could be wrong stands at least once.

    One search departs from its first value at a time, so their number grows with the length of
    the file and not with the number of combinations.
    """
    waiting: list[Decisions] = [{}]
    seen: set[tuple[Loc, Decision]] = set()
    while waiting:
        script = waiting.pop(0)
        made: Decisions = {}

        def decide(
            at: Loc, search: Expression, script: Decisions = script, made: Decisions = made
        ) -> Decision:
            first, *others = search.ends()
            fresh = [end for end in others if (at, end) not in seen]
            seen.update((at, end) for end in fresh)
            waiting.extend({**made, at: end} for end in fresh)
            made[at] = script.get(at, first)
            return made[at]

        yield concrete(node, decide), made


def origin(node: Any, made: Decisions, path: Loc) -> Loc:
    """Where in the space that was written stands what is at `path` of a concrete value."""
    at: Loc = ()
    while True:
        search = expression(node)
        if isinstance(search, Alternatives):
            index = int(made[at])
            at, node = (*at, *node, index), search.values[index]
        elif search is not None:
            return at
        elif path and path[0] in dict(parts(node)):
            at, node, path = (*at, path[0]), node[path[0]], path[1:]
        else:
            return (*at, *path)


def _types(at: Loc, search: Expression) -> Sequence[Decision]:
    """The first alternative of each component type; the first alternative where none has one."""
    if not isinstance(search, Alternatives):
        return search.ends()[:1]
    named = str(at[-1]).rpartition(".")[2] == "type" if at else False
    firsts: dict[Any, int] = {}
    for index, value in enumerate(search.values):
        firsts.setdefault(_kind(value, index, named=named), index)
    return tuple(firsts.values())


def _kind(value: Any, index: int, *, named: bool) -> Any:
    if named and isinstance(value, str):
        return value
    if isinstance(value, Mapping) and "type" in value:
        return str(value["type"])
    return index if expression(value) is not None else None
