"""A job over models from the Hub loads the very commits that were there when it was submitted, on every node."""

from pathlib import Path

import pytest
import yaml

from merging.sources import Sources
from optimizer.preflight import preflight
from optimizer.spec import read_job_file
from tests.integration.small_job import job_content, make_shop

FIRST, SECOND = "1" * 40, "2" * 40


def _cached(hub: Path, name: str, folder: Path, commit: str) -> None:
    """Put a folder into the Hub's cache as this commit, and have `main` name it."""
    repository = hub / f"models--ada--{name}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        (snapshot / file.name).symlink_to(file)


def test_a_branch_that_moves_after_submission_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    hub = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    shop = make_shop(tmp_path)
    _cached(hub, "north", shop.models / "north", FIRST)
    content = job_content(shop)
    content["models"]["experts"]["north"] = "ada/north"
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(content))

    template = preflight(read_job_file(file), tmp_path / "job").plan.template
    assert template.experts["north"].revision == FIRST
    assert template.experts["south"].revision is None

    _cached(hub, "north", shop.models / "west", SECOND)
    sources = Sources(template)
    sources.verify()
    assert sources.experts["north"].folder.name == FIRST
