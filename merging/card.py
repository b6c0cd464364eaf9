"""Write a merged model's card: what it was made from, and what it scored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from merging.checkpoint import Checkpoint, file_hashes, fingerprint, hash_weights
from merging.licences import Licences, licence_of, licences_of
from merging.methods import METHODS
from merging.recipe import Recipe
from merging.sources import Sources
from merging.threads import processors

ScoreRow = tuple[str, float, float, float]
"""name, mean, low, high"""


def model_card(
    recipe: Recipe,
    sources: Sources,
    scores: Sequence[ScoreRow] = (),
    text: str = "",
    title: str = "Merged model",
    cache: Path | None = None,
) -> str:
    """The README.md of an export: Hub metadata, recipe, hashes of every source, and scores if there are any.

    `text` is Markdown that stands under the scores. Parents that are local folders have no Hub id and are
    left out of the metadata, not out of the text. Hashes every source (remembered in `cache`).
    """
    base, experts = sources.chosen(recipe)
    parents = {**({"base": base} if base is not None else {}), **experts}
    method = METHODS[recipe.method]
    licences = licences_of({name: parent.folder for name, parent in parents.items()})
    parts = [
        f"---\n{metadata(list(parents.values()), licences.merged)}\n---",
        f"# {title}",
        f"Merged by mergeopt with `{method.name}`: {method.summary} ({method.paper})",
        *([_scores(scores)] if scores else []),
        *([text.strip()] if text.strip() else []),
        _recipe(recipe),
        lineage(parents, cache),
        *([licence_notes(licences)] if licences.warnings else []),
    ]
    return "\n\n".join(parts) + "\n"


def metadata(parents: Sequence[Checkpoint], licence: str | None) -> str:
    """The front matter of a card, YAML without its fences."""
    from huggingface_hub import ModelCardData

    facts: dict[str, Any] = {**_library(parents[0]), "tags": ["mergeopt", "merge"]}
    ids = list(dict.fromkeys(parent.source.path for parent in parents if parent.from_hub))
    if ids:
        facts |= {"base_model": ids, "base_model_relation": "merge"}
    if licence is not None:
        facts["license"] = licence
    return str(ModelCardData(**facts).to_yaml()).strip()


def _library(parent: Checkpoint) -> dict[str, str]:
    """The library that loads the model, where its config tells."""
    if parent.is_transformers:
        return {"library_name": "transformers"}
    return {"library_name": "diffusers"} if "_diffusers_version" in parent.config else {}


def _scores(scores: Sequence[ScoreRow]) -> str:
    rows = [(name, f"{mean:.4f}", f"{low:.4f} to {high:.4f}") for name, mean, low, high in scores]
    return "## Scores\n\n" + _table(("", "mean", "interval"), rows)


def _recipe(recipe: Recipe) -> str:
    names = METHODS[recipe.method].coefficients(tuple(recipe.experts))
    rows = {group: tuple(f"{value:.6g}" for value in row) for group, row in recipe.coefficients.items()}
    if len(dict.fromkeys(rows.values())) == 1:
        table = _table(("group", *names), [("all", *next(iter(rows.values())))])
    else:
        table = _table(("group", *names), [(group, *row) for group, row in rows.items()])
    settings = ", ".join(_setting(key, value) for key, value in recipe.structure.items()) or "defaults"
    facts = f"Settings: {settings}. Seed: {recipe.seed}. Digest: `{recipe.digest()}`."
    if recipe.path is not None:
        facts += f" Layers of the result: {', '.join(one.in_words() for one in recipe.path)}."
    if recipe.unmerged:
        facts += f" Not merged but taken from one model: {', '.join(recipe.unmerged)}."
    return f"## Recipe\n\n{facts} `mergeopt_recipe.json` holds it in full.\n\n{table}"


def _setting(key: str, value: object) -> str:
    """A setting in words; of a folder on somebody's disk its own name."""
    return f"{key} {Path(str(value)).name if key == 'statistics' else value}"


def lineage(parents: dict[str, Checkpoint], cache: Path | None) -> str:
    """The section that names every parent and the hashes of its files (remembered in `cache`)."""
    hash_weights(parents.values(), processors(), cache)
    models = [
        (
            name,
            parent.source.shown(parent.folder, parent.from_hub),
            parent.source.revision or "",
            licence_of(parent.folder) or "",
            fingerprint(parent, cache),
        )
        for name, parent in parents.items()
    ]
    files = [
        (name, file, digest) for name, parent in parents.items() for file, digest in file_hashes(parent, cache).items()
    ]
    return (
        "## Sources\n\n"
        + _table(("name", "model", "revision", "licence", "fingerprint"), models)
        + "\n\n"
        + _table(("name", "file", "sha256"), files)
    )


def licence_notes(licences: Licences) -> str:
    """The section of warnings about licences."""
    lines = "\n".join(f"- {warning}" for warning in licences.warnings)
    return f"## Licences\n\nWhat the parents' cards say, to be checked by whoever passes the merge on:\n\n{lines}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
