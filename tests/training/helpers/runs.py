"""Run small fits, kill some of them, and read what they leave."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from fits import fit_task, own
from safetensors.torch import load_file

from vaepipe.compute import outputs
from vaepipe.compute.local import LocalCompute
from vaepipe.journal import Journal

COMPUTE = LocalCompute(gpus_per_worker=0)


def events(task):
    return Journal(Path(task.output) / outputs.JOURNAL).read()


def epochs(task):
    return [e for e in events(task) if e["event"] == "epoch"]


def curve(task):
    """Every number of every epoch that is not a time."""
    clock = "examples_per_second"
    return [{k: v for k, v in e["metrics"].items() if k != clock} for e in epochs(task)]


def weights(task):
    folder = Path(task.output)
    return {
        f"{path.name}:{name}": tensor
        for path in (folder / "model/weights.safetensors", folder / "checkpoint/last.safetensors")
        for name, tensor in load_file(path).items()
    }


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def fit(data, output, **changes):
    task = fit_task(data, output, **changes)
    COMPUTE.train(task)
    return task


def killed(task, step):
    """Run a task in a process that is killed with SIGKILL at a step."""
    mortal = replace(task, objective=own("Mortal", step=step))
    code = (
        "import json, sys\n"
        "from vaepipe.compute.base import TrainTask\n"
        "from vaepipe.compute.local import LocalCompute\n"
        "task = TrainTask.from_dict(json.loads(sys.argv[1]))\n"
        "LocalCompute(gpus_per_worker=0).train(task)\n"
    )
    places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, "-c", code, json.dumps(mortal.to_dict())]
    return subprocess.run(command, env=env, timeout=300, check=False).returncode
