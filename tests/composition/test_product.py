"""Families x priors x objectives x likelihoods: each works, or says why not."""

import itertools

import pytest
import torch

from vaepipe import registry
from vaepipe.core import SUPPORTS, DataSpec, StepContext, build, check, examples, rehearse, seeded
from vaepipe.errors import CompatibilityError

GROUPS = ("families", "priors", "objectives", "likelihoods")
PRODUCT = list(itertools.product(*(registry.available(group) for group in GROUPS)))
WIDTH = {"hidden": [8]}


def data_for(likelihood):
    """Data that the likelihood is of, with a mean."""
    name = next(n for n, s in SUPPORTS.items() if type(s) is type(likelihood.support))
    return DataSpec((6,), SUPPORTS[name], 50, torch.full((6,), 0.3))


def assemble(names):
    """Check, build and rehearse; returns model, objective and data."""
    parts = {g: registry.part(g, name) for g, name in zip(GROUPS, names, strict=True)}
    data = data_for(parts["likelihoods"].load())
    check(*(parts[group].load() for group in GROUPS), data)
    model = build(
        (3,),
        data,
        encoder=registry.part("networks", "mlp", WIDTH),
        family=parts["families"],
        prior=parts["priors"],
        decoder=registry.part("networks", "mlp", WIDTH),
        likelihood=parts["likelihoods"],
    )
    objective = parts["objectives"].build()
    return model, objective, data, rehearse(model, objective, data)


@pytest.mark.parametrize("names", PRODUCT, ids="-".join)
def test_a_combination_learns_or_explains_itself(names):
    """What passes assembly also takes a step that raises its own bound on the same noise."""
    try:
        model, objective, data, assembly = assemble(names)
    except CompatibilityError as error:
        assert len(str(error)) > 30
        return
    assert assembly.parameters["encoder"] > 0
    x, ctx = examples(data, 20), StepContext(10**6, 10.0**6, 50)
    before = bound(model, objective, x, ctx)
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], 1e-2)
    for step in range(30):
        for phase in objective.phases():
            optimizer.zero_grad()
            with seeded(step):
                phase.estimate(model, x, ctx).surrogate.backward()
            optimizer.step()
    assert bound(model, objective, x, ctx) > before


def bound(model, objective, x, ctx):
    with seeded(0), torch.no_grad():
        draws = [objective.phases()[0].estimate(model, x, ctx).bound.mean() for _ in range(20)]
    return torch.stack(draws).mean()


def test_the_built_in_components_all_compose():
    """Nothing of the package's own is a hole in the product."""
    for names in PRODUCT:
        owners = {registry.part(*pair).distribution for pair in zip(GROUPS, names, strict=True)}
        if owners == {"vaepipe"}:
            assemble(names)
