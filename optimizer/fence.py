"""Refuse what an attempt that lost its job still wants to write into Optuna's tables.

Our own tables check the attempt in each transaction (`optimizer.jobs.require_lease`). Optuna knows nothing of leases,
so its transactions are stopped on their way to the database: one that has written anything asks, before it is
committed, whether the attempt still holds the job, and locks the job's row against claims until it ends.
"""

import re
from typing import Any

from sqlalchemy import Connection, Engine, event

from optimizer.jobs import require_lease

_WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE)\b", re.IGNORECASE)
_WROTE = "mergeopt_wrote"


def fence(storage: Engine, job_id: int, attempt: int) -> None:
    """From now on, no transaction of this engine commits a change unless the attempt holds the job.

    What is refused is raised as `LeaseLost` where the transaction would have been committed.
    """

    def written(
        connection: Connection, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool
    ) -> None:
        if _WRITES.match(statement):
            connection.info[_WROTE] = True

    def committed(connection: Connection) -> None:
        if connection.info.pop(_WROTE, False):
            require_lease(connection, job_id, attempt)

    def rolled_back(connection: Connection) -> None:
        connection.info.pop(_WROTE, None)

    event.listen(storage, "before_cursor_execute", written)
    event.listen(storage, "commit", committed)
    event.listen(storage, "rollback", rolled_back)
