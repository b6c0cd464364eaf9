"""One attempt at a job, as a process of its own: what a controller starts on the cluster.

    python -m optimizer.coordinate JOB_ID ATTEMPT FILE

FILE holds the database's URL. The process takes the lease over from the controller, carries the job out, and ends with
0 where the job's row says how that went: done, failed, given back, taken by another. Any other end is a death.
"""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optimizer import logs
from optimizer.database import open_database
from optimizer.errors import InputError, JobFailed
from optimizer.joblog import JobLog
from optimizer.jobs import LeaseLost, adopt, record_death
from optimizer.lease import LEASE_SECONDS
from optimizer.owners import new_owner
from optimizer.progress import PlainLines
from optimizer.scorer import Interrupted

if TYPE_CHECKING:
    from optimizer.run import Place

PAUSES = (0.0, 5.0, 20.0, 60.0)


def pause_after(deaths: int) -> float:
    """How many seconds a job rests after so many deaths in a row, this one included."""
    return PAUSES[min(deaths, len(PAUSES) - 1)]


def coordinate(job_id: int, attempt: int, url: str, place: "Place | None" = None) -> None:
    """Carry out this attempt, which a controller has claimed. Raises whatever leaves the job without an end.

    Without a `place`, that is the Ray cluster which this process was started on.
    """
    from optimizer.run import Place, run_claimed

    database, owner = open_database(url, patience=60.0), new_owner()
    job = adopt(database, job_id, attempt, owner, LEASE_SECONDS)
    logs.set_up(service=True)  # again: the search's libraries have brought ways of their own
    logs.all_about(job=job.name)
    with JobLog(database, job_id, attempt, PlainLines()).open() as log:
        try:
            run_claimed(database, url, job, owner, place or Place("auto", "queued", shared=True), log)
            log.say(f"Job `{job.name}` is done")
        except Interrupted as stopped:
            log.say(f"Job `{job.name}` stopped ({stopped.reason})")
        except LeaseLost as lost:
            log.say(str(lost))
        except JobFailed as failed:  # the row says so too
            log.say(f"Job `{job.name}` did not end well: {failed}")
        except Exception as error:  # such as a cluster that was away as this began: tried again, but not for ever
            for line in [str(error)] if isinstance(error, InputError) else traceback.format_exc().splitlines():
                log.say(line)
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            record_death(database, job_id, attempt, reason, pause_after(job.deaths + 1))


def main(arguments: Sequence[str]) -> None:
    """The command."""
    job_id, attempt, file = arguments
    url = Path(file).read_text(encoding="utf-8").strip()
    logs.set_up(service=True)
    logs.hide_password(url)
    logs.all_about(job_id=int(job_id), attempt=int(attempt))
    coordinate(int(job_id), int(attempt), url)


if __name__ == "__main__":
    main(sys.argv[1:])
