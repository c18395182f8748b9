"""Within an evaluation or an encoding, no number is drawn twice for different purposes."""

import importlib
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vaepipe.compute.latents import Latents
from vaepipe.compute.local import LocalCompute
from vaepipe.core import SUPPORTS, DataSpec, Purpose, Stream, build, noise, seeded, stream
from vaepipe.data import schema
from vaepipe.evaluation import score
from vaepipe.pipeline import inputs
from vaepipe.pipeline.stages import evaluate
from vaepipe.registry import part
from vaepipe.testing import assert_mean
from vaepipe.testing.exact import PPCA
from vaepipe.tracking.pyfunc import Predictor
from vaepipe.training import bundle

SEED = 3
REFINE = importlib.import_module("vaepipe.core.refine")
"""The module: the package has a function of its name."""
EVERYTHING = {
    "gaps": {"examples": 6, "steps": 5},
    "ais": {"examples": 4, "temperatures": 5, "chains": 4, "leapfrog": 2},
    "bdmc": {"examples": 6},
}
AGAIN = {
    Purpose.PROPOSAL_MOMENTS: "of one posterior, for the pilot and for the proposal itself",
    Purpose.MOMENTS: "means of rows are the same wherever they are needed",
    Purpose.SAMPLES: "the first draws that are kept are those behind log_lik",
    Purpose.GAPS: "common numbers compare an encoder's posterior with the best one",
    Purpose.SIMULATION: "examples are simulated again to be scored",
    Purpose.PROPOSAL_REFINEMENT: "all batches see the same noise, and so do start and result",
    Purpose.GAPS_REFINEMENT: "all batches see the same noise, and so do start and result",
    Purpose.REFINEMENT: "all batches see the same noise, and so do start and result",
    Purpose.PLACEHOLDERS: "a bundle is opened more than once",
    Purpose.GOLDEN_OUTPUTS: "a bundle is opened more than once",
    Purpose.PROBE: "draws that are thrown away",
}
"""Purposes whose numbers may be drawn twice, as they are meant to be the same."""


@pytest.fixture(params=["diagonal_normal", "iaf"])
def model(request, tmp_path):
    """Folder of an untrained model of vectors of four numbers, with and without moments of q."""
    torch.set_default_dtype(torch.float32)
    mlp, data = part("networks", "mlp", {"hidden": [8]}), DataSpec((4,), SUPPORTS["real"], 100)
    parts = {
        "encoder": mlp,
        "family": part("families", request.param),
        "prior": part("priors", "standard_normal"),
        "decoder": mlp,
        "likelihood": part("likelihoods", "gaussian", {"scale": 0.7}),
    }
    source = {"path": "nowhere.parquet", "support": "real", "shape": [4]}
    card = {
        "name": "untrained",
        "fingerprint": "f" * 64,
        "seed": 0,
        "epoch": 0,
        "data_digest": "d" * 64,
        "model": {"latent_shape": [3], **{k: v.to_dict() for k, v in parts.items()}},
        "data": data.to_dict(),
        "dataset": part("datasets", "parquet", source).to_dict(),
        "objective": part("objectives", "elbo").to_dict(),
    }
    bundle.save(tmp_path / "m", build((3,), data, **parts), card, torch.zeros(4, 4))
    return tmp_path / "m"


@pytest.fixture
def started(monkeypatch):
    """Counts how often each state `(who, word, id)` starts a stream; `named` gives its purpose."""
    counts, parents, seeded = Counter(), {}, [None]
    at, word_of, fresh = Stream.at, noise.word_of, REFINE.fresh_stream

    def recorded_at(self, *keys):
        child = at(self, *keys)
        if keys:
            parents[child.word] = self.word
        return child

    def recorded_fresh():
        child = fresh()
        parents[child.word] = seeded[0]
        return child

    def recorded_word(own):
        frame = sys._getframe(1)
        if frame.f_code.co_name == "seeded":
            seeded[0] = own.word
        ids = frame.f_locals.get("ids", [None])
        counts.update((frame.f_code.co_name, own.word, int(i) if i is not None else i) for i in ids)
        return word_of(own)

    monkeypatch.setattr(Stream, "at", recorded_at)
    monkeypatch.setattr(noise, "word_of", recorded_word)
    monkeypatch.setattr(REFINE, "fresh_stream", recorded_fresh)
    counts.named = lambda word: named(word, parents)
    return counts


def named(word, parents):
    """The purpose of a stream, through the streams that it is a part of."""
    simulated = stream(SEED, Purpose.SIMULATED_EVIDENCE).word
    roots = {stream(s, p).word: p for s in (SEED, 0, simulated) for p in Purpose}
    while word not in roots:
        word = parents[word]
    return roots[word]


def purposes(started):
    """Those in use; it fails where a state starts a stream twice that is not meant to."""
    for (who, word, row), count in started.items():
        purpose = started.named(word)
        assert count == 1 or purpose in AGAIN, f"{purpose}, {who}, row {row}: {count} times"
    return {started.named(word) for _, word, _ in started}


