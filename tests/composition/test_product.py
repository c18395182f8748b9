"""Families x priors x objectives x likelihoods: each works, or says why not.

Every combination of installed parts is decided. What classes declare refuses some; a family and a
prior that do not live in one place refuse all combinations with them. What is left is built and
rehearsed. By default that is every (family, prior, objective) with one likelihood and every
(family, prior, likelihood) with one objective, both in rotation, so that every pair of parts meets;
a combination is counted as working if each of its rehearsals is. `VAEPIPE_WHOLE_PRODUCT=1`
rehearses each combination by itself, which takes minutes.

`python tests/composition/test_product.py` writes docs/composition.md.
"""

import itertools
import os
import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from pathlib import Path

import pytest
import torch

from vaepipe import registry
from vaepipe.core import (
    SUPPORTS,
    DataSpec,
    Objective,
    Part,
    StepContext,
    Stream,
    build,
    check,
    examples,
    rehearse,
    seeded,
)
from vaepipe.errors import CompatibilityError
from vaepipe.registry import options_signature
from vaepipe.testing.partners import installed
from vaepipe.testing.setting import LATENT_SHAPES, Setting

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "composition.md"
WHOLE = bool(os.environ.get("VAEPIPE_WHOLE_PRODUCT"))
FEW = {"components": 3}
PLAIN = 3
"""How many of a pair's objectives take turns at meeting every likelihood."""
ADVISED = 40
"""Refused combinations whose advice is followed."""
GROUPS = ("families", "priors", "objectives", "likelihoods")
SMALL = registry.part("networks", "mlp", {"hidden": []})


@dataclass
class Product:
    """What became of every combination.

    `working` holds the names of those that pass; `refused` counts the reasons of the others;
    `broken` holds those that fail in another way, with the error.
    """

    working: list = field(default_factory=list)
    refused: Counter = field(default_factory=Counter)
    broken: list = field(default_factory=list)
    rehearsed: int = 0

    @property
    def size(self):
        return len(self.working) + sum(self.refused.values()) + len(self.broken)


def data_for(likelihood):
    """Data that the likelihood is of: declared, or the first that it accepts."""
    declared = Setting.of(likelihood.load()).data
    if declared:
        return declared
    own = next(n for n, s in SUPPORTS.items() if type(s) is type(likelihood.load().support))
    for levels in (None, 5):
        data = DataSpec((3,), SUPPORTS[own], 50, torch.full((3,), 0.3), levels)
        try:
            likelihood.build(data)
        except CompatibilityError:
            continue
        return data
    raise AssertionError(f"{likelihood.type} is of no data that this test tries")


def shape_for(family, prior):
    """The first latent shape that both accept; where there is none, the first of the family."""
    declared = [s for part in (family, prior) if (s := Setting.of(part.load()).latent_shape)]
    fitting = [s for s in (*declared, *LATENT_SHAPES) if accepts(family, s)]
    data = DataSpec((3,), SUPPORTS["real"], 50)
    return next((s for s in fitting if accepts(prior, s, data)), fitting[0])


def small(part):
    """The component with few of whatever it has many."""
    few = {name: number for name, number in FEW.items() if name in options_signature(part.load())}
    return replace(part, options={**few, **part.options})


def accepts(part, *args):
    try:
        part.build(*args)
    except CompatibilityError:
        return False
    return True


def assemble(family, prior, likelihood):
    return build(
        shape_for(family, prior),
        data_for(likelihood),
        encoder=SMALL,
        family=family,
        prior=prior,
        decoder=SMALL,
        likelihood=likelihood,
    )


