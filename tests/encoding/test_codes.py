"""Discrete latents: their codes are places in what the decoder reads, and nothing is left out."""

import math

import numpy as np
import pytest
import torch
from untrained import images, rows_of, save_model, vaepipe, write

from vaepipe.data import schema
from vaepipe.training import bundle

X = images(60)
BITS = torch.from_numpy(X >= 128).float()
BOOK = {"latent": (3, 2), "family": ("vq", {"codes": 8})}
AUTOREGRESSIVE = ("autoregressive_codes", {"codes": 8, "hidden": 8})
MODELS = {
    "book": BOOK | {"prior": "uniform_codes"},
    "book, learned prior": BOOK | {"prior": AUTOREGRESSIVE},
    "bits": {"latent": (4,), "family": "bernoulli", "prior": "bernoulli"},
    "one-hot": {"latent": (3, 5), "family": "categorical", "prior": "categorical"},
}
EVERY = "elbo,log_lik,rate,sample:2,sir:3"


@pytest.fixture(params=MODELS)
def kind(request):
    return request.param


@pytest.fixture
def encoded(kind, tmp_path, capfd):
    """The model, and the rows that the command wrote with it."""
    options = MODELS[kind]
    path = save_model(tmp_path / "m", **options)
    source = write(tmp_path / "x.parquet", X)
    words = ["--model", path, "--input", source, "--output", tmp_path / "out", "--with", EVERY]
    code, _, err = vaepipe(capfd, "encode", *words)
    assert code == 0, err
    return bundle.load(path).model, rows_of(tmp_path / "out")


def vectors(rows, name, shape):
    return torch.from_numpy(schema.from_vectors(rows[name], shape).copy())


def latents(kind, model, codes):
    """What the decoder reads, looked up by codes `[n, positions]`."""
    if kind == "bits":
        return codes
    if kind == "one-hot":
        return torch.eye(5)[codes.long()]
    return model.inference.head.book[codes.long()]


def codes_in(kind, rows):
    return vectors(rows, "codes", (4,) if kind == "bits" else (3,))


def test_codes_are_whole_numbers_of_the_most_probable_values(kind, encoded):
    model, rows = encoded
    codes = codes_in(kind, rows)
    assert torch.equal(codes, codes.long().float())
    features = model.inference.features(BITS).detach()
    if kind == "bits":
        expected = (features.reshape(60, 4) > 0).long()
    elif kind == "one-hot":
        expected = features.reshape(60, 3, 5).argmax(-1)
    else:
        book = model.inference.head.book.double()
        apart = features.reshape(60, 3, 1, 2).double() - book
        expected = apart.square().sum(-1).argmin(-1)
    assert torch.equal(codes.long(), expected)
    assert len(codes.unique()) > 1


def test_codes_decode_to_the_reconstruction(kind, encoded):
    model, rows = encoded
    z = latents(kind, model, codes_in(kind, rows))
    with torch.no_grad():
        gap = model.generator(z).mean - model.reconstruct(BITS).mean
        decided = (model.inference.features(BITS) != 0).flatten(1).all(1)  # no fair bit
    assert decided.sum() > 50
    assert gap[decided].abs().max() < 1e-6


def test_draws_are_values_of_the_latent_and_the_bound_is_theirs(kind, encoded):
    model, rows = encoded
    shape = MODELS[kind]["latent"]
    draws = {name: vectors(rows, name, shape) for name in ("sample_0", "sample_1", "sir")}
    for name, z in draws.items():
        if kind == "bits":
            assert ((z == 0) | (z == 1)).all(), name
        elif kind == "one-hot":
            assert ((z == 0) | (z == 1)).all() and (z.sum(-1) == 1).all(), name
        else:  # the posterior is a point
            assert torch.equal(z, latents(kind, model, codes_in(kind, rows))), name
    elbo, log_lik, rate = (rows[name].to_numpy() for name in ("elbo", "log_lik", "rate"))
    assert np.abs(elbo - (log_lik - rate)).max() < 1e-5
    if kind.startswith("book"):
        with torch.no_grad():
            expected = model.generator(draws["sample_0"]).log_prob(BITS).numpy()
        assert np.abs(log_lik - expected).max() < 1e-5
    else:
        assert not torch.equal(draws["sample_0"], draws["sample_1"])


def test_rates_are_what_the_divergences_say(kind, encoded):
    """n log K of a uniform prior, -log p(codes) of a learned one, else sums over all values."""
    model, rows = encoded
    h = model.inference.features(BITS).detach().double()
    rate = rows["rate"].to_numpy()
    if kind == "book":
        expected = np.full(60, 3 * math.log(8))
    elif kind == "bits":
        q = h.reshape(60, 4).sigmoid()
        q, p = torch.stack([1 - q, q]), torch.tensor(0.5).double()
        expected = (q * (q.log() - p.log())).sum((0, 2)).numpy()
    elif kind == "one-hot":
        q = h.reshape(60, 3, 5).softmax(-1)
        expected = (q * (q.log() + math.log(5))).sum((1, 2)).numpy()
    else:
        with torch.no_grad():
            z = latents(kind, model, codes_in(kind, rows))
            expected = -model.p_z().z.log_prob(z).numpy()
    assert np.abs(rate - expected).max() < 1e-5


def test_posteriors_without_gradients_cannot_be_refined(kind, tmp_path, capfd):
    path = save_model(tmp_path / "m", **MODELS[kind])
    source, out = write(tmp_path / "x.parquet", X), tmp_path / "out"
    words = ["--model", path, "--input", source, "--output", out, "--refine", 2]
    code, _, err = vaepipe(capfd, "encode", *words)
    assert code == 2 and "Leave `refine` out" in err and "Traceback" not in err
    assert not out.exists()
