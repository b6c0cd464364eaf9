"""What linters cannot tell of the files in docker/: that they agree with one another, and give nothing away."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text()))


def test_every_secret_volume_and_service_that_is_named_is_there() -> None:
    for service in SERVICES.values():
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        for volume in service.get("volumes", []):
            source = re.sub(r"^\$\{\w+:-(\w+)\}", r"\1", volume).split(":")[0]
            assert source in COMPOSE["volumes"] or (DOCKER / source).exists()


def test_the_database_is_open_to_those_who_need_it_only() -> None:
    reads = [name for name, service in SERVICES.items() if "database_url" in service.get("secrets", [])]
    assert reads == ["upgrade", "controller", "dashboard", "cli"]


def test_ray_never_starts_without_a_token() -> None:
    for service in SERVICES.values():
        if service.get("command", [""])[0] in ("ray", "mergeopt-controller"):
            assert service["environment"]["RAY_AUTH_MODE"] == "token"
            assert "ray_token" in service["secrets"]


def test_only_the_proxy_can_be_reached_and_only_from_the_host_itself() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["proxy"]
    assert all(port.startswith("${MERGEOPT_PUBLISH:-127.0.0.1}:") for port in published["proxy"])


def test_no_service_of_ours_may_gain_privileges() -> None:
    ours = [service for service in SERVICES.values() if service["image"].startswith("mergeopt:")]
    assert len(ours) == len(SERVICES) - 2
    for service in ours:
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    (*_, user) = re.findall(r"^USER (\S+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert user == "1000:1000"


def test_what_the_image_copies_reaches_the_builder_and_is_the_whole_package() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources == let_in
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {package.split(".")[0] for package in packages} <= sources


def test_the_image_has_the_ray_that_the_manifest_names() -> None:
    (ray,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    (cluster,) = [one for one in MANIFESTS if one["kind"] == "RayCluster"]
    assert cluster["spec"]["rayVersion"] == ray


def test_the_manifest_names_its_own_claims_and_starts_what_compose_starts() -> None:
    claims = {one["metadata"]["name"] for one in MANIFESTS if one["kind"] == "PersistentVolumeClaim"}
    assert set(re.findall(r"claimName: ([\w-]+)", (DOCKER / "kuberay.yaml").read_text())) == claims
    commands = {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]["containers"][0]["command"]
        for one in MANIFESTS
        if one["kind"] == "Deployment"
    }
    assert commands["mergeopt-dashboard"] == SERVICES["dashboard"]["command"]
    assert commands["mergeopt-controller"][0] == SERVICES["controller"]["command"][0]


def _make_secrets(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MERGEOPT_SECRETS": str(folder), "CADDY": "echo hash-of-a-password"}
    return subprocess.run([DOCKER / "make-secrets.sh"], env=environment, capture_output=True, text=True, check=False)


def test_secrets_are_made_once_and_for_the_services_only(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert _make_secrets(folder).returncode == 0
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.name for file in folder.iterdir()} == set(COMPOSE["secrets"])
    password = (folder / "postgres_password").read_text()
    assert (folder / "database_url").read_text() == f"postgresql://mergeopt:{password}@postgres:5432/mergeopt"
    assert (folder / "dashboard_users").read_text().startswith("mergeopt hash-of-a-password")
    assert (folder / "ray_token").read_text() != password

    again = _make_secrets(folder)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert (folder / "postgres_password").read_text() == password


def test_a_password_that_cannot_be_hashed_leaves_no_secrets(tmp_path: Path) -> None:
    environment = os.environ | {"MERGEOPT_SECRETS": str(tmp_path / "secrets"), "CADDY": "false"}
    ended = subprocess.run([DOCKER / "make-secrets.sh"], env=environment, capture_output=True, check=False)
    assert ended.returncode != 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", sorted(DOCKER.glob("*.sh")), ids=lambda script: script.name)
def test_scripts_may_be_run(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
