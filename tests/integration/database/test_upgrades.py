"""A database that an older version has written: upgraded with all it holds, on a server only when somebody says so."""

import pytest
from alembic import command
from sqlalchemy import Engine, text

from optimizer import schema
from optimizer.database import connect, open_database, writing
from optimizer.errors import InputError
from optimizer.jobs import claim, get_job
from optimizer.outcomes import scored_count
from optimizer.owners import new_owner

JOB = """
INSERT INTO mergeopt_jobs
(id, name, spec, plan, folder, state, cancel_requested, attempt, created_at, submitted_by, write_id)
VALUES (:id, :name, '{"name": "old"}', '{}', 'out', :state, :asked, 1, 1.5, 'ada', :name)
"""
OUTCOME = """
INSERT INTO mergeopt_outcomes
(job_id, trial, split, round, attempt, digest, n, seconds, worker, created_at, write_id, blob)
VALUES (7, 0, 'search', 0, 1, 'd', 5, 1.0, 'w', 1.0, 'x', :blob)
"""


def _written_by(version: str, url: str) -> Engine:
    """A database at this revision with a job that has recorded something, and one that was asked to stop."""
    old = connect(url)
    with writing(old) as connection:
        command.upgrade(schema.alembic_config(connection), version)
        connection.execute(text(JOB), {"id": 7, "name": "kept", "state": "interrupted", "asked": False})
        connection.execute(text(JOB), {"id": 8, "name": "asked", "state": "running", "asked": True})
        connection.execute(text(OUTCOME), {"blob": b""})
    return old


@pytest.mark.parametrize("version", ["0001", "0002"])
def test_an_older_database_keeps_its_jobs_and_what_they_recorded(database_url: str, version: str) -> None:
    _written_by(version, database_url)
    new = open_database(database_url, upgrade=True)
    kept = get_job(new, "kept")
    assert (kept.id, kept.spec, kept.state, kept.served, kept.priority, kept.deaths) == (
        7,
        {"name": "old"},
        "interrupted",
        True,
        0,
        0,
    )
    assert scored_count(new, 7) == {"search": 5}
    assert get_job(new, "asked").request == "cancel"
    assert claim(new, "kept", new_owner(), 600.0).attempt == 2


def test_what_refers_to_a_job_still_does_after_an_upgrade(database_url: str) -> None:
    _written_by("0002", database_url)
    new = open_database(database_url, upgrade=True)
    with pytest.raises(Exception, match=r"(?i)foreign key"), writing(new) as connection:
        connection.execute(text("DELETE FROM mergeopt_jobs WHERE id = 7"))


def test_an_older_database_on_a_server_is_left_alone_until_somebody_upgrades_it(
    database_url: str,
) -> None:
    _written_by("0002", database_url)
    if database_url.startswith("sqlite"):
        open_database(database_url)  # a file belongs to whoever opens it
        return
    with pytest.raises(InputError, match=rf"'{schema.HEAD}', but are at '0002'.*mergeopt db upgrade"):
        open_database(database_url)
    with connect(database_url).connect() as connection:
        assert schema.revision(connection) == "0002"
