"""Models that nobody fitted, and the encoder in this process: what is asked is not statistics."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vaepipe import cli
from vaepipe.compute.local import LocalCompute
from vaepipe.core import DataSpec, Stream, build, seeded
from vaepipe.core.spec import SUPPORTS
from vaepipe.data import schema
from vaepipe.pipeline import inputs
from vaepipe.pipeline.stages import encode, parts
from vaepipe.registry import part
from vaepipe.training import bundle

SHAPE = (3, 4)
"""Small images."""


def save_model(
    folder,
    shape=SHAPE,
    latent=(2,),
    family="diagonal_normal",
    prior="standard_normal",
    likelihood="bernoulli",
    support="boolean",
    levels=None,
    dataset=("image_folder", {"path": "nowhere", "binarize": "threshold"}),
    encoder=("mlp", {"hidden": [8]}),
    decoder=("mlp", {"hidden": [8]}),
    seed=0,
    lexicon=None,
    stored=None,
):
    """An untrained bundle."""
    parts = {
        "encoder": part("networks", *encoder),
        "family": part("families", *(family if isinstance(family, tuple) else (family,))),
        "prior": part("priors", *(prior if isinstance(prior, tuple) else (prior,))),
        "decoder": part("networks", *decoder),
        "likelihood": part("likelihoods", likelihood),
    }
    data = DataSpec(tuple(shape), SUPPORTS[support], 100, levels=levels)
    with seeded(Stream(seed)):
        model = build(latent, data, **parts)
    card = {
        "name": "untrained",
        "fingerprint": "f" * 64,
        "seed": seed,
        "epoch": 0,
        "data_digest": "d" * 64,
        "model": {"latent_shape": list(latent), **{k: v.to_dict() for k, v in parts.items()}},
        "data": data.to_dict(),
        "dataset": part("datasets", *dataset).to_dict(),
        "objective": part("objectives", "elbo").to_dict(),
        "lexicon": lexicon,
        **({} if stored is None else {"stored": stored}),
    }
    rows = torch.zeros(4, *shape)
    bundle.save(folder, model, card, rows)
    return folder


def images(rows, seed=0, shape=SHAPE):
    """Grey levels `[rows, *shape]`."""
    return np.random.default_rng(seed).integers(0, 256, (rows, *shape), dtype=np.uint8)


def write(path, x, ids=None, group=40, **extra):
    """A Parquet file of vectors."""
    named = {"id": np.arange(len(x)) if ids is None else ids}
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({**named, "x": schema.to_vectors(x), **extra})
    pq.write_table(table, path, row_group_size=group)
    return path


@dataclass
class Run:
    """Options of one encoding in this process."""

    model: Path
    column: str = "x"
    id_column: str | None = "id"
    options: dict = field(default_factory=dict)

    def __call__(self, source, output, **options):
        """The manifest; `compute` does the work."""
        options = {**self.options, **options}
        compute = options.pop("compute", None) or LocalCompute(gpus_per_worker=0)
        loaded = bundle.load(self.model)
        data = inputs.of_path(str(source), loaded, None, self.column, self.id_column)
        columns = encode.columns(options.pop("with_", ()), options.pop("refine", 0))
        journal = Path(output) / parts.LOGS
        journal.mkdir(parents=True, exist_ok=True)
        common = {"keep": None, "seed": 0, "batch_size": 32, "rows_per_file": 100}
        job = encode.Encoding(
            model=self.model,
            model_uri=self.model.as_uri(),
            data=data,
            columns=columns,
            output=Path(output),
            journal=journal,
            **{**common, **options},
        )
        return encode.encode(job, compute)


def rows_of(folder):
    """All rows of some latents, in the order of the manifest."""
    names = sorted(Path(folder).glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(name) for name in names])


def digests(manifest):
    return {part["name"]: part["sha256"] for part in manifest["parts"]}


def vaepipe(capfd, *words):
    """Exit code, stdout and stderr of a command in this process."""
    capfd.readouterr()
    code = cli.call([str(word) for word in words])
    sys.stdout.flush()
    out, err = capfd.readouterr()
    return code, out, err
