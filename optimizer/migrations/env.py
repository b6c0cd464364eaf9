"""Run the steps on the connection that `optimizer.schema` hands over; Alembic executes this file."""

from alembic import context

from optimizer.schema import VERSION_TABLE
from optimizer.tables import METADATA, PREFIX


def _ours(name: str | None, kind: str, _parents: object) -> bool:
    """Optuna's tables stand in the same database and are not ours to compare, let alone to drop."""
    return kind != "table" or (name or "").startswith(PREFIX)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    include_name=_ours,
    # SQLite can change a column only by copying the table.
    render_as_batch=True,
    # True of SQLite as well, because `optimizer.database` begins its transactions itself.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
