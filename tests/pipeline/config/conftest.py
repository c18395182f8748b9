"""Pipeline files for tests: the example of the documentation, and a small one to vary."""

import textwrap
from pathlib import Path

import pytest
import yaml

from vaepipe.errors import ConfigError
from vaepipe.pipeline import config

FILES = Path(__file__).parent / "files"

SMALL = """
version: 1
name: digits-vae
compute: {type: local}
tracking: {type: memory}
stages:
  digits: {kind: data, dataset: {type: digits}}
  fit:
    kind: train
    data: digits
    model:
      latent_shape: [8]
      encoder: {type: mlp, hidden: [64]}
      family: {type: diagonal_normal}
      prior: {type: standard_normal}
      decoder: {type: mlp, hidden: [64]}
      likelihood: {type: bernoulli}
    objective: {type: elbo}
    epochs: 3
"""


@pytest.fixture
def example():
    """The documentation's file, with a family that is installed in place of `iaf`."""
    return (FILES / "mnist_sweep.yaml").read_text().replace("type: iaf", "type: full_normal")


@pytest.fixture
def read(tmp_path):
    """Read a text (with stages beside those of the small file, unless it is a whole file)."""

    def read_text(text="", sets=(), whole=False):
        file = tmp_path / "pipeline.yaml"
        beside = textwrap.indent(textwrap.dedent(text), "  ")
        file.write_text(text if whole else SMALL + beside)
        return config.read(file, sets)

    return read_text


@pytest.fixture
def problems(read):
    """The problems of a text: `(line, path, message)` each."""

    def problems_of(text="", sets=(), whole=False):
        with pytest.raises(ConfigError) as caught:
            read(text, sets, whole)
        return [(p.line, p.path, p.message) for p in caught.value.problems]

    return problems_of


@pytest.fixture
def small():
    """The small file's data."""
    return yaml.safe_load(SMALL)
