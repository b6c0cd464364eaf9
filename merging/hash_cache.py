"""Remember hashes of large files for as long as nothing about the file on disk has changed."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

_one_thread = Lock()
_here: dict[Path, dict[str, dict[str, Any]]] = {}  # of caches that cannot be written, what this process has computed


def user_cache() -> Path:
    """`$XDG_CACHE_HOME/mergeopt/hashes.json`, under `~/.cache` where that is not set."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "mergeopt" / "hashes.json"


def remembered(file: Path, kind: str, compute: Callable[[], Any], cache: Path | None = None) -> Any:
    """`compute()`, or what it gave last time for this file as it still is. The value must be JSON.

    Two processes may write at once: one of the new entries is then lost and computed again, never mixed up.
    """
    return remembered_together(file, (kind,), lambda: {kind: compute()}, cache)[kind]


def remembered_together(
    file: Path, kinds: Sequence[str], compute: Callable[[], Mapping[str, Any]], cache: Path | None = None
) -> dict[str, Any]:
    """As `remembered`, of several values that are computed at once where one of them is not known."""
    cache = cache or user_cache()
    real = file.resolve()
    stat = real.stat()
    # the change time and the inode too: a copy that keeps the old modification time is another file
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    entry = _read(cache).get(str(real), {})
    if entry.get("stamp") == stamp and all(kind in entry for kind in kinds):
        return {kind: entry[kind] for kind in kinds}
    values = dict(compute())
    with _one_thread:
        entries = _read(cache)
        kept = entries.get(str(real), {})
        entries[str(real)] = {**(kept if kept.get("stamp") == stamp else {}), "stamp": stamp, **values}
        _write(cache, entries)
    return {kind: values[kind] for kind in kinds}


def _read(cache: Path) -> dict[str, dict[str, Any]]:
    """What is remembered. A file that cannot be read is an empty one: all in it can be computed again."""
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return dict(_here.get(cache, {}))
    if not isinstance(content, dict):
        return {}
    return {path: entry for path, entry in content.items() if isinstance(entry, dict)}


def _write(cache: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Replace the file in one step. A place that cannot be written costs time in another process, and does no harm."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=cache.parent, prefix=cache.name)
    except OSError:
        _here[cache] = entries
        return
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(entries, stream)
        os.replace(temporary, cache)
    except OSError:
        _here[cache] = entries
        Path(temporary).unlink(missing_ok=True)
