"""Prometheus metrics of a service, at `/metrics` of a port of its controller.

What jobs do is read from the database when somebody asks, so that every controller says the same of them; what the
controller does it counts itself (`Counts`). A database that does not answer is a metric like the others: the page comes
within seconds whatever happens. Only running jobs have series of their own.
"""

import errno
import logging
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from optimizer.counts import Counts
from optimizer.errors import InputError
from optimizer.lease import LEASE_SECONDS
from optimizer.overview import Reader, RunningJob, Seen, impatient
from optimizer.tables import STATES

TRIAL_STATES = ("running", "waiting", "complete", "pruned", "fail")
_REQUESTS = ("cancel", "pause")
_RETRYING = "optimizer.database"  # whose warnings are retries


@dataclass(eq=False)
class _OfJobs(Collector):
    reader: Reader

    def collect(self) -> Iterable[Metric]:
        """One page's metrics, as `Collector.collect`."""
        seen = self.reader.latest()
        yield GaugeMetricFamily("mergeopt_database_up", "Whether the database answers.", float(seen is not None))
        if seen is not None:
            yield from _of_service(seen)
            yield from _of_running(seen.running)


def _of_service(seen: Seen) -> Iterator[Metric]:
    states = GaugeMetricFamily("mergeopt_jobs", "Jobs by state.", labels=["state"])
    for state in STATES:
        states.add_metric([state], seen.states.get(state, 0))
    yield states
    yield GaugeMetricFamily("mergeopt_queue_jobs", "Jobs that wait for a controller.", seen.queued)
    yield GaugeMetricFamily("mergeopt_queue_oldest_seconds", "How long the one that waits longest has.", seen.oldest)
    requests = GaugeMetricFamily("mergeopt_requests_open", "Running jobs asked to stop.", labels=["request"])
    for request in _REQUESTS:
        requests.add_metric([request], seen.requests.get(request, 0))
    yield requests


def _of_running(running: Iterable[RunningJob]) -> Iterator[Metric]:
    def gauge(name: str, says: str, *further: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"mergeopt_job_{name}", says, labels=["job", *further])

    def counter(name: str, says: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"mergeopt_job_{name}", says, labels=["job"])

    attempts, deaths = gauge("attempts", "Attempts so far."), gauge("deaths", "Of these, fruitless ones in a row.")
    age, left = (
        gauge("lease_age_seconds", "Since the coordinator last showed itself."),
        gauge("lease_left_seconds", "Until another may take the job; negative where one may."),
    )
    trials = gauge("trials", "Trials by state.", "state")
    scored = counter("examples", "Examples scored.")
    seconds = counter("scoring_seconds", "Seconds that workers spent on these, all of them together.")
    for job in running:
        attempts.add_metric([job.name], job.attempt)
        deaths.add_metric([job.name], job.deaths)
        age.add_metric([job.name], LEASE_SECONDS - job.lease_left)
        left.add_metric([job.name], job.lease_left)
        for state in TRIAL_STATES:
            trials.add_metric([job.name, state], job.trials.get(state, 0))
        scored.add_metric([job.name], job.scored)
        seconds.add_metric([job.name], job.seconds)
    yield from (attempts, deaths, age, left, trials, scored, seconds)


@dataclass(eq=False)
class _OfController(Collector):
    counts: Counts
    retries: "_Retries"

    def collect(self) -> Iterable[Metric]:
        """One page's metrics, as `Collector.collect`."""
        own, name = self.counts, "mergeopt_controller_"
        yield GaugeMetricFamily(f"{name}cluster_up", "Whether the cluster answers.", float(own.cluster_up))
        yield GaugeMetricFamily(f"{name}coordinators", "Started here and under way.", own.coordinators)
        yield CounterMetricFamily(f"{name}coordinators_started", "Coordinators started here.", own.started)
        yield CounterMetricFamily(f"{name}coordinators_died", "Of these, ended without a word.", own.died)
        yield CounterMetricFamily(f"{name}looks", "Looks at queue and coordinators, one a second.", own.looks)
        yield CounterMetricFamily(
            f"{name}database_retries", "Times that a call was repeated since the database was away.", self.retries.count
        )


class _Retries(logging.Handler):
    """Counts the retries that `optimizer.database` logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """A retry more, as `logging.Handler.emit`."""
        self.count += record.name == _RETRYING


@contextmanager
def metrics_page(url: str, host: str, port: int, counts: Counts) -> Iterator[int]:
    """Serve metrics while the block lasts; the port is that it got where 0 was asked for.

    Raises `InputError` where the host is none of this machine's addresses, or the port cannot be used.
    """
    engine = impatient(url)
    retries = _Retries()
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_OfController(counts, retries))
    registry.register(_OfJobs(Reader(engine)))
    try:
        if not host:  # which would be all addresses
            raise socket.gaierror(socket.EAI_NONAME, "no name at all")
        server: Any = make_server(host, port, make_wsgi_app(registry), server_class=_Server, handler_class=_Quiet)
    except (OSError, UnicodeError) as error:
        raise InputError(_unusable(host, port, error)) from error
    database = logging.getLogger(_RETRYING)
    database.addHandler(retries)
    thread = threading.Thread(target=server.serve_forever, name="metrics page", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        database.removeHandler(retries)
        engine.dispose()


def _unusable(host: str, port: int, error: OSError | UnicodeError) -> str:
    said = getattr(error, "strerror", None) or str(error)
    if isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL:
        return (
            f"--metrics-host must be a name or an IPv4 address of this machine, but is {host!r} ({said}); leave it out "
            "for 127.0.0.1, or take 0.0.0.0 for all its addresses."
        )
    return (
        f"Metrics need a port that is free, but {port} of {host} cannot be used ({said}); choose another with "
        "--metrics-port."
    )


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 16


class _Quiet(WSGIRequestHandler):
    timeout = 10  # whoever connects and says nothing keeps a thread for so long

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing of every page that is read."""
