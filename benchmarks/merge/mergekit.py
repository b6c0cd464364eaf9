"""Run the same merge in mergekit, in an environment of its own."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

_TORCH = "torch==2.13.0"
# what mergekit calls the method, its settings, and a weight for each expert; the densities are our defaults
_METHODS: dict[str, dict[str, Any]] = {
    "linear": {},
    "task_arithmetic": {},
    "slerp": {"t": 0.3},
    "model_stock": {},
    "ties": {"density": 0.2},
    "dare_linear": {"density": 0.1},
    "dare_ties": {"density": 0.1},
    "della": {"density": 0.1, "epsilon": 0.05},
    "breadcrumbs": {"density": 0.9, "gamma": 0.01},
    "sce": {"select_topk": 0.1},
    "nuslerp": {},
    "karcher": {},
}


def install(venv: Path) -> Path:
    """The command `mergekit-yaml` of an environment, which is made where it is not there: 2 GB."""
    command = venv / "bin" / "mergekit-yaml"
    if not command.exists():
        print(f"installing mergekit into {venv}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        for packages in ([_TORCH], [_TORCH, "mergekit"]):
            subprocess.run([venv / "bin" / "pip", "install", "--quiet", *packages], check=True)
    return command


def has(method: str) -> bool:
    """Whether there is a counterpart."""
    return method in _METHODS


def run(command: Path, method: str, models: Path, threads: int) -> dict[str, float]:
    """Seconds of the processor and of the clock for a whole process of `mergekit-yaml`, its start included."""
    config, out = models / f"mergekit-{method}.yml", models / "mergekit-out"
    config.write_text(yaml.safe_dump(_config(method, models)))
    shutil.rmtree(out, ignore_errors=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    used = timed([str(command), str(config), str(out), "--no-copy-tokenizer", "--quiet"], threads, environment)
    shutil.rmtree(out)
    return used


def start_up(command: Path) -> float:
    """Seconds of the processor until mergekit has told its options."""
    return timed([str(command), "--help"], 1, dict(os.environ))["process_cpu"]


def timed(arguments: list[str], threads: int, environment: dict[str, str]) -> dict[str, float]:
    """Run a program on so many processors. Raises `RuntimeError` with what it wrote where it fails."""
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    started = time.perf_counter()
    process = subprocess.Popen(
        arguments,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{said.decode(errors='replace')[-2000:]}")
    return {"process_cpu": usage.ru_utime + usage.ru_stime, "wall": time.perf_counter() - started}


def _config(method: str, models: Path) -> dict[str, Any]:
    settings = _METHODS[method]
    experts: list[dict[str, Any]] = [{"model": str(models / name)} for name in ("one", "two", "three")]
    base = str(models / "base")
    config: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16"}
    if method == "slerp":
        return config | {"base_model": base, "models": [{"model": base}, experts[0]], "parameters": settings}
    if method == "nuslerp":
        experts = experts[:2]
    weighted = [{**one, "parameters": {"weight": 0.3 + 0.1 * number, **settings}} for number, one in enumerate(experts)]
    if method == "model_stock":
        weighted = experts
    if method == "karcher":
        return config | {"models": experts}
    if method == "sce":
        return config | {"base_model": base, "models": experts, "parameters": settings}
    if method == "linear":
        return config | {"models": weighted}
    return config | {"base_model": base, "models": weighted}
