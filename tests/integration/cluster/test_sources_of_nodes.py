"""Each node finds a job's models for itself; one that has other models, or none, is named and does no harm."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from merging.checkpoint import fingerprint, open_checkpoint
from merging.recipe import Source
from optimizer.cluster import Patience
from optimizer.errors import JobFailed
from tests.integration.cluster.clerks import Reader, SlowReader, plan_of, pool_of, unit, until
from tests.integration.cluster.conftest import Town

COMMIT = "0123456789abcdef0123456789abcdef01234567"
QUICK = Patience(pause=1, longest_pause=2)


def write_model(folder: Path, value: float) -> Path:
    folder.mkdir(parents=True)
    save_file({"model.layers.0.mlp.weight": torch.full((4, 4), value)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return folder


def write_hub_cache(home: Path, value: float) -> Path:
    """A home of the Hub's client in which `ada/north` has been downloaded."""
    repository = home / "hub" / "models--ada--north"
    write_model(repository / "snapshots" / COMMIT, value)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return home


def environment(folder: Path, **settings: Any) -> dict[str, str]:
    """That of a node with a cache of its own for hashes."""
    return {"XDG_CACHE_HOME": str(folder), "HF_HUB_OFFLINE": "1", **{name: str(one) for name, one in settings.items()}}


def test_a_node_takes_hub_models_from_its_own_cache_and_one_whose_model_differs_is_named(
    town: Town, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right, wrong = (write_hub_cache(tmp_path / name, value) for name, value in (("right", 1.0), ("wrong", 2.0)))
    snapshot = right / "hub" / "models--ada--north" / "snapshots" / COMMIT
    known = fingerprint(open_checkpoint(Source(path=str(snapshot))), tmp_path / "hashes")
    plan = plan_of(north=Source(path="ada/north", revision=COMMIT, fingerprint=known))
    with (
        caplog.at_level(logging.WARNING, "optimizer.cluster"),
        town.node(num_cpus=4, env_vars=environment(tmp_path / "one", HF_HOME=right)) as agrees,
    ):
        others = pool_of(1, cpus=3)
        until(others, lambda _: others.idle() == 1)
        with town.node(num_cpus=8, env_vars=environment(tmp_path / "two", HF_HOME=wrong)) as differs:
            pool = pool_of(1, plan=plan, worker=Reader, patience=Patience())  # Ray takes the emptier node first
            until(pool, lambda _: pool.idle() == 1)
            (said,) = [line for line in caplog.messages if "a worker did not start" in line]
            assert f"Ray's node {differs.node_id[:8]}" in said
            assert f"must have fingerprint {known[:16]}, but have" in said
            pool.submit(unit("first"))
            (answer,) = until(pool, bool)
            assert answer.scored is not None
            assert answer.scored["node"] == agrees.node_id


def test_workers_that_start_nowhere_fail_the_job_with_the_node_and_the_reason(town: Town, tmp_path: Path) -> None:
    with town.node(num_cpus=2, env_vars=environment(tmp_path)) as node:
        pool = pool_of(1, plan=plan_of(north=Source(path=str(tmp_path / "gone"))), worker=Reader, patience=QUICK)
        with pytest.raises(JobFailed, match=r"workers do not start, \d in a row failed") as failed:
            until(pool, lambda _: False)
        assert f"Ray's node {node.node_id[:8]}" in str(failed.value)
        assert f"{tmp_path / 'gone'}: there is no such folder" in str(failed.value)


def test_a_worker_that_starts_nowhere_is_tried_again_while_others_are_at_work(
    town: Town, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "later"
    known = fingerprint(open_checkpoint(Source(path=str(write_model(tmp_path / "model", 1.0)))), tmp_path / "hashes")
    right = write_hub_cache(tmp_path / "right", 1.0)
    plan = plan_of(north=Source(path="ada/north", fingerprint=known))
    with (
        caplog.at_level(logging.WARNING, "optimizer.cluster"),
        town.node(num_cpus=1, env_vars=environment(tmp_path / "one", HF_HOME=right)),
    ):
        pool = pool_of(2, plan=plan, worker=Reader, patience=QUICK)
        until(pool, lambda _: pool.idle() == 1)
        with town.node(num_cpus=1, env_vars=environment(tmp_path / "two", HF_HOME=home)):
            until(pool, lambda _: caplog.text.count("a worker did not start") >= 3)  # a job would fail
            pool.submit(unit("meanwhile"))
            (answer,) = until(pool, bool)
            assert answer.scored is not None
            write_hub_cache(home, 1.0)
            until(pool, lambda _: pool.idle() == 2)


def test_workers_that_start_together_on_a_node_hash_its_models_once(town: Town, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", 1.0)
    known = fingerprint(open_checkpoint(Source(path=str(model))), tmp_path / "hashes")
    with town.node(num_cpus=2, env_vars=environment(tmp_path / "node", REMEMBERED=tmp_path / "remembered")):
        plan = plan_of(north=Source(path=str(model), fingerprint=known))
        pool = pool_of(2, plan=plan, worker=SlowReader)
        until(pool, lambda _: pool.idle() == 2)
    assert (tmp_path / "remembered").read_text() == "hashes.json\n"
