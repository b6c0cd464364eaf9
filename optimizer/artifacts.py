"""Small pictures of a job, kept in the job database.

Coordinator and dashboard often share nothing but the database: they run on different machines, in containers without
a common volume. So that is where pictures are, a few tens of kilobytes for a job, backed up with everything else.
Optuna's own list of a study's artifacts says what there is; this table has the bytes.
"""

import json
import uuid
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

import optuna
from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy import Engine, delete, insert, select

from optimizer.database import writing
from optimizer.jobs import require_lease
from optimizer.tables import DatabaseClock
from optimizer.tables import artifacts as table

SVG = "image/svg+xml"
LARGEST = 256 * 1024  # bytes; a picture that needs more is drawn too finely
_OF_STUDY, _OF_TRIAL = "artifacts:{}", "dashboard:artifacts:{}:{}"  # Optuna's key; the dashboard's, for trials told


@dataclass(frozen=True)
class Artifacts:
    """The pictures of a database, as Optuna's artifact store: what the dashboard reads and may remove."""

    database: Engine

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The picture's bytes. Raises Optuna's `ArtifactNotFound` where there is none of that id."""
        with self.database.connect() as connection:
            content = connection.scalar(select(table.c.content).where(table.c.id == artifact_id))
        if content is None:
            raise ArtifactNotFound(f"there is no artifact {artifact_id} in this database.")
        return BytesIO(zlib.decompress(content))

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:  # noqa: ARG002 - Optuna's signature
        """Refused: whatever was uploaded here would be served to everybody who looks."""
        raise PermissionError("artifacts are drawn by mergeopt; this store takes no others.")

    def remove(self, artifact_id: str) -> None:
        """Forget the picture, if it is there."""
        with writing(self.database) as connection:
            connection.execute(delete(table).where(table.c.id == artifact_id))


@dataclass(frozen=True)
class Album:
    """The pictures of one job, as its holder draws them. Drawing one again replaces it, under the same address."""

    database: Engine
    study: optuna.Study
    job_id: int
    attempt: int

    def show(self, name: str, svg: str, trial_id: int | None = None) -> str:
        """Keep a picture and list it with the study, or with one of its trials, finished or not.

        `name` is what people see, and what tells the job's pictures apart. Returns the picture's address on the
        dashboard. Raises `LeaseLost` where this attempt does not hold the job any more, ValueError for one too large.
        """
        content = svg.encode()
        if len(content) > LARGEST:
            raise ValueError(f"a picture must have at most {LARGEST:,} bytes, but `{name}` has {len(content):,}.")
        study_id = self.study._study_id
        artifact = str(uuid.uuid5(uuid.NAMESPACE_URL, f"mergeopt/{self.job_id}/{trial_id}/{name}"))
        row = {"id": artifact, "job_id": self.job_id, "content": zlib.compress(content, 9)}
        with writing(self.database) as connection:  # first, so that what is listed is there
            require_lease(connection, self.job_id, self.attempt)
            connection.execute(delete(table).where(table.c.id == artifact))
            connection.execute(insert(table).values(**row, created_at=DatabaseClock()))
        entry = {"artifact_id": artifact, "filename": f"{name}.svg", "mimetype": SVG, "encoding": None}
        key = _OF_STUDY.format(artifact) if trial_id is None else _OF_TRIAL.format(trial_id, artifact)
        self.study._storage.set_study_system_attr(study_id, key, json.dumps(entry))
        return f"/artifacts/{study_id}/" + (artifact if trial_id is None else f"{trial_id}/{artifact}")
