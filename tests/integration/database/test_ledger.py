"""`mergeopt ledger` says which examples a job has, and who looked at them."""

import json
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from optimizer.cli import app
from optimizer.database import open_database
from optimizer.events import log_event
from optimizer.examples import LedgerEntry, ledger_hash, write_ledger
from optimizer.gradients import record_gradient
from optimizer.jobs import claim, create_job, get_job
from optimizer.ledger import CALIBRATED, TEST_OPENED, job_ledger, ledger_json
from optimizer.outcomes import Columns, record_outcomes

ENTRIES = [
    LedgerEntry(f"{task}:{split}{index}", task, split)
    for task, many in (("math", 1), ("code", 2))
    for split, count in (("gradient", 2), ("search", 3), ("select", 1), ("test", 2))
    for index in range(count * many)
]


def _a_job(database: Engine) -> None:
    """Two search trials, one of them in two rounds; one gradient batch in two shards; the test split opened twice."""
    create_job(database, "demo", {}, {}, "")
    job = claim(database, "demo", "another-machine:1:abc", 600.0)
    write_ledger(database, job.id, ENTRIES)

    def score(trial: int, split: str, round: int, n: int) -> None:
        positions = [index for index, entry in enumerate(ENTRIES) if entry.split == split][:n]
        columns = Columns(np.array(positions, np.int32), np.ones(n))
        record_outcomes(
            database, job.id, job.attempt, trial=trial, split=split, round=round, digest="d", columns=columns,
            seconds=1.0, worker="w",
        )  # fmt: skip

    score(0, "search", 0, 9)
    score(1, "search", 0, 4)
    score(1, "search", 1, 2)
    score(1, "select", 0, 3)
    for shard in (0, 1):
        record_gradient(
            database, job.id, job.attempt, number=0, shard=shard, digest="d", positions=[0, 1], losses=[1.0, 1.0],
            rows={"head": [0.5]}, seconds=1.0, worker="w",
        )  # fmt: skip
    log_event(database, job.id, TEST_OPENED)
    score(1, "test", 0, 6)
    log_event(database, job.id, TEST_OPENED)


def test_every_split_says_its_examples_and_who_looked_at_them(database: Engine) -> None:
    _a_job(database)
    found = job_ledger(database, get_job(database, "demo"))
    assert found.hash == ledger_hash(ENTRIES)
    by = {one.split: one for one in found.splits}
    assert list(by) == ["gradient", "search", "select", "test"]
    assert by["search"].tasks == {"math": 3, "code": 6}
    assert by["gradient"].looked_at == {"gradient batches": 1}
    assert by["search"].looked_at == {"search trials": 2}
    assert by["select"].looked_at == {"finalists": 1}
    assert by["test"].looked_at == {"test openings": 2, "models": 1}
    assert [(one.rounds, one.scored) for one in found.splits] == [(2, 4), (3, 15), (1, 3), (1, 6)]
    for one in found.splits:
        assert one.first is not None
        assert one.last is not None
        assert one.first <= one.last
        assert one.hash == ledger_hash(entry for entry in ENTRIES if entry.split == one.split)
    assert by["test"].last > by["select"].last  # type: ignore[operator]


def test_a_job_that_was_not_started_was_looked_at_by_nobody(database: Engine) -> None:
    job = create_job(database, "demo", {}, {}, "")
    write_ledger(database, job.id, ENTRIES)
    found = job_ledger(database, get_job(database, "demo"))
    assert [(one.rounds, one.scored, one.first, one.last) for one in found.splits] == [(0, 0, None, None)] * 4
    assert sum(one.examples for one in found.splits) == len(ENTRIES)
    json.dumps(ledger_json(found))


def test_examples_that_experts_were_calibrated_on_were_looked_at(database: Engine) -> None:
    _a_job(database)
    job = get_job(database, "demo")
    before, *_ = job_ledger(database, job).splits
    log_event(database, job.id, CALIBRATED, {"virtual": "regmean", "examples": 6, "efe": 8})
    gradient, search, _, test = job_ledger(database, job).splits
    assert gradient.looked_at == {"gradient batches": 1, "virtual experts": 1}
    assert (gradient.rounds, gradient.scored) == (before.rounds, before.scored + 6)
    assert gradient.last is not None
    assert before.last is not None
    assert gradient.last > before.last
    assert search.looked_at == {"search trials": 2}
    assert test.looked_at == {"test openings": 2, "models": 1}


def test_another_order_task_or_split_is_another_ledger() -> None:
    whole = ledger_hash(ENTRIES)
    assert ledger_hash(iter(ENTRIES)) == whole
    assert ledger_hash(ENTRIES[::-1]) != whole
    assert ledger_hash(ENTRIES[:-1]) != whole
    first = ENTRIES[0]
    for other in (LedgerEntry(first.id, "x", first.split), LedgerEntry(first.id, first.task, "test")):
        assert ledger_hash([other, *ENTRIES[1:]]) != whole


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_plain_text_and_json(tmp_path: Path, as_json: bool) -> None:
    url = f"sqlite:///{tmp_path}/mergeopt.db"
    database = open_database(url)
    _a_job(database)
    database.dispose()
    found = CliRunner().invoke(app, ["ledger", "demo", "--storage", url, *(["--json"] if as_json else [])])
    assert found.exit_code == 0, found.output
    if as_json:
        data = json.loads(found.output)
        assert data["splits"]["search"]["scored"] == 15
        assert data["hash"] == ledger_hash(ENTRIES)
        return
    assert "\x1b" not in found.output
    assert max(map(len, found.output.splitlines())) <= 80
    for text in ("1 gradient batch ", "2 search trials", "2 test openings, 1 model", ledger_hash(ENTRIES)[:40]):
        assert text in found.output


def test_openings_are_counted_under_the_name_that_a_run_logs_them_by() -> None:
    from optimizer import run

    assert run.TEST_OPENED == TEST_OPENED
