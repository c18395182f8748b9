"""Units never matter: x' = a x + b shifts log p(x) by -D log |a|, and changes nothing else."""

import itertools
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vaepipe import files, registry
from vaepipe.core import (
    SUPPORTS,
    DataSpec,
    Moments,
    StepContext,
    Stream,
    build,
    examples,
    rehearse,
    seeded,
    units_of,
)
from vaepipe.data import shards
from vaepipe.errors import CompatibilityError
from vaepipe.pipeline.stages import data
from vaepipe.registry import part
from vaepipe.testing.partners import comparable, installed, latent_shapes
from vaepipe.training import bundle, start

ROWS, SHAPE = 320, (1, 4, 4)
STEPS = 4
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
    with seeded(Stream(0)):
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
    with seeded(Stream(1)):
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
    parts, provides = model_parts(family=family, prior=prior), family.load().provides
    able = [part("objectives", name) for name in OBJECTIVES]
    able = [one for one in able if (one.load().needs | prior.load().needs) in provides]
    for objective, shape in itertools.product(able, latent_shapes(family, prior)):
        try:
            model = build(shape, spec, **parts)
            if comparable(model.inference(examples(spec, 2)), model.p_z().z):
                rehearse(model, objective.build(), spec)
                return objective, shape
        except CompatibilityError:
            continue
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


