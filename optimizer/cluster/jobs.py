"""Coordinators as jobs of Ray: start one, ask how it does, stop it."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from optimizer.cluster.joining import join_ray

Standing = Literal["under way", "ended", "unknown"]


class RayAway(Exception):
    """The cluster does not answer just now."""


@dataclass(frozen=True)
class Told:
    """How a coordinator does, and what Ray says about its end."""

    standing: Standing
    message: str = ""


@dataclass
class RayJobs:
    """The job facility of one cluster. What it starts runs on this machine's own node of the cluster."""

    url: str
    node: str
    address: str
    _client: Any = None

    def start(self, name: str, entrypoint: str) -> None:
        """Start a command as the job `name`; nothing happens where one of that name was started before.

        Raises `RayAway` where the cluster does not answer.
        """
        command = f"env RAY_ADDRESS={self.address} {entrypoint}"  # else it is whichever cluster this machine has
        here = {f"node:{self.node}": 0.001}  # where this machine's files are
        with _answers():
            try:
                self._at().submit_job(entrypoint=command, submission_id=name, entrypoint_resources=here)
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise

    def ping(self) -> None:
        """Return where the cluster answers. Raises `RayAway` where it does not."""
        with _answers():
            self._at().get_version()

    def ask(self, name: str) -> Told:
        """How the job does; `unknown` where Ray has no such job (it forgets them all when its head dies)."""
        with _answers():
            try:
                info = self._at().get_job_info(name)
            except RuntimeError as error:
                if "404" in str(error):
                    return Told("unknown", "Ray knows nothing of it: its head was started anew")
                raise
        message, _, _log = (info.message or "").partition(", last available logs")
        return Told("ended" if info.status.is_terminal() else "under way", message)

    def log(self, name: str) -> str:
        """What the job has printed, as far as its node still is there."""
        try:
            return str(self._at().get_job_logs(name))
        except Exception:  # a help for people, not worth an error
            return ""

    def stop(self, name: str) -> None:
        """Ask the job to end (SIGTERM, later SIGKILL); nothing happens where there is none."""
        with contextlib.suppress(RayAway, RuntimeError), _answers():
            self._at().stop_job(name)

    def _at(self) -> Any:
        from ray.job_submission import JobSubmissionClient

        if self._client is None:
            self._client = JobSubmissionClient(self.url)
        return self._client


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    try:
        yield
    except (ConnectionError, OSError, TimeoutError) as error:
        raise RayAway(str(error)) from error
    except RuntimeError as error:
        passing = ("No available agent", *(f"status code {code}" for code in (500, 502, 503, 504)))
        if any(sign in str(error) for sign in passing):
            raise RayAway(str(error)) from error
        raise


@contextlib.contextmanager
def ray_jobs(address: str | None) -> Iterator[RayJobs]:
    """The job facility of the cluster at `address`, or of a local one that lasts as long as the block.

    This process stays no part of a cluster that it did not start. Raises `InputError` where the address cannot be
    reached, and where this machine is no node of that cluster.
    """
    os.environ.setdefault("RAY_JOB_STOP_WAIT_TIME_S", "20")
    import ray

    library: Any = ray
    known = join_ray(address, include_dashboard=True, num_cpus=max(2, os.cpu_count() or 1)).address_info
    found = RayJobs(f"http://{known['webui_url']}", library.util.get_node_ip_address(), known["gcs_address"])
    if address is not None:
        library.shutdown()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield found
    finally:
        if address is None:
            library.shutdown()
