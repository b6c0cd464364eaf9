"""The tables in a real database: made once, upgraded together, never taken back."""

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, select, text

from optimizer import schema
from optimizer.database import connect, open_database, writing
from optimizer.errors import InputError
from optimizer.jobs import create_job, get_job
from optimizer.tables import METADATA, PREFIX, DatabaseClock

TOGETHER = 6


def _open_at_once(url: str, barrier: Barrier) -> None:
    barrier.wait()
    create_job(open_database(url), multiprocessing.current_process().name, {}, {}, "")


def test_processes_that_start_together_on_an_empty_database_all_succeed(database_url: str) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["alembic.command", "psycopg", "optimizer.jobs"])
    barrier = context.Barrier(TOGETHER)
    started = [context.Process(target=_open_at_once, args=(database_url, barrier)) for _ in range(TOGETHER)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0] * TOGETHER
    with connect(database_url).connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM mergeopt_jobs")) == TOGETHER
        assert schema.revision(connection) == schema.HEAD


def test_the_migrations_make_exactly_the_tables_the_code_uses(database: Engine) -> None:
    with writing(database) as connection:
        options = {"version_table": schema.VERSION_TABLE, "compare_type": _as_stored, "include_name": _is_ours}
        migrations = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(migrations, METADATA) == []
        assert ScriptDirectory.from_config(schema.alembic_config(connection)).get_heads() == [schema.HEAD]
    for table in METADATA.tables.values():
        assert table.name.startswith(PREFIX)
        named = {constraint["name"] for constraint in inspect(database).get_unique_constraints(table.name)}
        assert {name for name in named if name} == {
            constraint.name for constraint in table.constraints if constraint.__visit_name__ == "unique_constraint"
        }


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Optuna's tables may stand in the same database."""
    return kind != "table" or (name or "").startswith(PREFIX)


def _as_stored(_context: object, _inspected: object, _column: object, found: object, wanted: object) -> bool:
    """Whether the types differ in what they are stored as: a `Moment` is a double."""
    stored = getattr(wanted, "impl_instance", wanted)
    return type(found)._type_affinity is not type(stored)._type_affinity  # type: ignore[attr-defined]


def test_a_database_that_a_newer_version_upgraded_is_refused_and_left_alone(database_url: str) -> None:
    engine = open_database(database_url)
    with writing(engine) as connection:
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(InputError, match=r"'9999'.*[Uu]pgrade mergeopt"):
        open_database(database_url)
    with engine.connect() as connection:
        assert schema.revision(connection) == "9999"


def test_an_upgrade_that_is_killed_half_way_leaves_nothing(database_url: str) -> None:
    engine = connect(database_url)

    def upgrade_and_die() -> None:
        with writing(engine) as connection:
            schema.upgrade(connection, "here")
            assert inspect(connection).has_table("mergeopt_jobs")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upgrade_and_die()
    assert inspect(engine).get_table_names() == []
    open_database(database_url)
    assert inspect(engine).has_table("mergeopt_jobs")


@pytest.mark.parametrize("first", ["optuna", "ours"])
def test_optuna_and_our_tables_live_in_one_database(database_url: str, first: str) -> None:
    import optuna

    if first == "ours":
        create_job(open_database(database_url), "kept", {}, {}, "")
    url = connect(database_url).url.render_as_string(hide_password=False)
    optuna.create_study(storage=url, study_name="a study")
    engine = open_database(database_url)
    if first == "optuna":
        create_job(engine, "kept", {}, {}, "")
    assert optuna.load_study(storage=url, study_name="a study").trials == []
    assert get_job(open_database(database_url), "kept").state == "queued"


def test_the_database_clock_is_the_time_of_day(database: Engine) -> None:
    with database.connect() as connection:
        assert connection.scalar(select(DatabaseClock())) == pytest.approx(time.time(), abs=5)


def test_sqlite_writes_ahead_and_waits_for_others(tmp_path: Path) -> None:
    with open_database(str(tmp_path / "a.db")).connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 1
        assert connection.scalar(text("PRAGMA busy_timeout")) == 30_000
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