def counts(artifact):
    """Counts of one mean and spread, and their training split's specification."""
    x = np.random.default_rng(2).poisson(50.0, (ROWS, 3)).astype("float64")
    return stored(artifact, x, "integer")


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial", "zinb"])
@pytest.mark.parametrize("prior", ["standard_normal", "vamp"])
def test_counts_are_shown_by_their_standardised_logarithms(likelihood, prior, tmp_path):
    spec, x = counts(tmp_path)
    parts = model_parts(
        prior=part("priors", prior, FEW.get(prior, {})), likelihood=part("likelihoods", likelihood)
    )
    model = fitted(spec, x, (2,), part("objectives", "elbo"), parts)
    shown = model.inference.read(x)
    assert shown.dtype == torch.float32
    assert torch.allclose(shown.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(shown.std(0, correction=0), torch.ones(3), atol=1e-5)
    assert seen(model, x)[1].mean() > -30


def of_before(path, state):
    """Weights as they were stored before models knew moments."""
    new = ("mean", "scale", "spread", "start_dispersion", "zero_logit")
    save_file({k: v for k, v in state.items() if k.split(".")[-1] not in new}, path)


@pytest.mark.parametrize(
    ("likelihood", "support"),
    [
        ("gaussian", "real"),
        ("laplace", "unit_interval"),
        ("poisson", "integer"),
        ("negative_binomial", "integer"),
        ("zinb", "integer"),
    ],
)
@pytest.mark.parametrize("prior", ["standard_normal", "vamp"])
def test_bundles_of_before_open_and_compute_in_the_units_of_x(likelihood, support, prior, tmp_path):
    spec = DataSpec((3,), SUPPORTS[support], 100)
    parts = model_parts(
        prior=part("priors", prior, FEW.get(prior, {})), likelihood=part("likelihoods", likelihood)
    )
    model, x = build((2,), spec, **parts), examples(spec, 20)
    card = {
        "model": {"latent_shape": [2], **{role: p.to_dict() for role, p in parts.items()}},
        "data": spec.to_dict(),
    }
    bundle.save(tmp_path / "m", model, card, x)
    of_before(tmp_path / "m" / bundle.WEIGHTS, model.state_dict())
    found = bundle.load(tmp_path / "m").model
    assert all(torch.equal(a, b) for a, b in zip(seen(found, x), seen(model, x), strict=True))
    shown = found.inference.read
    expected = {"real": x, "integer": x.log1p()}.get(support)
    assert shown is None if expected is None else torch.allclose(shown(x), expected)


@pytest.mark.parametrize("prior", ["standard_normal", "vamp"])
def test_a_bundle_carries_its_units(prior, artifacts, tmp_path):
    """Opened without the data artifact: evaluation and encoding need nothing else."""
    spec, x = artifacts["each its own"]
    parts = model_parts(prior=part("priors", prior, FEW.get(prior, {})))
    model = fitted(spec, x, (2,), part("objectives", "elbo"), parts)
    card = {
        "model": {"latent_shape": [2], **{role: p.to_dict() for role, p in parts.items()}},
        "data": spec.to_dict(),
    }
    bundle.save(tmp_path / "m", model, card, x)
    found = bundle.load(tmp_path / "m").model
    assert all(torch.equal(a, b) for a, b in zip(seen(found, x), seen(model, x), strict=True))
    assert torch.equal(found.inference.read.mean, spec.mean)


def test_an_encoder_that_is_taken_over_keeps_its_units(artifacts):
    """Its weights are of what it was shown; the same part of other data would be another."""
    spec, other = artifacts["x"][0], artifacts["1e6 x"][0]
    parts = model_parts()
    mine, theirs = (build((2,), s, **parts).state_dict() for s in (other, spec))
    assert start.compare(parts, mine, parts, theirs).kept == ("encoder", "decoder", "likelihood")
    taken = [name for name in mine if name.startswith(start.PLACES["encoder"])]
    assert {"inference.read.mean", "inference.read.scale"} < set(taken)


def test_changing_a_models_weights_leaves_the_specification_alone(artifacts):
    spec = artifacts["x"][0]
    mean, scale = spec.mean.clone(), spec.scale.clone()
    model = build((2,), spec, **model_parts())
    model.load_state_dict({k: torch.ones_like(v) for k, v in model.state_dict().items()})
    assert torch.equal(spec.mean, mean) and torch.equal(spec.scale, scale)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
@pytest.mark.parametrize("scale", ["learned", "per_dimension", "per_example", 0.3])
def test_grey_pictures_start_at_their_mean_and_their_common_deviation(likelihood, scale, tmp_path):
    """Not at that of each pixel: one that hardly ever changes is no better known than others."""
    rng = np.random.default_rng(0)
    x = rng.integers(100, 140, (ROWS, *SHAPE)).astype("uint8")
    x[:, 0, 0, 0] = 7
    x[:, 0, 0, 1] = rng.random(ROWS) < 0.01
    spec, stored_x = stored(tmp_path, x, "unit_interval")
    head = part("likelihoods", likelihood, {"scale": scale}).build(spec)
    p = head(torch.zeros(head.feature_shape)).base_dist
    seen_x = stored_x / 255
    common = 0.3 if scale == 0.3 else (seen_x - seen_x.mean(0)).square().mean().sqrt()
    wide = math.sqrt(2) if likelihood == "laplace" else 1.0
    assert torch.allclose(p.mean, seen_x.mean(0), atol=1e-6)
    assert torch.allclose(p.stddev, torch.full(SHAPE, float(common * wide)), rtol=2e-3)
    assert build((2,), spec, **model_parts()).inference.read is None


def test_a_number_is_a_scale_in_the_units_of_the_data(artifacts):
    spec, x = artifacts["2^20 (x + 8192)"]
    head = part("likelihoods", "gaussian", {"scale": 1e5}).build(spec)
    p = head(torch.zeros(SHAPE))
    assert torch.allclose(p.stddev, torch.tensor(1e5))
    expected = torch.distributions.Normal(spec.mean, 1e5).log_prob(x[:5].double()).sum((1, 2, 3))
    assert torch.allclose(p.log_prob(x[:5]).double(), expected, rtol=1e-6)


def test_bits_that_are_as_often_0_as_1_vary_also_where_their_deviation_is_rounded_up():
    scale = torch.full((2, 2), math.nextafter(0.5, 1.0), dtype=torch.double)
    spec = DataSpec((2, 2), SUPPORTS["unit_interval"], 8, torch.full((2, 2), 0.5), scale=scale)
    assert torch.allclose(units_of(spec).scale, torch.tensor(0.5))


def test_equal_pictures_have_a_scale(tmp_path):
    spec, _ = stored(tmp_path, np.full((ROWS, *SHAPE), 9, "uint8"), "unit_interval")
    assert torch.allclose(units_of(spec).scale, torch.tensor(1 / 256))


@pytest.mark.parametrize(
    ("support", "likelihood", "mean", "scale"),
    [
        ("real", "gaussian", 0.0, 1e-30),
        ("real", "laplace", 1e30, 1e30),
        ("real", "gaussian", 1.7e9, 1e3),
        ("integer", "poisson", 1e9, 3e4),
        ("integer", "zinb", 1e9, 3e4),
    ],
)
@pytest.mark.parametrize("prior", ["standard_normal", "vamp"])
def test_a_rehearsal_is_in_the_units_of_the_data(support, likelihood, mean, scale, prior):
    """Other made-up examples have no density in float32, and the parts would be refused."""
    moments = Moments(*(torch.full((3,), v).double() for v in (mean, scale)))
    logs = Moments(moments.mean.abs().log1p(), moments.scale / (1 + moments.mean.abs()))
    spec = DataSpec((3,), SUPPORTS[support], 100, moments.mean, scale=moments.scale, logs=logs)
    parts = model_parts(
        family=part("families", "iaf"),
        prior=part("priors", prior, FEW.get(prior, {})),
        likelihood=part("likelihoods", likelihood),
    )
    objective = part("objectives", "elbo").build()
    rehearse(build((2,), spec, **parts), objective, spec)
