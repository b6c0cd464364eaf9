"""Many processes over many jobs, some killed, some asleep: every job ends once, by its last holder."""

import multiprocessing
import os
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from optimizer.database import open_database
from optimizer.jobs import LeaseLost, create_job, finish, get_job
from optimizer.outcomes import Columns, read_outcomes, record_outcomes, scored_count
from optimizer.owners import new_owner
from optimizer.queue import claim_next, list_jobs

WORKERS, JOBS, ROUNDS, KILLS = 8, 40, 3, 8
LEASE = 1.0
EXAMPLES = Columns(np.arange(5, dtype=np.int32), np.ones(5))


def _work(url: str, diary: str, seed: int) -> None:
    """Claim and finish jobs until all are done; write down each one finished."""
    engine, owner, rng = open_database(url), new_owner(), random.Random(seed)
    page = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        job = claim_next(engine, owner, LEASE)
        if job is None:
            if len(list_jobs(engine, "done")) == JOBS:
                return
            time.sleep(0.2)
            continue
        try:
            for round in range(ROUNDS):
                _score(engine, job.id, job.attempt, round)
                # Now and then a holder sleeps through its lease and wakes up as a zombie.
                time.sleep(1.3 * LEASE if rng.random() < 0.04 else rng.uniform(0.0, 0.1))
            finish(engine, job.id, job.attempt, "done", result={"attempt": job.attempt})
            os.write(page, f"{job.name} {job.attempt}\n".encode())
        except LeaseLost:
            continue


def _score(engine: Engine, job_id: int, attempt: int, round: int) -> None:
    record_outcomes(
        engine,
        job_id,
        attempt,
        trial=0,
        split="search",
        round=round,
        digest="d",
        columns=EXAMPLES,
        seconds=0.0,
        worker="w",
    )


def test_every_job_ends_once_by_its_last_holder_however_many_workers_are_killed(
    database_url: str, tmp_path: Path
) -> None:
    database = open_database(database_url)
    for number in range(JOBS):
        create_job(database, f"job-{number}", {}, {}, "")
    diary = tmp_path / "diary"
    workers = [_start(database_url, diary, seed) for seed in range(WORKERS)]
    rng = random.Random(0)
    for kill in range(KILLS):
        victim = _busy(database, workers, rng)
        victim.kill()
        victim.join()
        workers.append(_start(database_url, diary, WORKERS + kill))
    for worker in workers:
        worker.join(60)
    assert sorted(worker.exitcode or 0 for worker in workers) == [-9] * KILLS + [0] * WORKERS
    _check(database, [tuple(line.split()) for line in diary.read_text().splitlines()])


def _check(database: Engine, finished: list[tuple[str, ...]]) -> None:
    jobs = [get_job(database, listed.id) for listed in list_jobs(database)]
    assert [job.state for job in jobs] == ["done"] * JOBS
    assert any(job.attempt > 1 for job in jobs)
    last = {job.name: str(job.attempt) for job in jobs}
    # A worker killed between finishing and writing it down leaves a gap; nobody may leave a second line.
    assert len(finished) == len({name for name, _ in finished})
    assert len(finished) >= JOBS - KILLS
    assert all(last[name] == attempt for name, attempt in finished)
    for job in jobs:
        assert job.result == {"attempt": job.attempt}
        assert [row.round for row in read_outcomes(database, job.id)] == list(range(ROUNDS))
        assert scored_count(database, job.id) == {"search": 5 * ROUNDS}


def _start(url: str, diary: Path, seed: int) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["alembic.command", "psycopg", "optimizer.outcomes"])
    process = context.Process(target=_work, args=(url, str(diary), seed))
    process.start()
    return process


def _busy(database: Engine, workers: list[BaseProcess], rng: random.Random) -> BaseProcess:
    """A worker that holds a job right now."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(rng.uniform(0.02, 0.1))
        holders = {job.owner.split(":")[1] for job in list_jobs(database, "running") if job.owner}
        busy = [worker for worker in workers if worker.is_alive() and str(worker.pid) in holders]
        if busy:
            return rng.choice(busy)
    pytest.fail("no worker claimed a job for 30 s")
