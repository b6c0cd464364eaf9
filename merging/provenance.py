"""Where a merged model comes from, as a file that programs read: sources with hashes, recipe, versions."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merging.checkpoint import Checkpoint, file_hashes, fingerprint, hash_weights
from merging.licences import licence_of, licences_of
from merging.recipe import Recipe
from merging.sources import Sources
from merging.threads import processors

PROVENANCE_FILE = "mergeopt_provenance.json"
_LIBRARIES = ("mergeopt", "torch", "safetensors", "transformers")


def provenance(recipe: Recipe, sources: Sources, cache: Path | None = None) -> str:
    """The manifest as JSON text. It has no date and no path: the same merge has the same manifest on every machine.

    `sources` are opened for the recipe; hashes of their files are remembered in `cache` (see `merging.hash_cache`).
    """
    base, experts = sources.chosen(recipe)
    parents = {**({"base": base} if base is not None else {}), **experts}
    return manifest(parents, {"digest": recipe.digest(), "method": recipe.method}, cache)


def manifest(parents: Mapping[str, Checkpoint], facts: Mapping[str, Any], cache: Path | None = None) -> str:
    """As `provenance`, of any merge: `facts` say how it was made from its parents."""
    hash_weights(parents.values(), processors(), cache)
    licences = licences_of({name: parent.folder for name, parent in parents.items()})
    content = {
        "format": 1,
        **facts,
        "sources": {name: _source(parent, cache) for name, parent in parents.items()},
        "licence": licences.merged,
        "licence_warnings": list(licences.warnings),
        "versions": {**_versions(), "python": platform.python_version()},
    }
    return json.dumps(content, indent=2) + "\n"


def _source(parent: Checkpoint, cache: Path | None) -> dict[str, Any]:
    return {
        "model": parent.source.shown(parent.folder, parent.from_hub),
        "from_hub": parent.from_hub,
        "revision": parent.source.revision,
        "licence": licence_of(parent.folder),
        "fingerprint": fingerprint(parent, cache),
        "files": file_hashes(parent, cache),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout, or without transformers
            continue
    return found