UNABLE = "the family lacks a declared ability"
PLACES = {
    "never draws": "p(z) gives mass to values that q(z|x) never draws",
    "outside the support": "draws of q(z|x) lie outside the support of p(z)",
    "point at a code": "q(z|x) is a point at a code, from which `vamp` cannot learn",
    "lives on": "one of q(z|x) and p(z) is a mass and the other a density",
    "is over": "q(z|x) and p(z) are densities over different kinds of variables",
    "is of shape": "q(z|x) and p(z) are of different shapes",
    "code book": "a prior over codes needs a family with a code book",
    "needs the marginals": "the objective needs the marginals of q(z|x), which are not known",
    "trains only the prior": "the objective trains only the prior, which has nothing to train",
    "a part of the family": "the objective trains the prior apart from the family it is a part of",
    "trains:": "parameters that no phase of the objective would train",
    "without a gradient": "no gradient from draws or densities of q(z|x)",
    "gives the bound": "the bound is not finite",
}
"""Words of a refusal, and its reason."""
WHY = {
    UNABLE: "the estimator differentiates draws that are a choice, or the prior reads a code book "
    "or a way down that is not there; others estimate the same bound",
    PLACES["lives on"]: "they have no common measure: the rate is infinite or means nothing",
    PLACES["is over"]: "the same: points of a simplex have no volume among all real vectors",
    PLACES["needs the marginals"]: "integrals without a closed form; `elbo` with `beta` prices the "
    "whole rate",
    PLACES["trains only the prior"]: "it is constant with its default options, or a part of the "
    "family",
    PLACES["outside the support"]: "log p(z) is minus infinity, and so is the bound",
    PLACES["never draws"]: "a decision: the ELBO would hold, but importance weights miss a part of "
    "p(x) and a sleep phase is infinite",
    PLACES["point at a code"]: "the nearest code has no derivative in a pseudo-input",
    PLACES["trains:"]: "the score of a point at a code is zero, so nothing moves the encoder",
    PLACES["without a gradient"]: "the same",
    PLACES["a part of the family"]: "a decision: shared weights count as those of q(z|x); prior "
    "`hierarchical` is the same density with its own",
}
"""Does mathematics forbid it, or did we?"""


def reason(error):
    """A refusal, short enough to be counted: without names."""
    text = str(error)
    assert len(text) > 30
    return next((short for words, short in PLACES.items() if words in text), text.split(":")[0])


class Nothing(Objective):
    """No phase at all: its rehearsal only compares q(z | x) with p(z)."""

    trains = Part(0)

    def phases(self):
        return ()


@cache
def product():
    """Decide every combination of installed parts."""
    found = Product()
    parts = {group: [small(part) for part in installed(group)] for group in GROUPS}
    for family, prior in itertools.product(parts["families"], parts["priors"]):
        with seeded(Stream(0)):
            _decide(found, family, prior, parts["objectives"], parts["likelihoods"])
    return found


def _decide(found, family, prior, objectives, likelihoods):
    """All combinations with one family and one prior."""
    able = [each for each in objectives if _able(found, family, prior, each, len(likelihoods))]
    plain = registry.part("likelihoods", "gaussian")
    try:
        rehearse(assemble(family, prior, plain), Nothing(), data_for(plain))
    except CompatibilityError as error:
        if able:
            found.refused[reason(error)] += len(able) * len(likelihoods)
        return
    table = Table(found, family, prior, able, likelihoods)
    for objective, likelihood in itertools.product(able, likelihoods):
        table.settle(objective, likelihood)


def _able(found, family, prior, objective, weight):
    """Do the declarations fit? They say nothing of the likelihood but that it is of the data."""
    if lacking(family, prior, objective):
        found.refused[UNABLE] += weight
        return False
    return True


def lacking(family, prior, objective):
    """The abilities that prior and objective need, and the family does not provide."""
    return (prior.load().needs | objective.load().needs) & ~family.load().provides


