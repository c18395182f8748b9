"""The commands of the Compose file, as processes of this machine: a cluster that works."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request

import pytest
import yaml

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PIPELINE = {
    "version": 1,
    "name": "on-the-cluster",
    "seed": 3,
    "compute": {"type": "ray", "workers": 1},
    "tracking": {"type": "mlflow"},
    "stages": {
        "digits": {"kind": "data", "dataset": {"type": "digits"}},
        "fit": {
            "kind": "train",
            "data": "digits",
            "model": {
                "latent_shape": [2],
                "encoder": {"type": "mlp", "hidden": [16]},
                "family": {"type": "diagonal_normal"},
                "prior": {"type": "standard_normal"},
                "decoder": {"type": "mlp", "hidden": [16]},
                "likelihood": {"type": "bernoulli"},
            },
            "objective": {"type": "elbo"},
            "epochs": 2,
        },
        "score": {
            "kind": "evaluate", "model": "fit", "data": "digits", "evidence": {"k": 10},
        },
        "publish": {
            "kind": "register", "model": "fit", "name": "cluster-vae", "alias": "challenger",
        },
    },
}  # fmt: skip


def asked(machine, path, host=None):
    """Status of a request to the tracking server under a name."""
    uri = machine.environment("vaepipe")["MLFLOW_TRACKING_URI"]
    request = urllib.request.Request(f"{uri}{path}", headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def jobs(machine):
    """How many drivers had workers on the cluster: their logs carry the number of the job."""
    logs = [p for folder in machine.short for p in folder.glob("session_*/logs/worker-*-*-*.out")]
    return len({path.name.split("-")[2] for path in logs})


def test_the_tracking_server_answers_to_its_names_and_to_no_other(machine):
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert asked(machine, path, "mlflow:5000")[0] == 200
    assert asked(machine, path, "localhost:5000")[0] == 200
    assert asked(machine, path, "elsewhere.example")[0] == 403


def test_the_cluster_takes_nobody_without_the_token(machine):
    command = machine.command("vaepipe", ["true"])
    for wrong in ({"RAY_AUTH_TOKEN": "u" * 48}, {"RAY_AUTH_MODE": "disabled"}):
        environment = {**machine.environment("vaepipe"), **wrong}
        health = [machine.translate(w) for w in ("ray", "health-check", "--address=ray-head:6379")]
        refused = subprocess.run(health, env=environment, capture_output=True, check=False)
        assert refused.returncode != 0
    assert command[-1] == "true"


def test_a_pipeline_runs_on_the_workers_and_is_tracked_by_the_server(machine):
    before = jobs(machine)
    file = machine.folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    command = machine.command("vaepipe", ["vaepipe", "run", str(file)])
    process = machine.spawn("vaepipe", command, env=machine.environment("vaepipe"))
    code = process.wait(400)
    assert code == 0, machine.log("vaepipe")
    stages = json.loads((machine.folder / "workspace" / "on-the-cluster" / "run.json").read_text())[
        "stages"
    ]
    assert {stage["status"] for stage in stages.values()} == {"done"}
    status, answer = asked(machine, "/api/2.0/mlflow/registered-models/get?name=cluster-vae")
    assert status == 200
    model = json.loads(answer)["registered_model"]
    assert model["aliases"] == [{"alias": "challenger", "version": "1"}]
    assert list((machine.folder / "mlartifacts").rglob("weights.safetensors"))
    assert not (machine.folder / "workspace" / "mlflow.db").exists()
    assert jobs(machine) > before, "the driver started a cluster of its own"
