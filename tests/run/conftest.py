"""A small pipeline over the bundled digits, run by the real command line in this process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vaepipe import cli

STAGES = """
version: 1
name: small
seed: 3
compute: {type: local}
tracking: {type: mlflow}
stages:
  digits: {kind: data, dataset: {type: digits, binarize: dynamic}}
  fit:
    kind: train
    data: digits
    model:
      latent_shape: [2]
      encoder: {type: mlp, hidden: [16]}
      family: {type: diagonal_normal}
      prior: {type: standard_normal}
      decoder: {type: mlp, hidden: [16]}
      likelihood: {type: bernoulli}
    objective: {type: elbo}
    optimizer: {type: adam, lr: 5.0e-3}
    batch_size: 128
    epochs: 2
    validation: {examples: 100, k: 8}
  tune:
    kind: sweep
    over: fit
    search: {type: grid}
    space:
      objective: {grid: [{type: elbo}, {type: iwae, k: 3}]}
  final: {kind: train, settings: tune, epochs: 3}
  score: {kind: evaluate, model: final, data: digits, splits: [val, test], evidence: {k: 20}}
  codes: {kind: encode, model: final, data: digits, with: [elbo, "sample:2"]}
  page: {kind: report, of: [tune, final, score, codes]}
  publish: {kind: register, model: final, name: small-vae, alias: challenger}
"""


class Place:
    """A pipeline file and its workspace; `vaepipe` runs the command in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "small.yaml"
        self.file.write_text(STAGES)
        self.workspace = folder / "ws"

    @property
    def home(self) -> Path:
        return self.workspace / "small"

    def edit(self, **stages) -> None:
        data = yaml.safe_load(self.file.read_text())
        for name, change in stages.items():
            if change is None:
                del data["stages"][name]
            else:
                data["stages"].setdefault(name, {}).update(change)
        self.file.write_text(yaml.safe_dump(data, sort_keys=False))

    def environment(self, **more) -> dict[str, str]:
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "RAY_", "VAEPIPE"))
        }
        return {**kept, "OMP_NUM_THREADS": "1", "VAEPIPE_WORKSPACE": str(self.workspace), **more}

    def start(self, *args, session=False, **env) -> subprocess.Popen:
        env = {name: str(value) for name, value in env.items()}
        return subprocess.Popen(
            [sys.executable, "-m", "vaepipe", *map(str, args)],
            cwd=self.folder,
            env=self.environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=session,
        )

    def kill(self, process: subprocess.Popen) -> None:
        process.kill()
        process.communicate()

    def vaepipe(self, *args, **env) -> tuple[int, str, str]:
        process = self.start(*args, **env)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def run(self, *args, **env) -> tuple[int, str, str]:
        return self.vaepipe("run", self.file, *args, **env)

    def call(self, *args) -> int:
        """Run in this process; the exit code."""
        return cli.call(["run", str(self.file), "--workspace", str(self.workspace), *args])

    def manifest(self, stage: str) -> dict:
        return json.loads((self.home / stage / "manifest.json").read_text())

    def stages(self) -> dict:
        return json.loads((self.home / "run.json").read_text())["stages"]


@pytest.fixture(scope="session")
def make_place():
    """Makes the same pipeline without page and registry, its runs remembered in memory."""

    def make(folder: Path) -> Place:
        place = Place(folder)
        place.file.write_text(STAGES.replace("{type: mlflow}", "{type: memory}"))
        place.edit(page=None, publish=None)
        return place

    return make


@pytest.fixture
def place(make_place, tmp_path):
    """The same pipeline without page and registry, its runs remembered in memory."""
    return make_place(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A pipeline that ran to its end; tests read it and write nothing."""
    place = Place(tmp_path_factory.mktemp("finished"))
    code, out, err = place.run()
    assert code == 0, err
    place.out, place.err = out, err
    return place
