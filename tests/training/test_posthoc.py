"""`start:` in pipeline files: a prior fitted to a trained model, another objective, mistakes."""

import pyarrow.parquet as pq
import pytest
import yaml

from vaepipe.errors import ConfigError
from vaepipe.pipeline import config, start
from vaepipe.pipeline.check import check
from vaepipe.pipeline.plan import plan
from vaepipe.pipeline.workspace import Workspace
from vaepipe.training import bundle

FILE = """
version: 1
name: posthoc
seed: 3
compute: {type: local, gpus_per_worker: 0}
tracking: {type: memory}
stages:
  digits: {kind: data, dataset: {type: digits, binarize: dynamic}}
  fit:
    kind: train
    data: digits
    model:
      latent_shape: [2]
      encoder: {type: mlp, hidden: [32]}
      family: {type: diagonal_normal}
      prior: {type: standard_normal}
      decoder: {type: mlp, hidden: [32]}
      likelihood: {type: bernoulli}
    objective: {type: elbo, beta: 0.3}
    optimizer: {type: adam, lr: 1.0e-2}
    batch_size: 128
    epochs: 24
    validation: {examples: 150, k: 8}
  prior:
    kind: train
    settings: fit
    start: fit
    model: {prior: {type: mixture, components: 20}}
    objective: {type: aggregate, samples: 4}
    optimizer: {lr: 3.0e-2, schedule: cosine}
    epochs: 24
  score:
    kind: evaluate
    model: fit
    data: digits
    splits: &all [train, val, test]
    evidence: &k {k: 100}
  better: {kind: evaluate, model: prior, data: digits, splits: *all, evidence: *k}
"""


class Silent:
    """A screen that nobody looks at."""

    def stage(self, *args):
        pass

    event = stage

    def expect(self, *args, **kwargs):
        pass


@pytest.fixture
def write(tmp_path):
    def written(**stages):
        data = yaml.safe_load(FILE)
        for name, change in stages.items():
            data["stages"].setdefault(name, {}).update(change)
        path = tmp_path / "pipeline.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path

    return written


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The artifacts of the file."""
    folder = tmp_path_factory.mktemp("posthoc")
    (folder / "pipeline.yaml").write_text(FILE)
    prepared = start.prepare(folder / "pipeline.yaml", [], folder / "ws")
    prepared.run(Silent())
    return prepared.workspace.home


def per_example(home, stage):
    table = pq.read_table(home / stage / "per_example.parquet").sort_by(
        [("split", "ascending"), ("id", "ascending")]
    )
    seen = table.column("split").to_numpy() == "train"
    return table.column("log_evidence").to_numpy(), seen


def test_a_prior_fitted_afterwards_raises_the_evidence_of_the_same_model(home):
    """Encoder and decoder are the same to the bit; examples gain, by paired differences."""
    one, two = (bundle.load(home / name / "model").model.state_dict() for name in ("fit", "prior"))
    assert all(bool((two[name] == value).all()) for name, value in one.items())
    (after, seen), (before, _) = per_example(home, "better"), per_example(home, "score")
    gain = after - before
    for name, rows in {"train": gain[seen], "val and test": gain[~seen], "all": gain}.items():
        error = rows.std(ddof=1) / len(rows) ** 0.5
        print(f"post-hoc mixture, {name}: {rows.mean():+.3f} +- {error:.3f} nats, {len(rows)} rows")
    assert gain.mean() > 4.5 * gain.std(ddof=1) / len(gain) ** 0.5
    assert gain[~seen].mean() > 0


def test_what_is_done_is_not_done_again(home):
    path = home.parent.parent / "pipeline.yaml"
    assert all(step.done for step in plan(config.read(path), Workspace(home.parent, "posthoc")))


def test_the_start_is_an_input_and_part_of_the_fingerprint(write, tmp_path):
    """Another number of epochs of `fit` makes `prior` another fit."""
    place = Workspace(tmp_path / "ws", "posthoc")
    before = {step.name: step for step in plan(config.read(write()), place)}
    after = {step.name: step for step in plan(config.read(write(fit={"epochs": 13})), place)}
    assert set(before["prior"].inputs) == {"digits", "fit"}
    other = {step.name: step for step in plan(config.read(write(prior={"start": None})), place)}
    assert len({each["prior"].fingerprint for each in (before, after, other)}) == 3


def test_check_says_what_agrees_and_what_is_new(write):
    stages = check(config.read(write(switch={"kind": "train", "settings": "fit", "start": "fit"})))
    words = "'fit': encoder, decoder, likelihood; new: prior (mixture)"
    assert stages["prior"]["notes"]["start"] == words
    assert stages["switch"]["notes"]["start"] == "'fit': encoder, decoder, likelihood"
    assert "start" not in stages["fit"]["notes"]


def test_the_winner_of_a_sweep_decides_later(write):
    tune = {
        "kind": "sweep",
        "over": "fit",
        "trials": 2,
        "space": {"optimizer.lr": {"log_uniform": [1e-3, 1e-2]}},
    }
    stages = check(config.read(write(tune=tune, prior={"settings": "tune", "start": "tune"})))
    assert stages["prior"]["notes"]["start"] == "'tune', where parts agree with the winner's"


def problems(path):
    with pytest.raises(ConfigError) as caught:
        check(config.read(path))
    return [problem.message for problem in caught.value.problems]


def test_a_start_from_which_nothing_can_be_taken_is_refused(write):
    other = {"latent_shape": [3], "likelihood": {"type": "continuous_bernoulli"}}
    grey = {"kind": "data", "dataset": {"type": "digits", "binarize": "none"}}
    prior = {"model": other, "data": "grey", "objective": {"type": "elbo"}}
    (message,) = problems(write(grey=grey, prior=prior, better={"data": "grey"}))
    assert message.startswith("start: nothing that 'fit' trains can be taken over; new: encoder")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior": {"start": "fitt"}}, "no stage 'fitt'. Did you mean 'fit'?"),
        ({"prior": {"start": "digits"}}, "'digits' is a stage of kind data, expected"),
        ({"prior": {"start": "prior"}}, "a stage cannot refer to itself"),
        ({"fit": {"start": "prior"}}, "stages wait for each other in a circle"),
        ({"fit": {"ema": 1.0}}, "must be less than 1, got 1.0"),
        ({"fit": {"precision": "float16"}}, "Did you mean 'bfloat16'?"),
        (
            {
                "tune": {
                    "kind": "sweep",
                    "over": "prior",
                    "search": {"type": "grid"},
                    "space": {"start": {"grid": ["fit"]}},
                }
            },
            "'start' cannot be searched: what a fit begins with is an input of its stage",
        ),
    ],
)
def test_mistakes_in_the_file_are_named(changes, message, write):
    assert any(message in text for text in problems(write(**changes)))
