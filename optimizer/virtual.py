"""Write closed-form merges as ordinary checkpoints, so that a search can mix them in as further experts.

A virtual expert minus the base is the task vector of TIES, Iso-C, RegMean or Fisher merging; its coefficient scales it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from merging.errors import MergeError
from merging.recipe import Recipe, Source

if TYPE_CHECKING:
    from merging.sources import Sources
    from merging.statistics import Statistics

Virtual = Literal["ties", "iso", "regmean", "fisher"]
VIRTUAL: tuple[Virtual, ...] = get_args(Virtual)
STATISTICS: dict[Virtual, Literal["gram", "fisher"]] = {"regmean": "gram", "fisher": "fisher"}
"""What a kind has to know of every expert; the others need no data."""

_FORMAT = 1  # of what is written: another number makes virtual experts anew
_METHOD = {"ties": "ties", "iso": "iso_c"}
_PAPER = {"regmean": "RegMean, arXiv 2212.09849", "fisher": "Fisher merging, arXiv 2111.09832"}


@dataclass(frozen=True)
class Calibration:
    """Where statistics come from: each expert's example ids, and what collects them into a file.

    `collect(expert)` is called only where the virtual expert is not there yet (see
    `optimizer.calibration.collect_statistics`).
    """

    examples: Mapping[str, Sequence[str]]
    collect: Callable[[str], Path]


def make_virtual(kind: Virtual, template: Recipe, folder: Path, calibration: Calibration | None = None) -> Source:
    """The virtual expert of a kind over the template's base and experts, in a folder of its own in `folder`.

    It is made once: complete or absent, by one process while others that want the same wait, and found again by what it
    was made from. Beside it stands `<name>.json`, which says that: kind, settings, fingerprints of the models,
    calibration examples, and the fingerprint of the result. Weights are cast once, to the dtype of the base.
    `template` must name no virtual experts and every model with its fingerprint; its own method, seed and dtype do not
    count.

    Raises `MergeError` where there is no base, a fingerprint or a calibration is missing, the models have changed, or
    the merge fails.
    """
    made_from = _made_from(kind, template, calibration)
    text = json.dumps(made_from, sort_keys=True)
    target = folder.resolve() / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target.with_name(f"{target.name}.lock")):
        found = _found(target, made_from)
        if found is None:
            _clear(target)
            _make(kind, template, target, calibration)
            found = _fingerprint(target)
            _write_json(_beside(target), {**made_from, "fingerprint": found})
    return Source(path=str(target), fingerprint=found)


def _made_from(kind: Virtual, template: Recipe, calibration: Calibration | None) -> dict[str, Any]:
    """All that decides about the bytes, as plain data. Raises `MergeError` where something is not said."""
    if template.base is None:
        raise MergeError(f"the virtual expert `{kind}` adds to a base, but there is none; name a `base`.")
    models = {"the base": template.base, **{f"`{name}`": source for name, source in template.experts.items()}}
    unknown = [name for name, source in models.items() if source.fingerprint is None]
    if unknown:
        raise MergeError(
            f"a virtual expert is made of models with fingerprints, but {', '.join(unknown)} have none; "
            "fill them in with `Sources.fingerprinted`."
        )
    return {
        "format": _FORMAT,
        "kind": kind,
        "settings": settings_of(kind),
        "base": template.base.fingerprint,
        "experts": {name: source.fingerprint for name, source in template.experts.items()},
        "order": list(template.experts),
        "unmerged": sorted(template.unmerged),
        "calibration": _calibrated_on(kind, template, calibration),
    }


def settings_of(kind: Virtual) -> dict[str, float]:
    """The canonical ones: a search does not choose them, it mixes what they give."""
    if kind == "ties":
        return {"density": 0.2, "weight": 1.0}
    if kind == "iso":
        return {"weight": 1.0}
    if kind == "regmean":
        from merging.methods.regmean import ALPHA, RIDGE

        return {"alpha": ALPHA, "ridge": RIDGE}
    return {}


def _calibrated_on(kind: Virtual, template: Recipe, calibration: Calibration | None) -> dict[str, Any]:
    if kind not in STATISTICS:
        return {}
    from merging.statistics import statistics_key

    lacking = [name for name in template.experts if calibration is None or not calibration.examples.get(name)]
    if calibration is None or lacking:
        raise MergeError(
            f"the virtual expert `{kind}` needs calibration examples of every expert, but {', '.join(lacking)} have "
            "none; give them, or leave it out."
        )
    return {
        name: {
            "examples": len(calibration.examples[name]),
            "key": statistics_key(STATISTICS[kind], str(source.fingerprint), calibration.examples[name]),
        }
        for name, source in template.experts.items()
    }


def _make(kind: Virtual, template: Recipe, target: Path, calibration: Calibration | None) -> None:
    from merging.sources import Sources

    sources = Sources(template)
    sources.verify()
    if kind in STATISTICS:
        _write_from_statistics(kind, template, sources, target, calibration)
        return
    from merging.folder import write_checkpoint

    settings = settings_of(kind)
    recipe = Recipe(
        method=_METHOD[kind],
        base=template.base,
        experts=template.experts,
        coefficients={group.name: (settings["weight"],) * len(template.experts) for group in sources.groups},
        structure={name: value for name, value in settings.items() if name != "weight"},
        unmerged=template.unmerged,
    )
    write_checkpoint(recipe, sources, target)


def _write_from_statistics(
    kind: Virtual, template: Recipe, sources: Sources, target: Path, calibration: Calibration | None
) -> None:
    from merging.closed_form import fisher_tensors, regmean_tensors, write_tensors

    statistics = _statistics(kind, template, calibration)
    tensors = regmean_tensors(sources, statistics) if kind == "regmean" else fisher_tensors(sources, statistics)
    facts = f"Made by mergeopt ({_PAPER[kind]}). `{_beside(target).name}` beside says of what."
    write_tensors(tensors, template, sources, target, f"# Virtual expert `{kind}`\n\n{facts}\n")


def _statistics(kind: Virtual, template: Recipe, calibration: Calibration | None) -> dict[str, Statistics]:
    """Collected, opened and found to be those asked for."""
    from merging.statistics import open_statistics

    wanted = _calibrated_on(kind, template, calibration)
    found = {}
    for name in template.experts:
        assert calibration is not None  # `_calibrated_on` has refused
        file = calibration.collect(name)
        found[name] = open_statistics(file)
        if (found[name].kind, found[name].key) != (STATISTICS[kind], wanted[name]["key"]):
            raise MergeError(
                f"{file}: must hold {STATISTICS[kind]} statistics of `{name}` on its calibration examples, but was "
                "made from another model or other examples; collect them again."
            )
    return found


def _found(target: Path, made_from: Mapping[str, Any]) -> str | None:
    """The fingerprint of the virtual expert that is there, None where it is not, or is not what was written."""
    try:
        said = json.loads(_beside(target).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(said, dict) or not target.is_dir():
        return None
    fingerprint = said.pop("fingerprint", None)
    if said != made_from:
        return None
    try:
        return fingerprint if fingerprint == _fingerprint(target) else None
    except ValueError:  # a folder that cannot be opened any more
        return None


def _fingerprint(target: Path) -> str:
    from merging.checkpoint import fingerprint, open_checkpoint

    return fingerprint(open_checkpoint(Source(path=str(target))))


def _clear(target: Path) -> None:
    """Remove what is not whole, or was changed since, and what a process left that was killed while writing."""
    for left in (target, *target.parent.glob(f".{target.name}.*.partial")):
        shutil.rmtree(left, ignore_errors=True)


def _beside(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    beside = file.with_name(f".{file.name}.partial")
    beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, file)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Inside, no other process of this node is; a process that dies inside lets the next one in."""
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
