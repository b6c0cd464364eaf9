"""A Hub id is found in the local cache while offline, and a missing one is refused."""

import shutil
from pathlib import Path

import pytest

from merging.checkpoint import CheckpointError, open_checkpoint
from merging.recipe import Source

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache with one repository in it, laid out as huggingface_hub does: links from a snapshot into blobs."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    repository = tmp_path / "hub" / "models--someone--tiny"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "refs" / "v1").write_text(COMMIT)
    (repository / "blobs").mkdir()
    for file in (zoo / "base").iterdir():
        shutil.copy(file, repository / "blobs" / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    return repository


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_a_cached_repository_is_opened_while_offline(hub: Path, revision: str | None) -> None:
    found = open_checkpoint(Source(path="someone/tiny", revision=revision))
    assert found.from_hub
    assert found.folder == hub / "snapshots" / COMMIT
    assert "model.norm.weight" in found.names


@pytest.mark.usefixtures("hub")
def test_a_local_folder_wins_over_a_repository(zoo: Path) -> None:
    shutil.copytree(zoo / "reverse", "someone/tiny")
    found = open_checkpoint(Source(path="someone/tiny"))
    assert not found.from_hub
    assert found.folder == Path("someone/tiny")


@pytest.mark.parametrize("source", [Source(path="someone/absent"), Source(path="someone/tiny", revision="v9")])
@pytest.mark.usefixtures("hub")
def test_what_is_neither_folder_nor_cached_is_refused_while_offline(source: Source) -> None:
    with pytest.raises(CheckpointError, match=f"{source.path}: there is no such folder, and the Hub gives no such"):
        open_checkpoint(source)
