"""`mergeopt doctor` looks, and leaves nothing behind."""

from pathlib import Path

import pytest
import torch

from tests.e2e.commandline import Place
from tests.integration.small_job import make_shop, write_job


def test_doctor_makes_no_database_and_no_folder(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    torch.set_num_threads(1)
    shop = make_shop(tmp_path_factory.mktemp("shop"))
    file: Path = write_job(shop, place.folder)
    said = " ".join(place.run("doctor", file).stdout.split())
    assert "is not there yet; the first job makes it" in said
    assert "`small` can run: 10 baselines, examples: 30 search, 10 select, 30 test" in said
    assert [left.name for left in place.folder.iterdir()] == ["job.yaml"]
