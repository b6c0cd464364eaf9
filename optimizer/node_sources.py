"""Open a job's models on this node: found there, downloaded if need be, and hashed once for all workers."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from merging.hash_cache import user_cache

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from merging.sources import Sources


def open_sources(template: "Recipe") -> "Sources":
    """The template's models as this node has them: shared folders, or the Hub's in this node's own cache.

    Workers that start together take turns: the first downloads and hashes, the others find its files in the Hub's cache
    and its hashes in ours (`merging.hash_cache`). Raises `MergeError` where a model is missing or is another one.
    """
    from merging.sources import Sources

    with _taking_turns(template):
        sources = Sources(template)
        sources.verify()
    return sources


@contextmanager
def _taking_turns(template: "Recipe") -> Iterator[None]:
    """Inside, no other process with this cache opens these models. Without a place for a lock nobody waits."""
    models = [*([template.base] if template.base is not None else []), *template.experts.values()]
    content = json.dumps([model.model_dump(mode="json") for model in models], sort_keys=True)
    folder = user_cache().parent / "opening"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / hashlib.sha256(content.encode()).hexdigest()[:32], os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:  # a home that cannot be written to, where hashes are not remembered either
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # closing gives it back, and so does the end of the process
        yield
    finally:
        os.close(lock)
