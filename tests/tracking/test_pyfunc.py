"""The logged model is the bundle: no pickle in it, and any MLflow client gets its numbers."""

from __future__ import annotations

import json
import pickletools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vaepipe import registry
from vaepipe.compute.base import ModelSpec
from vaepipe.core import SUPPORTS, DataSpec, Stream, build, examples, seeded
from vaepipe.errors import UserError
from vaepipe.evaluation import score
from vaepipe.tracking.pyfunc import OUTPUTS, Predictor
from vaepipe.training import bundle


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Seven rows of grey levels 0 … 16, as the dataset stores them."""
    return np.random.default_rng(0).integers(0, 17, (7, 64)).astype(np.float32)


@pytest.fixture
def logged(store, model_bundle) -> tuple[str, Path]:
    """URI and files of the logged model."""
    uri = store.start("fit").model(model_bundle)
    folder = store.fetch(uri)
    return uri, next(p for p in folder.parents if (p / "MLmodel").exists())


def is_pickle(path: Path) -> bool:
    """Whether the bytes of a file are a pickle that can be taken apart."""
    try:
        return sum(1 for _ in pickletools.genops(path.read_bytes())) > 1
    except Exception:
        return False


def test_no_file_of_the_model_is_a_pickle_or_asks_for_one(logged):
    files = [path for path in logged[1].rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        "MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "input_example.json",
        "serving_input_example.json", "model.json", "weights.safetensors", "golden.safetensors",
    }  # fmt: skip
    assert not [path for path in files if is_pickle(path)]
    assert "pickle" not in "".join(p.read_text() for p in files if p.suffix != ".safetensors")


def test_the_model_names_what_it_needs(logged, model_bundle):
    needed = (logged[1] / "requirements.txt").read_text().split()
    assert set(bundle.load(model_bundle).requirements) < set(needed)
    assert any(line.startswith("torch==") for line in needed)
    assert not any("+" in line or "pickle" in line for line in needed)


FOREIGN = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
x = np.load(sys.argv[3])
print(json.dumps([model.predict(x, params={"output": name}).tolist() for name in ("mean", "elbo")]))
"""


