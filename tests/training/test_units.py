"""Units never matter: x' = a x + b shifts log p(x) by -D log |a|, and changes nothing else."""

import math

import numpy as np
import pytest
import torch

from vaepipe import files, registry
from vaepipe.core import SUPPORTS, DataSpec, StepContext, build, check, rehearse, seeded
from vaepipe.data import shards
from vaepipe.errors import CompatibilityError
from vaepipe.pipeline.stages import data
from vaepipe.registry import part
from vaepipe.testing.partners import installed, latent_shapes

ROWS, SHAPE = 320, (1, 4, 4)
STEPS = 6
SIZE = math.prod(SHAPE)
RNG = np.random.default_rng(3)
EACH = RNG.integers(-20, 21, (2, *SHAPE))
UNITS = {
    "1e-6 x": (1e-6, 0.0),
    "1e6 x": (1e6, 0.0),
    "1e-6 (x + 100)": (1e-6, 1e-4),
    "1e6 (x - 100)": (1e6, -1e8),
    "2^20 (x + 8192)": (2.0**20, 2.0**33),
    "2^-20 (x - 8192)": (2.0**-20, -(2.0**-7)),
    "each its own": (2.0 ** EACH[0], 2.0 ** EACH[0] * 300 * EACH[1]),
}
"""a and b; with powers of two, float32 holds a x + b without rounding also where b is large."""
SCALES = [("gaussian", scale) for scale in ("learned", "per_dimension", "per_example")] + [
    ("laplace", scale) for scale in ("learned", "per_dimension", "per_example")
]
MLP = part("networks", "mlp", {"hidden": [8], "activation": "tanh"})
SMALL = {
    "mlp": {"hidden": [8]},
    "conv": {"channels": [4], "hidden": [8]},
    "resnet": {"channels": [4]},
    "recurrent": {"hidden": 8},
}
OBJECTIVES = ("elbo", "vimco", "vq")
FEW = {"vamp": {"components": 3}, "mixture": {"components": 3}}


def plain():
    """Correlated numbers of the order of one, in steps of 1/1024."""
    factors = np.random.default_rng(1).normal(size=(ROWS, 3))
    x = factors @ RNG.normal(size=(3, SIZE)) + RNG.normal(size=(ROWS, SIZE))
    return (x * 1024).round().reshape(ROWS, *SHAPE) / 1024


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Specification and training rows of a data artifact, by the name of its units."""
    x = plain()
    return {
        name: stored(tmp_path_factory.mktemp("units"), a * x + b)
        for name, (a, b) in {"x": (1.0, 0.0), **UNITS}.items()
    }


def stored(folder, x, support="real"):
    np.save(folder / "x.npy", x)
    options = {"path": str(folder / "x.npy"), "support": support}
    manifest = data.write(registry.part("datasets", "npy", options), folder)
    files.write_json(folder / "manifest.json", manifest)
    split = shards.open_split(folder, "train")
    return shards.load_spec(folder), torch.from_numpy(split.take(split.units)[1].copy())


def model_parts(**changes):
    named = {
        "encoder": MLP,
        "family": part("families", "diagonal_normal"),
        "prior": part("priors", "standard_normal"),
        "decoder": MLP,
        "likelihood": part("likelihoods", "gaussian"),
    }
    return {**named, **changes}


def fitted(spec, x, latent_shape, objective, parts):
    """A model after a few steps on its first rows."""
    with seeded(0):
        model, objective = build(latent_shape, spec, **parts), objective.build()
        optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=1e-2)
        for step in range(STEPS):
            for phase in objective.phases():
                optimizer.zero_grad()
                context = StepContext(step, 0.0, spec.num_examples)
                phase.estimate(model, x[32 * step : 32 * step + 32], context).surrogate.backward()
                optimizer.step()
    return model.eval()


@torch.no_grad()
def seen(model, x):
    """Latents, and log p(x | z) + log p(z) of one draw, of the last rows."""
    with seeded(1):
        z = model.inference(x[-16:]).sample()
    prior = model.p_z().z.log_prob(z)
    return z, (model.generator(z).log_prob(x[-16:]) + prior).double()


def assert_same(artifacts, objective, latent_shape=(2,), units=UNITS, **changes):
    """The same fit in all units."""
    parts = model_parts(**changes)
    z, nats = seen(fitted(*artifacts["x"], latent_shape, objective, parts), artifacts["x"][1])
    assert z.isfinite().all() and nats.isfinite().all()
    for name in units:
        spec, x = artifacts[name]
        other_z, other = seen(fitted(spec, x, latent_shape, objective, parts), x)
        shift = -np.log(np.broadcast_to(UNITS[name][0], SHAPE)).sum()
        assert torch.allclose(other_z, z, atol=1e-4), f"latents of {name}"
        worst = (other - nats - shift).abs().max()
        assert worst < 1e-3, f"{name}: log p is {worst} nats off"


@pytest.mark.parametrize(("likelihood", "scale"), SCALES)
def test_units_change_nothing_but_the_density(likelihood, scale, artifacts):
    assert_same(
        artifacts,
        part("objectives", "elbo"),
        likelihood=part("likelihoods", likelihood, {"scale": scale}),
    )


@pytest.mark.parametrize("network", sorted(registry.available("networks")))
def test_encoders_see_the_same(network, artifacts):
    encoder = part("networks", network, SMALL.get(network, {}))
    for prior in ("standard_normal", "vamp"):
        assert_same(
            artifacts,
            part("objectives", "elbo"),
            encoder=encoder,
            prior=part("priors", prior, FEW.get(prior, {})),
        )


def composition(family, prior):
    """Objective and latent shape of a family and a prior that go together; None if they do not."""
    spec = DataSpec(SHAPE, SUPPORTS["real"], ROWS)
    for shape in latent_shapes(family, prior):
        for objective in (part("objectives", name) for name in OBJECTIVES):
            try:
                check(family, prior, objective, part("likelihoods", "gaussian"), spec)
                model = build(shape, spec, **model_parts(family=family, prior=prior))
                rehearse(model, objective.build(), spec)
            except CompatibilityError:
                continue
            return objective, shape
    return None


@pytest.mark.parametrize("family", list(installed("families")), ids=lambda one: one.type)
def test_posteriors_and_priors_are_the_same(family, artifacts):
    """With each installed prior that goes with the family."""
    together = 0
    for prior in installed("priors"):
        prior = part("priors", prior.type, {**prior.options, **FEW.get(prior.type, {})})
        found = composition(family, prior)
        if found is not None:
            together += 1
            assert_same(artifacts, *found, units=["each its own"], family=family, prior=prior)
    assert together, "no prior goes with it"
