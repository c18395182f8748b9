"""What the Compose file and the Dockerfile must never lose."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NODES = ("ray-head", "ray-worker", "vaepipe")


@pytest.mark.parametrize("name", ["POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"])
def test_there_is_no_default_secret(raw, interpolate, secrets, name):
    rest = {other: value for other, value in secrets.items() if other != name}
    with pytest.raises(KeyError, match=f"{name}: set {name}"):
        interpolate(raw, rest)


def test_no_secret_is_on_a_command_line(services, secrets):
    for name, service in services.items():
        words = [*service.get("entrypoint", []), *service.get("command", [])]
        words += service["healthcheck"]["test"]
        assert not [w for w in words for secret in secrets.values() if secret in w], name


def test_every_published_port_is_bound_to_loopback(services):
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)


def test_every_service_has_a_health_check_and_waits_for_healthy_ones(services):
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        for other, condition in service.get("depends_on", {}).items():
            assert other in services
            assert condition == {"condition": "service_healthy"}


def test_nobody_gains_privileges(services):
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service
        assert not [v for v in service["volumes"] if "docker.sock" in v], name


@pytest.mark.parametrize("name", NODES)
def test_ray_nodes_have_shared_memory_a_token_and_the_same_paths(services, name):
    service, head = services[name], services["ray-head"]
    assert re.fullmatch(r"\d+gb", service["shm_size"])
    assert service["environment"] == head["environment"]
    assert service["environment"]["RAY_AUTH_MODE"] == "token"
    assert service["volumes"] == head["volumes"]
    targets = {volume.rpartition(":")[2] for volume in service["volumes"]}
    assert {service["environment"][k] for k in ("VAEPIPE_WORKSPACE", "VAEPIPE_DATA")} == targets


def test_the_addresses_of_clients_are_those_of_the_servers(services):
    environment = services["vaepipe"]["environment"]
    head, tracking = services["ray-head"], services["mlflow"]
    assert environment["RAY_ADDRESS"] == "ray-head:6379"
    assert "--port=6379" in head["command"]
    assert environment["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert "--port=5000" in tracking["command"]
    assert any("mlflow:5000" in part for part in tracking["command"] if "allowed-hosts" in part)


def test_workers_can_be_scaled(services):
    worker = services["ray-worker"]
    assert "container_name" not in worker
    assert "ports" not in worker


def test_volumes_are_named_and_declared(compose):
    used = {
        volume.partition(":")[0]
        for service in compose["services"].values()
        for volume in service["volumes"]
    }
    assert used == set(compose["volumes"])


def test_the_one_shot_starts_only_when_asked_for(services):
    assert services["vaepipe"]["profiles"] == ["run"]
    assert "restart" not in services["vaepipe"]
    assert (ROOT / services["vaepipe"]["command"][-1]).exists()


@pytest.mark.parametrize("name", ["mlflow", "psycopg2-binary", "ray", "torch", "torchvision"])
def test_the_image_has_the_versions_that_the_tests_run_with(name):
    text = (ROOT / "Dockerfile").read_text()
    pinned = re.search(rf"[\s\"]{name}(?:\[[\w,]+\])?==([\w.]+)", text)
    assert pinned, f"{name} is not pinned"
    assert pinned[1] == version(name).partition("+")[0]


def test_the_image_is_of_this_version_and_its_python_is_supported(compose):
    image = compose["services"]["ray-head"]["image"]
    assert image == f"vaepipe:{version('vaepipe')}"
    base = re.search(r"^FROM python:(3\.\d+)-", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert base
    assert base[1] in (ROOT / "pyproject.toml").read_text()


def test_the_image_does_not_run_as_root_and_takes_no_secret_in():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER vaepipe"]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert {f"!{name}" for name in copied} == {line for line in ignored if line.startswith("!")}
    assert not [name for name in copied if not (ROOT / name).exists()]


def test_the_database_is_the_one_that_the_commands_were_tried_with(services, postgres):
    if postgres is None:
        pytest.skip("no PostgreSQL server is installed here")
    command = [postgres / "postgres", "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    major = re.search(r" (\d+)\.", shown.stdout)
    assert major
    assert services["postgres"]["image"].startswith(f"postgres:{major[1]}-")
