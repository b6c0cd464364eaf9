"""Write a merged model's card: what it was made from, and what it scored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from merging.checkpoint import Checkpoint, file_hashes, fingerprint
from merging.methods import METHODS
from merging.recipe import Recipe
from merging.sources import Sources

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
    parts = [
        f"---\n{_metadata(list(parents.values()))}\n---",
        f"# {title}",
        f"Merged by mergeopt with `{method.name}`: {method.summary} ({method.paper})",
        *([_scores(scores)] if scores else []),
        *([text.strip()] if text.strip() else []),
        _recipe(recipe),
        _parents(parents, cache),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(parents: Sequence[Checkpoint]) -> str:
    from huggingface_hub import ModelCardData

    licences = [_licence(parent) for parent in parents]
    facts: dict[str, Any] = {**_library(parents[0]), "tags": ["mergeopt", "merge"]}
    ids = list(dict.fromkeys(parent.source.path for parent in parents if parent.from_hub))
    if ids:
        facts |= {"base_model": ids, "base_model_relation": "merge"}
    if licences[0] is not None and all(licence == licences[0] for licence in licences):
        facts["license"] = licences[0]
    return str(ModelCardData(**facts).to_yaml()).strip()


def _library(parent: Checkpoint) -> dict[str, str]:
    """The library that loads the model, where its config tells."""
    if parent.is_transformers:
        return {"library_name": "transformers"}
    return {"library_name": "diffusers"} if "_diffusers_version" in parent.config else {}


def _licence(parent: Checkpoint) -> str | None:
    """The licence that the parent's own card declares."""
    from huggingface_hub.repocard import metadata_load

    card = parent.folder / "README.md"
    if not card.is_file():
        return None
    try:
        declared = (metadata_load(card) or {}).get("license")
    except Exception:  # the front matter is a stranger's YAML; one that cannot be read declares nothing
        return None
    return declared if isinstance(declared, str) else None


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
    settings = ", ".join(f"{key} {value}" for key, value in recipe.structure.items()) or "defaults"
    facts = f"Settings: {settings}. Seed: {recipe.seed}. Digest: `{recipe.digest()}`."
    if recipe.unmerged:
        facts += f" Not merged but taken from one model: {', '.join(recipe.unmerged)}."
    return f"## Recipe\n\n{facts} `mergeopt_recipe.json` holds it in full.\n\n{table}"


def _parents(parents: dict[str, Checkpoint], cache: Path | None) -> str:
    models = [
        (
            name,
            _place(parent),
            parent.source.revision or "",
            _licence(parent) or "",
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


def _place(parent: Checkpoint) -> str:
    """A Hub id, or a local folder's own name: where it lay on somebody's disk is nobody's business."""
    return parent.source.path if parent.from_hub else parent.folder.resolve().name


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