def evaluated(model, folder, measures):
    """An evaluation of twelve rows of three kinds."""
    x = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    table = {"id": np.arange(12), "x": schema.to_vectors(x), "label": np.arange(12) % 3}
    pq.write_table(pa.table(table), folder / "x.parquet")
    job = evaluate.Evaluation(
        model=model,
        model_name="untrained",
        data=inputs.of_path(str(folder / "x.parquet"), bundle.load(model), None, "x", "id"),
        seed=SEED,
        output=folder / "out",
        measures=evaluate.measures(measures),
        batch_size=64,
    )
    job.output.mkdir()
    return evaluate.evaluate(job, LocalCompute())


@pytest.mark.parametrize("proposal", ["posterior", "defensive", "refined"])
def test_an_evaluation_starts_no_stream_twice(started, model, tmp_path, proposal):
    evidence = {"k": [1, 5, 40], "proposal": proposal, "refine_steps": 3}
    before = torch.get_rng_state()
    evaluated(model, tmp_path, EVERYTHING | {"evidence": evidence})
    assert torch.equal(torch.get_rng_state(), before)
    used = purposes(started)
    expected = {Purpose.EVIDENCE, Purpose.ANNEALING, Purpose.SIMULATED_ANNEALING, Purpose.GAPS}
    expected |= {Purpose.GAPS_REFINEMENT, Purpose.SIMULATION, Purpose.SURGERY}
    if proposal != "posterior":
        expected |= {Purpose.ELBO}
    if proposal == "refined":
        expected |= {Purpose.PROPOSAL_REFINEMENT, Purpose.PROPOSAL_PILOT}
    assert expected <= used, expected - used


def latents(model, x, **options):
    """Columns of an encoding."""
    plain = {"samples": 0, "extras": (), "sir": 0, "refine": 0, "seed": 0, "precision": "float32"}
    with torch.no_grad():
        return Latents(model, plain | options).columns(x, np.arange(len(x)))


def test_an_encoding_starts_no_stream_twice(started, model):
    opened, x = bundle.load(model).model, torch.randn(6, 4)
    started.clear()
    before = torch.get_rng_state()
    latents(opened, x, samples=2, extras=["elbo"], sir=5, refine=3, seed=SEED)
    assert torch.equal(torch.get_rng_state(), before)
    wanted = {Purpose.SAMPLES, Purpose.SIR_CANDIDATES, Purpose.SIR_CHOICE, Purpose.REFINEMENT}
    assert wanted <= purposes(started)


def test_moments_are_the_same_in_every_command(model):
    """Whatever else is asked for: of 256 draws, as documented."""
    opened, x, ids = bundle.load(model).model, torch.randn(6, 4), np.arange(6)
    plain = latents(opened, x, seed=SEED)
    for more in ({"samples": 40}, {"extras": ["elbo"]}, {"sir": 5}):
        found = latents(opened, x, seed=SEED, **more)
        assert all(found[name].equals(plain[name]) for name in ("mean", "scale", "rate"))
    both = [latents(opened, x, seed=SEED, extras=["elbo"], samples=n) for n in (0, 40)]
    assert both[0]["elbo"].equals(both[1]["elbo"])
    encoded = np.array(plain["mean"].to_pylist())
    for k in (5, 700):
        scored = score(opened, x, ids, k=k, seed=SEED)
        np.testing.assert_allclose(scored.mean, encoded, atol=1e-6)
        np.testing.assert_allclose(scored.scale, plain["scale"].to_pylist(), atol=1e-6)
    served = Predictor(model)
    for k in (1, 40):
        x_served = served.predict(x.numpy(), {"output": "mean", "seed": SEED, "k": k})
        np.testing.assert_allclose(x_served, encoded, atol=1e-6)
    with torch.no_grad(), seeded(stream(SEED, Purpose.SAMPLES)):
        z = opened.inference(x).sample((20_000,))
    gap = (torch.tensor(encoded) - z.mean(0)) / z.std(0)
    assert gap.abs().max() < 5 / 16


@pytest.mark.parametrize("k", [2, 5, 10])
def test_a_resampled_draw_has_the_mean_of_the_posterior(k):
    """Where q is the posterior, all weights are one, and a draw is one of p(z | x)."""
    ppca = PPCA.random(5, 2, seed=0)
    x = ppca.draw(4000)
    z = torch.tensor(latents(ppca.model(), x, sir=k)["sir"].to_pylist())
    posterior = ppca.posterior(x)
    noise = (z - posterior.mean) / posterior.variance.sqrt()
    assert_mean(noise, 0.0, f"resampled draws, k = {k}", limit=4)
    assert_mean(noise**2, 1.0, f"squares of resampled draws, k = {k}", limit=4)