def test_another_process_opens_it_through_mlflow_alone(
    logged, store, model_bundle, images, tmp_path
):
    np.save(tmp_path / "x.npy", images)
    command = [sys.executable, "-c", FOREIGN, store.uri, logged[0], str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    mean, elbo = json.loads(done.stdout.splitlines()[-1])
    here = Predictor(model_bundle)
    np.testing.assert_allclose(mean, here.predict(images), rtol=1e-6)
    np.testing.assert_allclose(elbo, here.predict(images, {"output": "elbo"}), rtol=1e-6)


def served(folder: Path, request: str) -> np.ndarray:
    """The answer of MLflow's scoring server to a JSON request."""
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server

    model = mlflow.pyfunc.load_model(str(folder))
    schema = model.metadata.get_input_schema()
    answer = scoring_server.invocations(request, "application/json", model, schema)
    assert answer.status == 200, answer.response
    return np.array(json.loads(answer.response)["predictions"])


def test_its_own_example_serves(logged):
    assert served(logged[1], (logged[1] / "serving_input_example.json").read_text()).shape == (2, 3)


def test_a_request_over_json_may_carry_parameters(logged, images, model_bundle):
    params = {"output": "recon", "seed": 3}
    answer = served(logged[1], json.dumps({"inputs": images.tolist(), "params": params}))
    np.testing.assert_allclose(answer, Predictor(model_bundle).predict(images, params), rtol=1e-6)


def test_scores_are_those_of_the_evaluation_on_the_same_rows(model_bundle, images):
    predictor = Predictor(model_bundle)
    x = predictor.dataset.frozen(
        torch.from_numpy(images.astype(np.uint8)).reshape(-1, 1, 8, 8), torch.arange(len(images))
    )
    scores = score(predictor.model, x, range(len(images)), k=5, seed=2)
    for field in ("elbo", "log_lik", "rate", "log_evidence"):
        answer = predictor.predict(images, {"output": field, "k": 5, "seed": 2})
        np.testing.assert_allclose(answer, getattr(scores, field).float(), rtol=1e-6)


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_same_rows_and_seed_give_the_same_numbers_in_every_form(model_bundle, images, output):
    import pandas as pd

    predictor = Predictor(model_bundle)
    answer = predictor.predict(images, {"output": output})
    assert len(answer) == len(images)
    assert answer.dtype == np.float32
    assert np.isfinite(answer).all()
    for form in (pd.DataFrame(images), images.astype(np.uint8), images.reshape(-1, 1, 8, 8)):
        np.testing.assert_array_equal(predictor.predict(form, {"output": output}), answer)
    longer = predictor.predict(np.concatenate([images, images]), {"output": output})
    np.testing.assert_allclose(longer[: len(images)], answer, rtol=1e-5, atol=1e-6)


def test_the_seed_changes_samples_and_nothing_that_has_a_closed_form(model_bundle, images):
    predictor = Predictor(model_bundle)
    one, two = ({"seed": seed} for seed in (1, 2))
    for output in ("mean", "scale", "recon", "rate"):
        same = [predictor.predict(images, {"output": output, **seed}) for seed in (one, two)]
        np.testing.assert_array_equal(*same)
    drawn = [predictor.predict(images, {"output": "sample", **seed}) for seed in (one, two)]
    assert not np.array_equal(*drawn)


def test_samples_scatter_around_the_mean_by_the_scale(model_bundle, images):
    predictor = Predictor(model_bundle)
    row = np.repeat(images[:1], 4000, axis=0)
    row[:] = np.where(row >= 8, 16, 0)  # grey levels that the binarization leaves as they are
    z = predictor.predict(row, {"output": "sample"})
    mean, scale = (predictor.predict(row[:1], {"output": o})[0] for o in ("mean", "scale"))
    error = scale / np.sqrt(len(z))
    assert (np.abs(z.mean(0) - mean) < 4 * error).all()
    assert (np.abs(z.std(0) / scale - 1) < 4 / np.sqrt(2 * len(z))).all()


def test_mistakes_of_the_caller_are_named(model_bundle, images):
    predictor = Predictor(model_bundle)
    with pytest.raises(UserError, match=r"unknown output 'means'\. Did you mean 'mean'\?"):
        predictor.predict(images, {"output": "means"})
    with pytest.raises(UserError, match="expected rows of 64 values"):
        predictor.predict(images[:, :63])


def made(path: Path, data: DataSpec, likelihood: str, **card: object) -> Path:
    """A bundle for rows of files."""
    mlp = registry.part("networks", "mlp", {"hidden": [8]})
    parts = {
        "encoder": mlp,
        "family": registry.part("families", "diagonal_normal"),
        "prior": registry.part("priors", "standard_normal"),
        "decoder": mlp,
        "likelihood": registry.part("likelihoods", likelihood),
    }
    with seeded(Stream(0)):
        model, x = build((2,), data, **parts), examples(data, 4)
    rows = {"path": "rows.npy", "support": data.support_name}
    said = {
        "model": ModelSpec((2,), **parts).to_dict(),
        "data": data.to_dict(),
        "dataset": registry.part("datasets", "npy", rows).to_dict(),
        "objective": registry.part("objectives", "elbo").to_dict(),
    }
    bundle.save(path, model, {**said, **card}, x)
    return path


def test_bytes_that_mlflow_made_floats_are_bytes(tmp_path):
    path = made(
        tmp_path / "model",
        DataSpec((4,), SUPPORTS["unit_interval"], 9),
        "continuous_bernoulli",
        stored="uint8",
    )
    predictor, grey = Predictor(path), np.array([[0, 1, 128, 255], [1, 1, 0, 0]], "uint8")
    seen = predictor.model.inference(torch.from_numpy(grey) / 255).mean.detach().numpy()
    for form in (grey, grey.astype("float32"), grey.astype("int64")):
        np.testing.assert_allclose(predictor.predict(form), seen, rtol=1e-5)
    with pytest.raises(UserError, match=r"expected bytes .*, got 0\.5"):
        predictor.predict(np.full((1, 4), 0.5))
    with pytest.raises(UserError, match=r"expected bytes .*, got 300"):
        predictor.predict(np.full((1, 4), 300))


def test_values_that_are_none_of_the_data_are_refused(tmp_path):
    data = DataSpec((4,), SUPPORTS["unit_interval"], 9)
    path = made(tmp_path / "model", data, "continuous_bernoulli", stored="float32")
    predictor = Predictor(path)
    assert predictor.predict(np.ones((1, 4), "uint8")).shape == (1, 2)
    with pytest.raises(UserError, match=r"expected unit_interval values .*'npy'.*, got 128"):
        predictor.predict(np.full((1, 4), 128.0))


def test_columns_of_a_table_are_taken_by_their_names(tmp_path, store):
    import mlflow.pyfunc
    import pandas as pd

    data = DataSpec((3,), SUPPORTS["real"], 9, names=("age", "income", "rate"))
    path = made(tmp_path / "model", data, "gaussian", stored="float32")
    table = pd.DataFrame({"age": [30.0, 60.0], "income": [1.0, 2.0], "rate": [0.5, 0.25]})
    mixed = table[["rate", "age", "income"]].assign(more=7.0)
    folder = store.fetch(store.start("fit").model(path))
    logged = next(p for p in folder.parents if (p / "MLmodel").exists())
    opened = mlflow.pyfunc.load_model(str(logged))
    right = Predictor(path).predict(table.to_numpy())
    for ask in (Predictor(path).predict, opened.predict):
        np.testing.assert_allclose(ask(table), right, rtol=1e-5)
        np.testing.assert_allclose(ask(mixed), right, rtol=1e-5)
    with pytest.raises(UserError, match="the model reads the column 'income', which the rows lack"):
        Predictor(path).predict(table.drop(columns="income"))
