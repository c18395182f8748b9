"""Half precision, refined posteriors, resampled draws: whoever does the work, the same bytes."""

import numpy as np
import pytest
import torch
from torch import nn
from untrained import Run, digests, images, rows_of, save_model, vaepipe, write

from vaepipe.compute.local import LocalCompute, build_worker
from vaepipe.data import schema
from vaepipe.training import bundle

X = images(90)
UNIT = 2.0**-8
"""Of bfloat16: 8 bits of significand, so that rounding moves a number by 2^-8 of its size."""
SETTINGS = {
    "float32": {"with_": ["elbo", "sample:2"]},
    "bfloat16": {"precision": "bfloat16", "with_": ["elbo", "sample:2"]},
    "refined": {"refine": 4, "with_": ["elbo"]},
    "resampled": {"with_": ["sir:6"]},
    "all of it": {"precision": "bfloat16", "refine": 3, "with_": ["log_lik", "sample:1", "sir:4"]},
}
VECTORS = ("mean", "scale", "sample_0", "sample_1", "sir")


class Several(LocalCompute):
    """Workers with a model of their own, dealt the units in turn, the last unit first."""

    def __init__(self, workers, stop_after=None):
        super().__init__(gpus_per_worker=0)
        self.count, self.stop_after = workers, stop_after

    def map(self, target, units, common, workers=None):
        common = {**common, "device": "cpu"}
        hired = [build_worker(target, common) for _ in range(self.count)]
        for number, unit in enumerate(reversed(units)):
            if number == self.stop_after:
                raise KeyboardInterrupt
            yield hired[number % self.count](unit)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write(tmp_path_factory.mktemp("in") / "x.parquet", X, group=10)


@pytest.fixture(scope="module")
def plain(model, source, tmp_path_factory):
    """What each of the settings gives, undisturbed."""
    made = {}

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("plain")
            manifest = Run(model)(source, folder, rows_per_file=20, **SETTINGS[name])
            made[name] = digests(manifest), rows_of(folder)
        return made[name]

    return of


def values(rows, name):
    return schema.from_vectors(rows[name], (2,)) if name in VECTORS else rows[name].to_numpy()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_and_restarts_change_no_byte(model, source, plain, tmp_path, name, workers):
    run = Run(model, options={"rows_per_file": 20, **SETTINGS[name]})
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", compute=Several(workers, stop_after=2))
    assert len(list((tmp_path / "out").glob("part-*"))) == 2
    manifest = run(source, tmp_path / "out", compute=Several(workers))
    expected, _ = plain(name)
    assert digests(manifest) == expected and len(expected) == 5


@pytest.mark.parametrize("name", ["float32", "refined", "resampled"])
@pytest.mark.parametrize("batch", [1, 7, 90])
def test_batches_move_no_row_and_hardly_a_value(model, source, plain, tmp_path, name, batch):
    Run(model)(source, tmp_path / "out", batch_size=batch, **SETTINGS[name])
    _, expected = plain(name)
    found = rows_of(tmp_path / "out")
    assert found["id"].equals(expected["id"]) and found["split"].equals(expected["split"])
    assert found.column_names == expected.column_names
    for column in set(found.column_names) - {"id", "split"}:
        a, b = values(found, column), values(expected, column)
        assert (np.abs(a - b) / np.maximum(1, np.abs(b))).max() < 1e-5, column


@pytest.mark.parametrize("name", SETTINGS)
def test_rows_that_are_encoded_again_are_the_same(model, source, tmp_path, capfd, name):
    Run(model)(source, tmp_path / "out", rows_per_file=20, **SETTINGS[name])
    code, out, _ = vaepipe(capfd, "latents", "verify", tmp_path / "out")
    assert code == 0 and "90 rows, largest relative difference 0.0e+00" in out


def errors_of_rounding(network, x):
    """The features in float32, and how far those of bfloat16 can be from them.

    A rounding moves a number by u = 2^-8 of its size. An affine map of inputs with errors e reads
    rounded weights and biases, adds up in float32, and its result is rounded:

        r = |W| e + u (|W| (|x| + e) + |b|),   e' = r + u (|y| + r)

    to first order in u, which 1 % more makes up for. A rectifier makes no error larger.
    """
    v, e = x.flatten(1), torch.zeros(len(x), x[0].numel())
    u = 1.01 * UNIT
    for layer in network.layers:
        if isinstance(layer, nn.Linear):
            w, b, size = layer.weight.abs(), layer.bias.abs(), v.abs()
            v = layer(v)
            r = e @ w.T + u * ((size + e) @ w.T + b)
            e = r + u * (v.abs() + r)
        else:
            v = layer(v)
    return v, e


@pytest.mark.parametrize("hidden", [[8], [8, 8]])
def test_half_precision_is_off_by_no_more_than_its_roundings(tmp_path, hidden):
    """mean is a feature; scale grows no faster than one; batches may round another way, no more."""
    model = save_model(tmp_path / "m", encoder=("mlp", {"hidden": hidden}))
    path = write(tmp_path / "x.parquet", X)
    run = Run(model, options={"precision": "bfloat16"})
    exact = Run(model)(path, tmp_path / "exact") and rows_of(tmp_path / "exact")
    bits = torch.from_numpy(X >= 128).float()
    with torch.no_grad():
        _, bound = errors_of_rounding(bundle.load(model).model.inference.network, bits)
    bound = dict(zip(("mean", "scale"), bound.reshape(-1, 2, 2).unbind(1), strict=True))
    for batch in (1, 32, 90):
        run(path, tmp_path / f"{batch}", batch_size=batch)
        half = rows_of(tmp_path / f"{batch}")
        assert half["id"].equals(exact["id"]) and half.schema.equals(exact.schema)
        for name in ("mean", "scale"):
            gap = np.abs(values(half, name) - values(exact, name))
            assert (gap <= bound[name].numpy() + 1e-6).all(), (name, batch)
            assert gap.max() > UNIT * 1e-2, "nothing was rounded"


def test_densities_of_half_precision_are_those_of_its_posteriors(model, source, tmp_path):
    """Rate and likelihood, from the columns beside them, agree as only float32 can."""
    run = Run(model, options={"precision": "bfloat16"})
    run(source, tmp_path / "out", with_=["elbo", "log_lik", "sample:16"])
    rows = rows_of(tmp_path / "out")
    mean, scale = (values(rows, name).astype(np.float64) for name in ("mean", "scale"))
    rate = 0.5 * (mean**2 + scale**2 - 1 - 2 * np.log(scale)).sum(1)
    assert np.abs(rows["rate"].to_numpy() - rate).max() < 1e-5
    z = np.stack([schema.from_vectors(rows[f"sample_{i}"], (2,)) for i in range(16)])
    bits = torch.from_numpy(X >= 128).float()
    with torch.no_grad():
        log_lik = bundle.load(model).model.generator(torch.from_numpy(z)).log_prob(bits).mean(0)
    assert np.abs(rows["log_lik"].to_numpy() - log_lik.numpy()).max() < 1e-5
    gap = rows["elbo"].to_numpy() - (log_lik.numpy() - rate)
    assert np.abs(gap).max() < 2e-5
