"""What a controller counts of itself, and whose its lines are."""

from pathlib import Path

from sqlalchemy import Engine

from optimizer.cluster.jobs import Told
from optimizer.counts import Counts
from optimizer.jobs import create_job
from optimizer.serve import Controller
from tests.integration.service.test_controller import Cluster, Lines


def test_a_controller_counts_its_looks_and_coordinators_and_whether_the_cluster_answers(database: Engine) -> None:
    cluster = Cluster()
    controller = Controller(database, cluster, Path("/url"), Lines(), most=2)  # type: ignore[arg-type]
    for name in ("one", "two"):
        create_job(database, name, {}, {}, "")
        controller.look()
    assert controller.counts == Counts(coordinators=2, cluster_up=True, looks=2, started=2, died=0)
    cluster.told[cluster.started[0]] = Told("ended", "killed")
    controller.look()
    assert (controller.counts.coordinators, controller.counts.died) == (1, 1)
    cluster.away = True
    controller.look()
    assert not controller.counts.cluster_up
