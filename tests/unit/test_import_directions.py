"""The packages import each other one way, and guests stay in their homes."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("merging", "search_spaces", "evaluators", "optimizer")
MAY_IMPORT = {
    "merging": {"merging"},
    "search_spaces": {"search_spaces", "merging"},
    "evaluators": {"evaluators"},
    "optimizer": {"optimizer", "search_spaces", "merging", "evaluators"},
}
# search spaces use only the part of merging that needs no torch
TORCH_FREE = {
    "merging.recipe",
    "merging.groups",
    "merging.frozen",
    "merging.yaml_file",
    "merging.methods",
    "merging.methods.searchable",
}
HOMES = {
    "ray": {"optimizer/cluster/"},
    "lm_eval": {"evaluators/harness/"},
    "cmaes": {"optimizer/engines/cma_es.py", "optimizer/auto/evolution.py"},
    "botorch": {"optimizer/engines/gaussian_process.py"},
    "gpytorch": {"optimizer/engines/gaussian_process.py"},
    "plotly": {"optimizer/plots.py", "optimizer/report_html.py"},
    "optuna_dashboard": {"optimizer/dashboard.py"},
    "vllm": {"evaluators/vllm/"},
    "structlog": {"optimizer/logs.py"},
    "prometheus_client": {"optimizer/metrics.py"},
    "tensorboardX": {"optimizer/trackers/tensorboard.py"},
    "mlflow": {"optimizer/trackers/mlflow.py"},
    "wandb": {"optimizer/trackers/wandb.py"},
    "tokenizers": {"merging/tokenizers/"},
    "numba": {"merging/kernels/"},
}


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the direction"
            yield node.module or ""


def _files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_stands_below_it(package: str) -> None:
    for file in _files(package):
        for name in _imports(file):
            top = name.split(".")[0]
            assert top not in PACKAGES or top in MAY_IMPORT[package], f"{file} imports {name}"


def test_search_spaces_never_reach_torch() -> None:
    for file in _files("search_spaces"):
        for name in _imports(file):
            assert name.split(".")[0] != "torch", f"{file} imports {name}"
            assert not name.startswith("merging") or name in TORCH_FREE, f"{file} imports {name}"


@pytest.mark.parametrize("guest", HOMES)
def test_a_guest_library_has_one_home(guest: str) -> None:
    users = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in _files(package)
        if any(name.split(".")[0] == guest for name in _imports(file))
    }
    assert all(any(user.startswith(home) for home in HOMES[guest]) for user in users), users
    assert users, f"nothing imports {guest} any more: take it out of this table and of pyproject.toml"


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(file.relative_to(ROOT).parts[:-1]) for package in PACKAGES for file in _files(package)}
    assert there == set(listed)
