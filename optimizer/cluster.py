"""Workers as Ray actors: the only place that knows Ray."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from optimizer.errors import InputError, JobFailed
from optimizer.pool import Answer, Unit
from optimizer.spec import Workers

_log = logging.getLogger(__name__)

STARTS = 3  # in a row that may fail before a worker is given up
_START_SECONDS = 600  # a worker that has not come up by then will not: imports, model load, a busy machine


@dataclass
class _Actor:
    """One worker process: its handle, and what it is doing. `ready` is the reference its start-up resolves."""

    name: str
    handle: Any
    ready: Any
    since: float
    unit: Unit | None = None
    reference: Any = None


class RayPool:
    """A fixed number of worker actors; a lost one is replaced by a fresh one.

    Actors are never restarted by Ray: a replacement is a new actor, so that "lost" and "ready again" cannot be
    confused, and a unit is re-issued by the coordinator alone.
    """

    def __init__(self, job: dict[str, Any], plan: dict[str, Any], workers: Workers) -> None:
        self._setup = (job, plan)
        self._workers = workers
        self._started = 0
        self._failed_starts = 0
        self._actors = [self._start() for _ in range(workers.count)]

    def idle(self) -> int:
        """How many workers have come up and have nothing to do."""
        return sum(actor.ready is None and actor.unit is None for actor in self._actors)

    def submit(self, unit: Unit) -> None:
        """Hand a unit to an idle worker. Raises `RuntimeError` where none is idle."""
        for actor in self._actors:
            if actor.ready is None and actor.unit is None:
                actor.unit, actor.since = unit, time.monotonic()
                asked = unit.recipe, list(unit.ids)
                if unit.statistics is not None:
                    actor.reference = actor.handle.statistics.remote(list(unit.ids), **unit.statistics)
                elif unit.scales is None:
                    actor.reference = actor.handle.score.remote(*asked)
                else:
                    actor.reference = actor.handle.gradient.remote(*asked, unit.scales)
                return
        raise RuntimeError("no worker is idle; ask idle() first")

    def wait(self, seconds: float) -> list[Answer]:
        """The units that ended within `seconds`. Workers that died are replaced on the way.

        Raises `JobFailed` where workers cannot be started at all.
        """
        import ray

        pending = [actor.ready or actor.reference for actor in self._actors if actor.ready or actor.reference]
        if not pending:
            time.sleep(seconds)
            return []
        done, _ = ray.wait(pending, num_returns=1, timeout=seconds)
        if done:  # one has ended: take with it whatever else has ended by now
            done, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
        answers = [answer for actor in list(self._actors) for answer in self._settle(actor, done)]
        return answers + self._cut_off_overdue()

    def _settle(self, actor: _Actor, done: list[Any]) -> Iterator[Answer]:
        import ray

        if actor.ready is not None and actor.ready in done:
            try:
                ray.get(actor.ready)
            except ray.exceptions.RayError as error:
                self._start_failed(actor, error)
            else:
                actor.ready, self._failed_starts = None, 0
        elif actor.reference is not None and actor.reference in done:
            unit, reference = actor.unit, actor.reference
            assert unit is not None
            actor.unit = actor.reference = None
            try:
                yield Answer(unit, ray.get(reference), actor.name)
            except ray.exceptions.RayTaskError as error:
                # The worker's own code raised: it may be in any state, so it is not trusted with another unit.
                self._replace(actor)
                yield Answer(unit, None, actor.name, lost=_last_line(error))
            except ray.exceptions.RayError as error:
                self._replace(actor)
                yield Answer(unit, None, actor.name, lost=_last_line(error))

    def _cut_off_overdue(self) -> list[Answer]:
        """Kill workers over the time limit; Ray cannot interrupt a running actor method in any other way."""
        limit, now, answers = self._workers.minutes_per_trial * 60, time.monotonic(), []
        for actor in list(self._actors):
            if actor.ready is not None and now - actor.since > _START_SECONDS:
                self._start_failed(actor, TimeoutError(f"a worker did not start within {_START_SECONDS} s"))
            elif actor.unit is not None and now - actor.since > limit:
                unit = actor.unit
                self._replace(actor)
                answers.append(Answer(unit, None, actor.name, lost=f"took longer than {limit:g} s"))
        return answers

    def _start(self) -> _Actor:
        import ray

        from optimizer.worker import Worker

        self._started += 1
        threads = max(1, int(self._workers.cpus))
        handle: Any = (
            ray.remote(Worker)
            .options(
                num_cpus=self._workers.cpus,
                num_gpus=self._workers.gpus,
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"env_vars": _worker_environment(threads)},
            )
            .remote(*self._setup, threads)
        )
        return _Actor(f"worker-{self._started}", handle, handle.__ray_ready__.remote(), time.monotonic())

    def _replace(self, actor: _Actor) -> None:
        import ray

        with contextlib.suppress(Exception):  # it may be dead already
            ray.kill(actor.handle, no_restart=True)
        self._actors[self._actors.index(actor)] = self._start()

    def _start_failed(self, actor: _Actor, error: Exception) -> None:
        self._failed_starts += 1
        if self._failed_starts < STARTS:
            self._replace(actor)
        elif any(other.ready is None for other in self._actors):
            _log.warning("going on with one worker less, which does not start: %s", _last_line(error))
            self._actors.remove(actor)
        else:
            raise JobFailed(f"workers do not start, {STARTS} in a row failed; the last one said: {_last_line(error)}")


def _worker_environment(threads: int) -> dict[str, str]:
    """Threads spin on shared cores; everything else about models and caches is taken from this process."""
    passed_on = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HOME", "TRANSFORMERS_OFFLINE")
    kept = {name: os.environ[name] for name in passed_on if name in os.environ}
    return {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", **kept}


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def cluster(address: str | None, workers: Workers) -> Iterator[None]:
    """Connect to the Ray cluster at `address`, or start a local one for as long as the block lasts.

    Raises `InputError` where the address cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves workers on a shared machine
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        # ray.init would put a handler of its own in place of ours, and what that raises can be lost inside Ray
        ray._private.utils.set_sigterm_handler = lambda _handler: None
        if address is None:
            cores = max(os.cpu_count() or 1, int(workers.count * workers.cpus + 0.999))
            ray.init(address="local", include_dashboard=False, num_cpus=cores, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = address or "this machine"
        raise InputError(
            f"Ray cannot be reached or started on {where}: {error}. Check --address, or leave it out for a local one."
        ) from error
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Ray prints what happens to its workers; ours is for results
            yield
    finally:
        ray.shutdown()


def describe_cluster(address: str | None) -> str:
    """What the cluster offers, in words. Raises `InputError` where it cannot be reached or started."""
    with cluster(address, Workers()):
        import ray

        library: Any = ray  # these two carry no types
        resources = library.cluster_resources()
        nodes = sum(node["Alive"] for node in library.nodes())
    where = address or "a local cluster"
    return f"{where}: {nodes} node(s), {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
