"""What the licences of a merge's parents mean for the merge: said in the card, and before it is pushed anywhere.

Not legal advice, and not complete: it names what a reader of the parents' cards would have to notice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# the Hub's identifiers: https://huggingface.co/docs/hub/repositories-licenses
PERMISSIVE = (
    "apache-2.0",
    "mit",
    "bsd",
    "bsd-2-clause",
    "bsd-3-clause",
    "bsd-3-clause-clear",
    "isc",
    "zlib",
    "unlicense",
    "cc0-1.0",
    "pddl",
    "wtfpl",
    "cc-by-2.0",
    "cc-by-2.5",
    "cc-by-3.0",
    "cc-by-4.0",
    "afl-3.0",
    "artistic-2.0",
    "bsl-1.0",
    "ms-pl",
    "ecl-2.0",
    "postgresql",
    "ncsa",
)
COPYLEFT = ("gpl", "lgpl", "agpl", "mpl", "epl", "eupl", "osl", "cc-by-sa", "odbl", "gfdl", "lppl", "ofl", "c-uda")
FORBIDS_CHANGES = "-nd"
NON_COMMERCIAL = ("-nc", "cc-by-nc", "intel-research", "lgpl-lr", "fair-noncommercial-research-license")
USE_BASED = ("openrail", "bigscience", "bigcode", "creativeml")
OWN_TERMS = ("llama", "gemma", "deepfloyd", "apple-ascl", "apple-amlr", "grok2-community", "h-research", "etalab")
UNSTATED = (None, "", "unknown", "other")


@dataclass(frozen=True)
class Licences:
    """`merged` is the identifier that the merge's card may carry; `warnings` a sentence for each thing to notice."""

    merged: str | None
    warnings: tuple[str, ...]


def licence_of(folder: Path) -> str | None:
    """The licence that a model's own card declares, None where it declares none that can be read."""
    from huggingface_hub.repocard import metadata_load

    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        declared = (metadata_load(card) or {}).get("license")
    except Exception:  # the front matter is a stranger's YAML; one that cannot be read declares nothing
        return None
    return declared if isinstance(declared, str) else None


def licences_of(parents: Mapping[str, Path]) -> Licences:
    """What follows from what the cards in the parents' folders declare."""
    return judged({name: licence_of(folder) for name, folder in parents.items()})


def judged(parents: Mapping[str, str | None]) -> Licences:
    """What follows from the parents' licences, by parent's name in the recipe's order.

    One licence for all is the merge's. Permissive ones give way to the one other licence there is. Several others, or
    one that is not stated, leave the merge without: somebody has to read them.
    """
    stated = {name: one.lower() for name, one in parents.items() if one is not None and one not in UNSTATED}
    unstated = [name for name in parents if name not in stated]
    found = list(dict.fromkeys(stated.values()))
    strict = [one for one in found if one not in PERMISSIVE]
    warnings = [*_each(stated), *_together(stated, strict)]
    if unstated:
        warnings.append(f"No licence is stated for {_names(unstated)}; ask its authors before you pass the merge on.")
    if unstated or len(strict) > 1 or not found:
        return Licences(None, tuple(warnings))
    if len(found) == 1 or strict:
        return Licences((strict or found)[0], tuple(warnings))
    return Licences(None, (*warnings, f"The parents are under {', '.join(found)}; keep the notices of each."))


def _each(stated: Mapping[str, str]) -> list[str]:
    warnings = []
    for name, one in stated.items():
        if FORBIDS_CHANGES in one:
            warnings.append(f"`{name}` is under {one}, which forbids to pass on changed versions: a merge is one.")
        if any(mark in one for mark in NON_COMMERCIAL):
            warnings.append(f"`{name}` is under {one}: the merge must not be used commercially.")
        if any(one.startswith(mark) or mark in one for mark in USE_BASED):
            warnings.append(f"`{name}` is under {one}: its restrictions of use pass to the merge and must be repeated.")
        if any(one.startswith(mark) for mark in OWN_TERMS):
            warnings.append(f"`{name}` is under terms of its own ({one}), which pass to the merge; read them.")
    return warnings


def _together(stated: Mapping[str, str], strict: list[str]) -> list[str]:
    copyleft = [one for one in strict if any(one.startswith(mark) for mark in COPYLEFT)]
    if not copyleft:
        return []
    others = [one for one in strict if one != copyleft[0]]
    if others:
        return [
            f"{copyleft[0]} asks that the whole be under {copyleft[0]}, but {_under(stated, others)}; these may not be "
            "mixed."
        ]
    holder = next(name for name, one in stated.items() if one == copyleft[0])
    return [f"`{holder}` is under {copyleft[0]}: the merge must be passed on under it too."]


def _under(stated: Mapping[str, str], licences: list[str]) -> str:
    return ", ".join(f"`{name}` is under {one}" for name, one in stated.items() if one in licences)


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
