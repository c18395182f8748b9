"""Small fits on the embedded digits, and components that fail on purpose.

The folder of this file is on the path of the tests' worker processes as well.
"""

import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import torch
from torch.distributions import kl_divergence

from vaepipe import files, registry
from vaepipe.compute import jobs
from vaepipe.compute.base import DataRef, ModelSpec, SweepTask, TrainTask
from vaepipe.core import DataSpec, Estimate, JointObjective, Objective, Part, Phase
from vaepipe.data import shards
from vaepipe.objectives.elbo import ELBO
from vaepipe.registry import PartSpec
from vaepipe.training import checkpoint

part = registry.part


def digits(folder, splits=("train", "val", "test"), rows=None):
    """A data artifact of the 8 x 8 digits, or of the first rows of every split."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dataset = part("datasets", "digits")
    source = dataset.build()
    written = {}
    for split in splits:
        table = pa.Table.from_batches(source.examples(split)).slice(0, rows)
        entries = shards.write_split(folder / split, iter(table.to_batches()))
        written[split] = {"rows": sum(e["rows"] for e in entries), "files": entries}
    spec = DataSpec(source.spec.shape, source.spec.support, written["train"]["rows"]).to_dict()
    files.write_json(folder / "manifest.json", {"spec": spec, "splits": written})
    return DataRef(str(folder), dataset, spec, "digest")


def model_spec(hidden=16, prior="standard_normal", latent=2):
    network = {"hidden": [hidden]}
    return ModelSpec(
        (latent,),
        part("networks", "mlp", network),
        part("families", "diagonal_normal"),
        part("priors", prior),
        part("networks", "mlp", network),
        part("likelihoods", "bernoulli"),
    )


def fit_task(data, output, **changes):
    settings = {
        "name": "fit",
        "output": str(output),
        "data": data,
        "model": model_spec(),
        "objective": part("objectives", "elbo"),
        "optimizer": {"type": "adam", "lr": 3e-3},
        "batch_size": 128,
        "epochs": 3,
        "seed": 11,
        "fingerprint": "a",
        "validation": {"examples": 60, "k": 4, "every": 1},
    }
    return TrainTask(**{**settings, **changes})


def sweep_task(data, folder, changes, scheduler=None, **options):
    """A sweep whose trial i is `fit_task(**changes[i])`, and the list of what it observed."""
    seen = []

    def propose(index):
        if changes[index] is None:
            return None
        output = Path(folder) / "trials" / f"{index:05d}"
        settings = {"name": f"sweep/{index:05d}", "fingerprint": f"trial-{index}"}
        return fit_task(data, output, **{**settings, **changes[index]})

    task = SweepTask(
        name="sweep",
        output=str(folder),
        indices=list(range(len(changes))),
        propose=propose,
        observe=lambda index, value: seen.append((index, value)),
        metric="val/log_evidence",
        mode="max",
        scheduler=scheduler or {"type": "none"},
        **options,
    )
    return task, seen


def own(name, **options):
    """A component of this file; no distribution declares it."""
    return PartSpec("objectives", name, f"fits:{name}", "vaepipe", "0", options)


def fit_rank(number, size, task, folder):
    """One rank of a data-parallel fit without Ray; leaves the weights it ended with."""
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=number, world_size=size)
    step = jobs.train_job(task, rank=number, world_size=size)
    checkpoint.save_weights(Path(folder) / f"rank-{number}.safetensors", step)
    torch.distributed.destroy_process_group()


class Alternating(Objective):
    """The ELBO, climbed in q(z | x) and in p(x, z) by turns: two phases with parameters unused."""

    needs = ELBO.needs

    def __init__(self):
        super().__init__()
        self.elbo = ELBO()

    def phases(self):
        return (
            Phase("inference", Part.INFERENCE, self.elbo.estimate, repeat=2),
            Phase("model", Part.GENERATOR | Part.PRIOR, self.elbo.estimate),
        )


class Mortal(JointObjective):
    """The ELBO, in a process that is killed at a step: once, or every time without a marker."""

    needs = ELBO.needs

    def __init__(self, *, step: int, marker: str = "", rank: int = 0):
        super().__init__()
        self.elbo, self.step, self.marker, self.rank = ELBO(), step, marker, rank

    def estimate(self, model, x, ctx):
        mine = int(os.environ.get("RANK", 0)) == self.rank
        if ctx.step == self.step and mine and not (self.marker and Path(self.marker).exists()):
            if self.marker:
                Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.elbo.estimate(model, x, ctx)


class Diverging(JointObjective):
    """The ELBO, whose `log_lik` is not finite from a step on."""

    needs = ELBO.needs

    def __init__(self, *, step: int):
        super().__init__()
        self.elbo, self.step = ELBO(), step

    def estimate(self, model, x, ctx):
        bound, surrogate, terms = self.elbo.estimate(model, x, ctx)
        if ctx.step >= self.step:
            terms = {**terms, "log_lik": terms["log_lik"] * torch.nan}
        return bound, surrogate, terms


class Turning(JointObjective):
    """The ELBO, climbed until a step and descended from then on."""

    needs = ELBO.needs

    def __init__(self, *, step: int):
        super().__init__()
        self.elbo, self.step = ELBO(), step

    def estimate(self, model, x, ctx):
        bound, surrogate, terms = self.elbo.estimate(model, x, ctx)
        return Estimate(bound, surrogate if ctx.step < self.step else -surrogate, terms)


class Broken(JointObjective):
    """An objective with a mistake in it."""

    needs = ELBO.needs

    def estimate(self, model, x, ctx):
        raise KeyError("a mistake")


class Square:
    """Work whose units are numbers."""

    def __init__(self, common):
        self.common = common

    def __call__(self, unit):
        time.sleep(self.common.get("seconds", 0))
        return {"x": unit["x"], "y": unit["x"] ** 2 + self.common["add"], "pid": os.getpid()}


class Killer(Square):
    """Work that kills its worker at some units, as often as is asked."""

    def __call__(self, unit):
        deaths = unit.get("deaths", 0)
        tally = Path(self.common["folder"]) / str(unit["x"])
        died = len(tally.read_text()) if tally.exists() else 0
        if died < deaths:
            tally.write_text("x" * (died + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(unit)


class Unbuilt(Square):
    """Work whose worker cannot be built."""

    def __init__(self, common):
        from vaepipe.errors import DataError

        raise DataError("no such model")


class Refuses(Square):
    """Work with a unit that is refused."""

    def __call__(self, unit):
        from vaepipe.errors import DataError

        if unit["x"] == 3:
            raise DataError("row group 3 cannot be read")
        return super().__call__(unit)


class Noiseless(JointObjective):
    """The ELBO at the mean of q(z | x): without noise, a batch and its parts can be compared."""

    needs = ELBO.needs

    def estimate(self, model, x, ctx):
        q, p = model.inference(x), model.p_z()
        z = q.mean[None]
        log_lik = model.generator(z).log_prob(x)[0]
        rate = kl_divergence(q, p.z)
        bound = log_lik - rate
        terms = {"log_lik": log_lik.detach(), "rate": rate.detach()}
        return Estimate(bound.detach(), -bound.mean(), terms)


class PriorOnly(Objective):
    """E log p(z) for z ~ q(z | x), climbed in the prior alone."""

    needs = ELBO.needs
    trains = Part.PRIOR

    def phases(self):
        return (Phase("prior", Part.PRIOR, self.estimate),)

    def estimate(self, model, x, ctx):
        q, p = model.inference(x), model.p_z()
        z = q.sample()
        log_prior = p.z.log_prob(z)
        log_lik = model.generator(z).log_prob(x)
        rate = q.log_prob(z) - log_prior
        terms = {"log_lik": log_lik.detach(), "rate": rate.detach()}
        return Estimate((log_lik - rate).detach(), -log_prior.mean(), terms)
