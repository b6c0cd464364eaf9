"""The installed `mergeopt` in a folder of its own, and what it left in the database."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml
from optuna.trial import FrozenTrial, TrialState

from evaluators.protocol import Outcome, Split
from optimizer.database import open_database
from optimizer.evidence import Evidence
from optimizer.examples import read_ledger
from optimizer.jobs import Job, get_job
from optimizer.study import open_storage
from tests.conftest import Tiny

MERGEOPT = str(Path(sys.executable).with_name("mergeopt"))
SKILLS = ("reverse", "rotate", "dedupe")
TASKS = tuple(f"tiny_{skill}" for skill in SKILLS)
PATIENCE = 900  # Ray alone takes 40 s to start on a busy machine


def job_content(tiny: Tiny, name: str = "small", trials: int = 20, search_examples: int = 40) -> dict[str, Any]:
    """A small job on the tiny models. Its parents lie outside the space, so they are trials without parameters."""
    limit = {"search": search_examples, "select": 20, "test": 60}
    return {
        "name": name,
        "models": {"base": str(tiny.models / "base"), "experts": {skill: str(tiny.models / skill) for skill in SKILLS}},
        "space": {"granularity": "global", "bounds": [0.0, 0.5]},
        "evaluate": {
            "include_path": str(tiny.tasks),
            "tasks": [{"task": task, "metric": "exact_match", "limit": limit} for task in TASKS],
        },
        "search": {"engine": "tpe", "budget": {"trials": trials}, "seed": 1, "scales": [0.5]},
        "workers": {"count": 2, "cpus": 1},
    }


@dataclass
class Place:
    """A folder to work in, as a user would: the database and the jobs' folders appear in it.

    Every process started here belongs to a session of its own; Ray's processes stay in it, whoever adopts them.
    """

    folder: Path
    _sessions: list[int] = field(default_factory=list)

    @property
    def storage(self) -> str:
        """The command line's default database."""
        return f"sqlite:///{self.folder / 'mergeopt.db'}"

    def write(self, content: dict[str, Any], file: str = "job.yaml") -> Path:
        """A job file in the folder."""
        path = self.folder / file
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    def start(self, *arguments: str | Path, program: tuple[str, ...] = (MERGEOPT,)) -> subprocess.Popen[str]:
        """`mergeopt` with these arguments, on its way; or another program."""
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
        process = subprocess.Popen(
            [*program, *map(str, arguments)],
            cwd=self.folder,
            env={key: value for key, value in os.environ.items() if not key.startswith("MERGEOPT_")} | offline,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._sessions.append(process.pid)
        return process

    def run(
        self, *arguments: str | Path, code: int = 0, program: tuple[str, ...] = (MERGEOPT,)
    ) -> subprocess.CompletedProcess[str]:
        """`mergeopt` with these arguments, to its end, which must be this exit code."""
        return self.end(self.start(*arguments, program=program), code)

    def end(self, process: subprocess.Popen[str], code: int) -> subprocess.CompletedProcess[str]:
        """Wait for a started command, which must end with this exit code."""
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, f"{process.args!r} ended {process.returncode}, not {code}:\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def kill_all(self) -> None:
        """End whatever this place started and a failed test left behind."""
        for session in self._sessions:
            for process in processes_of(session):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def job(self, name: str = "small") -> Job:
        """The job's row."""
        database = open_database(self.storage)
        try:
            return get_job(database, name)
        finally:
            database.dispose()

    def trials(self, name: str = "small") -> list[FrozenTrial]:
        """The job's trials in order of number; none where its study is not there yet."""
        if not (self.folder / "mergeopt.db").exists():
            return []
        storage = open_storage(self.storage)
        try:
            return optuna.load_study(study_name=name, storage=storage).get_trials()
        except KeyError:
            return []
        finally:
            storage.engine.dispose()

    def outcomes(self, trial: int, split: Split, name: str = "small") -> dict[str, Outcome]:
        """What was recorded of a trial, by example id."""
        job, database = self.job(name), open_database(self.storage)
        try:
            found = Evidence(database, job.id, job.attempt, read_ledger(database, job.id)).outcomes(trial, split)
        finally:
            database.dispose()
        return {outcome.id: outcome for outcome in found or []}

    def wait_for(self, process: subprocess.Popen[str], reached: Callable[[], bool], what: str) -> None:
        """Look again and again until something is so, while the command is still at work."""
        deadline = time.monotonic() + PATIENCE
        while not reached():
            assert process.poll() is None, f"ended {process.returncode} before {what}:\n{process.communicate()[1]}"
            assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
            time.sleep(0.2)

    def wait_for_search(self, process: subprocess.Popen[str], told: int, name: str = "small") -> None:
        """Until so many trials of the search itself, not counting baselines, have been told."""
        self.wait_for(process, lambda: len(searched(self.trials(name))) >= told, f"{told} trials were told")


def processes_of(session: int) -> list[psutil.Process]:
    """The processes of a session that are alive; those only waiting to be collected are not."""
    return list(_living(session))


def _living(session: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def searched(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The engine's own trials that have a score."""
    return [trial for trial in told(trials) if trial.user_attrs.get("origin") == "search"]


def told(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that have a score."""
    return [trial for trial in trials if trial.state == TrialState.COMPLETE]


def kill_tree(process: subprocess.Popen[str]) -> None:
    """What the kernel does when memory runs out, only to all of them: nobody gets to say a last word."""
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)
    psutil.wait_procs(tree, timeout=60)
    process.communicate(timeout=60)
