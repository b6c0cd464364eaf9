"""Merge configs of mergekit give what mergekit gives: compared with weights it made, on tiny models."""

from pathlib import Path

import pytest
from mergekit_cases import CONFIGS, config_text, flattened, make_models, recorded

from merging.mergekit.read import read_configs
from merging.mergekit.write import merge_file

# Both compute in float32, in another order of operations. Ours iterates the Karcher mean to convergence, mergekit's
# stops at 1e-5.
TOLERANCE = {"karcher": 1e-4}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    make_models(folder)
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_gives_the_weights_that_mergekit_made(name: str, models: Path, tmp_path: Path) -> None:
    config = models / f"{name}.yml"
    config.write_text(config_text(name))
    merge_file(read_configs(config), tmp_path / "merged", lambda _: None)
    assert flattened(tmp_path / "merged") == pytest.approx(recorded()[name], abs=TOLERANCE.get(name, 2e-6))


def test_every_result_that_was_recorded_is_compared() -> None:
    assert sorted(recorded()) == sorted(CONFIGS)
