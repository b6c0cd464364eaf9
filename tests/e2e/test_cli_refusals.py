"""A refused command ends with exit code 2 and one message, and leaves no job behind."""

import json
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimizer.database import open_database
from tests.e2e.commandline import Place
from tests.integration.small_job import EXPERTS, WEIGHTS, Shop, make_shop, write_job


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    torch.set_num_threads(1)
    return make_shop(tmp_path_factory.mktemp("shop"))


def refused(place: Place, *arguments: str | Path) -> str:
    """What the command says as it is refused. Nothing on standard output, no traceback, no job, no folder."""
    ended = place.run(*arguments, code=2)
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert "mergeopt: " in ended.stderr
    assert not (place.folder / "mergeopt-jobs").exists()
    assert _rows(place.folder / "mergeopt.db") == 0
    return ended.stderr.partition("mergeopt: ")[2]


def _rows(file: Path) -> int:
    if not file.exists():
        return 0
    with sqlite3.connect(file) as connection:
        count: int = connection.execute("SELECT count(*) FROM mergeopt_jobs").fetchone()[0]
    return count


@pytest.mark.parametrize("command", ["run", "submit"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"search.buget": {"trials": 3}}, "unknown key `search.buget`; did you mean `budget`?"),
        ({"search.engine": "cma"}, "there is no engine `cma`; did you mean `cma-es`?"),
        ({"method": "slerp"}, "`slerp` must have at most 2 experts, but has 3"),
        ({"models.experts.west": "./nowhere"}, "nowhere: there is no such folder"),
    ],
    ids=["misspelt key", "unknown engine", "three experts for slerp", "missing model"],
)
def test_a_wrong_job_file(place: Place, shop: Shop, command: str, changes: dict[str, Any], said: str) -> None:
    assert said in refused(place, command, write_job(shop, place.folder, changes))


def test_a_misspelt_key_is_refused_before_a_database_is_made(place: Place, shop: Shop) -> None:
    refused(place, "run", write_job(shop, place.folder, {"serch": {}}))
    assert [file.name for file in place.folder.iterdir()] == ["job.yaml"]


def test_a_model_with_a_broken_weight(place: Place, shop: Shop) -> None:
    damaged = shop.copy(place.folder)
    weights = damaged.models / "west" / WEIGHTS
    tensors = load_file(weights)
    tensors["model.norm.weight"][5] = float("inf")
    save_file(tensors, weights)
    said = refused(place, "run", write_job(damaged, place.folder))
    assert "weights must be finite, but 1 tensors hold NaN or infinity, first model.norm.weight" in said


@pytest.mark.parametrize(
    "command", [("jobs",), ("show", "any"), ("serve", "--once"), ("run", "job.yaml")], ids=" ".join
)
def test_a_database_server_that_is_not_there(place: Place, shop: Shop, command: tuple[str, ...]) -> None:
    write_job(shop, place.folder)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    said = refused(place, *command, "--storage", f"postgresql://someone:hidden@127.0.0.1:{port}/jobs")
    assert "Check that the server runs" in said
    assert "hidden" not in said


def test_a_file_that_is_no_database(place: Place, shop: Shop) -> None:
    file = place.folder / "notes.txt"
    file.write_text("Somebody's notes, and no database.\n" * 50)
    said = refused(place, "run", write_job(shop, place.folder), "--storage", str(file))
    assert "file is not a database" in said
    assert file.read_text().startswith("Somebody's notes")


def test_a_database_of_a_newer_version(place: Place) -> None:
    open_database(place.storage).dispose()
    with sqlite3.connect(place.folder / "mergeopt.db") as connection:
        connection.execute("UPDATE mergeopt_alembic_version SET version_num = '9999'")
    assert "a newer mergeopt has upgraded them. Upgrade mergeopt here" in refused(place, "jobs")


def test_a_merge_into_a_folder_that_exists(place: Place, shop: Shop) -> None:
    recipe = place.folder / "recipe.yaml"
    experts = {name: str(shop.models / name) for name in EXPERTS}
    recipe.write_text(json.dumps({"method": "linear", "experts": experts, "weights": dict.fromkeys(EXPERTS, 0.3)}))
    (place.folder / "there").mkdir()
    assert "the target must not exist, but does" in refused(place, "merge", recipe, "there")
    assert list((place.folder / "there").iterdir()) == []


def test_a_command_or_option_that_does_not_exist(place: Place) -> None:
    for arguments in (("rum", "job.yaml"), ("jobs", "--jsn"), ("show",)):
        ended = place.run(*arguments, code=2)
        assert ended.stdout == ""
        assert "Usage: mergeopt" in ended.stderr