class Table:
    """Objectives x likelihoods of one family and one prior."""

    def __init__(self, found, family, prior, objectives, likelihoods):
        self.found, self.family, self.prior = found, family, prior
        self.objectives, self.likelihoods = objectives, likelihoods
        self.shift = sum(map(ord, family.type + prior.type))  # another rotation for another pair
        self.model = cache(lambda likelihood: assemble(family, prior, named[likelihood]))
        self.verdict = cache(self._rehearse)
        named = {part.type: part for part in likelihoods}
        self.named = {**named, **{part.type: part for part in objectives}}

    def settle(self, objective, likelihood):
        """Count a combination by the first of its rehearsals that does not pass."""
        names = (self.family.type, self.prior.type, objective.type, likelihood.type)
        verdicts = [self.verdict(*pair) for pair in self._pairs(objective, likelihood)]
        kind, why = next((v for v in verdicts if v[0] != "works"), ("works", ""))
        if kind == "works":
            self.found.working.append(names)
        elif kind == "refused":
            self.found.refused[why] += 1
        else:
            self.found.broken.append((names, why))

    def _pairs(self, objective, likelihood):
        """The objective with its likelihood in rotation; the likelihood with its objective."""
        if WHOLE:
            return [(objective.type, likelihood.type)]
        others = [o for o in self.objectives if self.verdict(*self._turn(o))[0] == "works"][:PLAIN]
        column = self.likelihoods.index(likelihood) + self.shift
        met = [(others[column % len(others)].type, likelihood.type)] if others else []
        return [self._turn(objective), *met]

    def _turn(self, objective):
        """An objective and the likelihood whose turn it is."""
        row = self.objectives.index(objective) + self.shift
        return objective.type, self.likelihoods[row % len(self.likelihoods)].type

    def _rehearse(self, objective, likelihood):
        """`works`, `refused` with a reason, or `broken` with an error."""
        self.found.rehearsed += 1
        data, built = data_for(self.named[likelihood]), self.named[objective].build()
        try:
            rehearse(self.model(likelihood), built, data)
        except CompatibilityError as error:
            if error.__cause__ is None:
                return "refused", reason(error)
            return "broken", str(error)  # an accident in a phase, and not a decision
        except Exception as error:
            return "broken", f"{type(error).__name__}: {error}"
        return "works", ""


def page(found):
    """docs/composition.md."""
    families = sorted({names[0] for names in found.working})
    total = len(list(installed("objectives"))) * len(list(installed("likelihoods")))
    counts = [len(list(installed(group))) for group in GROUPS]
    said = (
        "Written by `python tests/composition/test_product.py`, and held by that test. Of "
        f"{counts[0]} families x {counts[1]} priors x {counts[2]} objectives x {counts[3]} "
        f"likelihoods = {prod(counts):,} combinations of what this repository installs, "
        f"{len(found.working):,} work. All others are refused before anything runs, with the "
        "reason. Counted as working are those whose family and prior were rehearsed with the "
        "objective, and with the likelihood; `VAEPIPE_WHOLE_PRODUCT=1` rehearses every "
        "combination by itself, which takes minutes and decides the same."
    )
    lines = [
        "# What composes with what",
        "",
        said,
        "",
        "| Family | Priors that work with it | Objectives | Combinations |",
        "|---|---|---|---|",
    ]
    for family in families:
        own = [names for names in found.working if names[0] == family]
        priors = ", ".join(f"`{p}`" for p in sorted({names[1] for names in own}))
        objectives = len({names[2] for names in own})
        lines.append(f"| `{family}` | {priors} | {objectives} | {len(own):,} |")
    lines += [
        "",
        f"A family and a prior have at most {total} objectives and likelihoods together.",
        "",
    ]
    lines += ["| Reason of a refusal | Combinations | Because |", "|---|---|---|"]
    lines += [_row(why, number) for why, number in found.refused.most_common()]
    return "\n".join(lines) + "\n"


def _row(why, number):
    return f"| {why} | {number:,} | {WHY[why]} |".replace("z|x", r"z\|x")


def ours():
    """Is what is installed what this repository has?"""
    here = {"vaepipe", *(path.name for path in (ROOT / "plugins").glob("vaepipe-*"))}
    owners = {part.distribution for group in GROUPS for part in installed(group)}
    return owners == here & owners and len(owners) > 1


