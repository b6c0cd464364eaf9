"""Nodes join and leave while a pool of workers is at work."""

import logging
from pathlib import Path

import pytest

from optimizer.cluster import Patience
from tests.integration.cluster.clerks import pool_of, still, unit, until
from tests.integration.cluster.conftest import Town


def test_a_worker_waits_for_a_node_as_long_as_it_takes_and_the_log_says_what_for(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "optimizer.cluster"), town.node(num_cpus=1):
        pool = pool_of(1, cpus=2, patience=Patience(prepare=2, between_words=3))
        assert "no node could hold a worker of this job, which takes 2 CPUs, 0 GPUs, 0.0 GiB" in caplog.text
        assert still(pool, 8) == []  # four times as long as it may take to get ready
        assert pool.idle() == 0
        waiting = [line for line in caplog.messages if line.startswith("waiting for room")]
        assert 1 <= len(waiting) <= 2
        assert "no node offers 2 CPUs, 0 GPUs, 0.0 GiB of memory; the cluster has 2 nodes with 1 CPUs" in waiting[0]
        with town.node(num_cpus=2) as joined:
            until(pool, lambda _: pool.idle() == 1)
            pool.submit(unit("first"))
            (answer,) = until(pool, bool)
            assert answer.scored is not None
            assert answer.scored["node"] == joined.node_id


def test_a_unit_on_a_node_that_is_killed_is_given_back_and_another_node_answers_it(town: Town, tmp_path: Path) -> None:
    with town.node(num_cpus=2) as first:
        pool = pool_of(2, cpus=1)
        until(pool, lambda _: pool.idle() == 2)
        pool.submit(unit("lost", began=tmp_path / "began", until=tmp_path / "go"))
        until(pool, lambda _: (tmp_path / "began").exists())
        with town.node(num_cpus=2) as second:
            town.kill(first)
            (lost,) = until(pool, bool)
            assert (lost.unit.key, lost.scored) == ("lost", None)
            assert lost.lost
            assert pool.idle() == 0  # the other worker of that node is gone too
            (tmp_path / "go").touch()
            until(pool, lambda _: pool.idle() == 2)
            pool.submit(lost.unit)
            pool.submit(unit("another"))
            answers = until(pool, lambda answers: len(answers) == 2)
            assert [answer.scored and answer.scored["node"] for answer in answers] == [second.node_id] * 2


def test_a_pool_grows_and_shrinks_and_nothing_under_way_is_lost(town: Town, tmp_path: Path) -> None:
    with town.node(num_cpus=3):
        pool = pool_of(3, cpus=1)
        until(pool, lambda _: pool.idle() == 3)
        for key in ("one", "two"):
            pool.submit(unit(key, until=tmp_path / key))
        pool.resize(1)
        assert pool.idle() == 0  # the one that had nothing to do has ended
        (tmp_path / "one").touch()
        (tmp_path / "two").touch()
        answers = until(pool, lambda answers: len(answers) == 2)
        assert sorted(answer.unit.key for answer in answers if answer.scored) == ["one", "two"]
        assert pool.idle() == 1
        pool.resize(4)  # one more than there is room for
        until(pool, lambda _: pool.idle() == 3)
        for key in ("three", "four", "five"):
            pool.submit(unit(key, until=tmp_path / "go"))
        pool.resize(3)  # the one that waits for room goes first
        (tmp_path / "go").touch()
        answers = until(pool, lambda answers: len(answers) == 3)
        assert all(answer.scored for answer in answers)
        assert pool.idle() == 3
        pool.resize(0)  # never below one
        assert pool.idle() == 1


def test_workers_are_put_where_their_memory_fits(town: Town) -> None:
    gib = 2**30
    with town.node(num_cpus=8, memory=3 * gib) as first, town.node(num_cpus=8, memory=3 * gib) as second:
        pool = pool_of(3, memory=2 * gib, cpus=1)
        until(pool, lambda _: pool.idle() == 2)
        assert still(pool, 3) == []
        assert pool.idle() == 2  # the third would not fit beside another
        for key in ("one", "two"):
            pool.submit(unit(key))
        answers = until(pool, lambda answers: len(answers) == 2)
        assert {answer.scored and answer.scored["node"] for answer in answers} == {first.node_id, second.node_id}
