"""Models that vLLM could run, and a stand-in for it."""

import sys
from pathlib import Path

import pytest
import stand_in
import torch
from small_models import write_models


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `north` and `south`."""
    torch.set_num_threads(1)
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def stood_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stand-in under the name `vllm`; the calls it gets that change something."""
    monkeypatch.setitem(sys.modules, "vllm", stand_in.module())
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "")  # put back what `open_vllm` sets
    stand_in.LLM.calls = []
    return stand_in.LLM.calls
