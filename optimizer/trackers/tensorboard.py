"""Report a search as TensorBoard's event files, in the job's folder; tensorboardX's only home.

Look at them with `tensorboard --logdir mergeopt-jobs`. tensorboardX writes the same files as TensorBoard's own package
and is a hundredth of its size.
"""

import struct
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from optimizer.trackers.protocol import Run, Told

FOLDER = "tensorboard"
MARK = "trial/failed"  # every told trial has this figure
_FLUSH_SECONDS = 10


def open_tracker(run: Run) -> "EventFiles":
    """Begin a new event file beside those of earlier attempts."""
    return EventFiles(run)


class EventFiles:
    """One attempt's event file."""

    def __init__(self, run: Run) -> None:
        folder = run.folder / FOLDER
        self._before = _numbers(folder)
        # The file's name has only seconds in it: an attempt that follows at once would write over the one before.
        self._writer = SummaryWriter(str(folder), flush_secs=_FLUSH_SECONDS, filename_suffix=f".{uuid.uuid4().hex[:8]}")
        if not self._before:
            rows = "\n".join(f"| {name} | {value} |" for name, value in run.settings.items())
            self._writer.add_text("job", f"| setting | value |\n| --- | --- |\n{rows}")

    def reported(self) -> set[int]:
        """Read back from the event files of earlier attempts."""
        return self._before

    def trial(self, told: Told) -> None:
        """One point in each curve."""
        for name, value in told.figures.items():
            self._writer.add_scalar(name, value, told.number, walltime=told.at.timestamp())

    def done(self, figures: Mapping[str, float]) -> None:
        """The final figures as curves of one point."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, 0)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def _numbers(folder: Path) -> set[int]:
    """The steps at which the folder's event files have a trial."""
    found = set()
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for record in _records(file):
            event = Event.FromString(record)
            if any(value.tag == MARK for value in event.summary.value):
                found.add(event.step)
    return found


def _records(file: Path) -> Iterator[bytes]:
    """The file's whole records: a length and its check sum, the content and its check sum.

    A writer that was killed may have left half a record at the end.
    """
    with file.open("rb") as stream:
        while len(head := stream.read(12)) == 12:
            (length,) = struct.unpack("<Q", head[:8])
            body = stream.read(length + 4)
            if len(body) < length + 4:
                return
            yield body[:length]