def test_every_combination_works_or_is_refused_with_a_reason():
    found = product()
    print(f"{found.size} combinations, {len(found.working)} work, {found.rehearsed} rehearsals")
    assert not found.broken, found.broken[:10]
    assert found.size == prod(len(list(installed(group))) for group in GROUPS)
    assert all(len(why) > 10 for why in found.refused)


def test_what_a_refusal_recommends_works():
    """`check` refuses what lacks an ability, and names only what works with the rest of it.

    Of combinations in a random order the first few; the rest of it is rehearsed as above.
    """
    working, offers = set(product().working), 0
    asked = [c for c in itertools.product(*map(installed, GROUPS)) if lacking(*c[:3])]
    random.Random(0).shuffle(asked)
    for parts in asked[:ADVISED]:
        with pytest.raises(CompatibilityError) as caught:
            check(*parts, data_for(parts[3]))
        assert caught.value.missing == lacking(*parts[:3])
        names = tuple(part.type for part in parts)
        others = set(recommended(names, str(caught.value)))
        assert others <= working, (names, others - working)
        offers += len(others)
    assert offers > ADVISED


def recommended(names, text):
    """The combinations that a refusal says work instead."""
    for place, group in enumerate(GROUPS):
        said = re.search(rf"{group.capitalize()} that work with the rest: ([^.]*)\.", text)
        for name in said[1].split(", ") if said else ():
            yield (*names[:place], name, *names[place + 1 :])
    said = re.search(r"This family works with prior '(\w+)' and objective '(\w+)'", text)
    if said:
        yield (names[0], said[1], said[2], names[3])


@pytest.mark.parametrize("group", GROUPS)
def test_every_part_works_with_something(group):
    """A part that is refused by everything is of no use, whatever its contract says."""
    used = {names[GROUPS.index(group)] for names in product().working}
    assert used == {part.type for part in installed(group)}


def test_the_page_about_composition_is_true():
    if not ours():
        pytest.skip("other parts are installed than this repository has")
    assert PAGE.read_text() == page(product()), f"run: python {Path(__file__).name}"


LEARN = [
    ("diagonal_normal", "standard_normal"),
    ("full_normal", "vamp"),
    ("diagonal_normal", "mixture"),
    ("bernoulli", "bernoulli"),
]


@pytest.mark.parametrize("pair", LEARN, ids="-".join)
def test_what_composes_also_learns(pair):
    """A step along the surrogate raises the bound, on the same noise, for some likelihoods."""
    family, prior = registry.part("families", pair[0]), registry.part("priors", pair[1])
    for name in ("bernoulli", "gaussian"):
        likelihood = registry.part("likelihoods", name)
        data = data_for(likelihood)
        able = [o for o in installed("objectives") if (*pair, o.type, name) in product().working]
        for objective in (part for part in able if part.type in ("elbo", "iwae", "vimco")):
            _assert_learns(assemble(family, prior, likelihood), objective.build(), data)


def _assert_learns(model, objective, data):
    x, ctx = examples(data, 20), StepContext(10**6, 10.0**6, 50)
    before = _bound(model, objective, x, ctx)
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], 1e-2)
    for step in range(30):
        for phase in objective.phases():
            optimizer.zero_grad()
            with seeded(Stream(step)):
                phase.estimate(model, x, ctx).surrogate.backward()
            optimizer.step()
    assert _bound(model, objective, x, ctx) > before


def _bound(model, objective, x, ctx):
    with seeded(Stream(0)), torch.no_grad():
        draws = [objective.phases()[0].estimate(model, x, ctx).bound.mean() for _ in range(20)]
    return torch.stack(draws).mean()


def main():
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    start = time.process_time()
    found = product()
    seconds = time.process_time() - start
    print(f"{found.size} combinations, {len(found.working)} work, {found.rehearsed} rehearsals")
    print(f"{seconds:.1f} s of CPU")
    for why, number in found.refused.most_common():
        print(number, why)
    for names, error in found.broken[:60]:
        print(names, error[:200])
    if "--check" not in sys.argv:
        PAGE.write_text(page(found))


if __name__ == "__main__":
    main()
