"""The card of an export says what it was made from, in the form the Hub reads."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from tiny_llama import random_llama, recipe_over, save, with_noise

from merging.card import model_card
from merging.checkpoint import file_hashes, fingerprint
from merging.groups import groups_of
from merging.materialize import Sources
from merging.recipe import Recipe, Source

NAMES = ("base", "reverse", "sort", "add")


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A zoo of its own, whose READMEs a test may write."""
    base = random_llama(seed=0)
    for seed, name in enumerate(NAMES):
        save(with_noise(base, seed) if seed else base, tmp_path / name)
    return tmp_path


def declare(family: Path, licences: dict[str, str]) -> None:
    for name, licence in licences.items():
        (family / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n# {name}\n")


def card_of(recipe: Recipe, **more: object) -> str:
    return model_card(recipe, Sources(recipe), **more)  # type: ignore[arg-type]


def test_every_source_is_named_with_its_hashes_and_no_path(family: Path) -> None:
    recipe = recipe_over(family)
    card = card_of(recipe)
    sources = Sources(recipe)
    for name, checkpoint in {"base": sources.reference, **sources.experts}.items():
        assert f"| {name} | {name} |" in card
        assert fingerprint(checkpoint) in card
        assert all(digest in card for digest in file_hashes(checkpoint).values())
    assert str(family) not in card
    assert recipe.digest() in card


def test_the_metadata_is_what_the_hub_reads(family: Path) -> None:
    data = ModelCard(card_of(recipe_over(family))).data
    assert data.library_name == "transformers"
    assert data.tags == ["mergeopt", "merge"]
    assert data.base_model is None  # local folders have no Hub id
    assert data.license is None


def test_hub_parents_are_linked(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0" * 40
    for name in NAMES[:2]:
        repository = tmp_path / "hub" / f"models--lab--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        (repository / "snapshots").mkdir()
        (family / name).rename(repository / "snapshots" / commit)
    experts = {"reverse": Source(path="lab/reverse"), "sort": Source(path=str(family / "sort"))}
    shell = Recipe(method="task_arithmetic", base=Source(path="lab/base"), experts=experts, coefficients={})
    sources = Sources(shell)
    groups = groups_of(sources.reference.names)
    recipe = shell.model_copy(update={"coefficients": {group.name: (0.5, 0.5) for group in groups}})
    data = ModelCard(model_card(recipe, sources)).data
    assert data.base_model == ["lab/base", "lab/reverse"]
    assert data.base_model_relation == "merge"


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (dict.fromkeys(NAMES, "apache-2.0"), "apache-2.0"),
        ({**dict.fromkeys(NAMES, "apache-2.0"), "sort": "llama3"}, "llama3"),
        ({**dict.fromkeys(NAMES, "gemma"), "sort": "llama3"}, None),
        (dict.fromkeys(NAMES[:3], "mit"), None),
    ],
)
def test_a_licence_is_declared_only_if_every_parent_s_allows_it(
    family: Path, licences: dict[str, str], expected: str | None
) -> None:
    declare(family, licences)
    card = card_of(recipe_over(family))
    assert ModelCard(card).data.license == expected
    for licence in licences.values():
        assert f"| {licence} |" in card


def test_front_matter_that_cannot_be_read_declares_nothing(family: Path) -> None:
    declare(family, dict.fromkeys(NAMES, "mit"))
    (family / "sort" / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert ModelCard(card_of(recipe_over(family))).data.license is None


def test_rows_and_scores_are_shown(family: Path) -> None:
    recipe = recipe_over(family)
    card = card_of(recipe, scores=[("reverse", 0.5, 0.41234, 0.6)], text="Held-out examples.", title="My merge")
    assert "# My merge" in card
    assert "| reverse | 0.5000 | 0.4123 to 0.6000 |" in card
    assert "Held-out examples." in card
    assert "| layer.0.mlp | " + " | ".join(f"{x:.6g}" for x in recipe.coefficients["layer.0.mlp"]) + " |" in card


def test_equal_rows_are_shown_once_and_odd_names_do_not_break_the_table(family: Path) -> None:
    recipe = recipe_over(family)
    experts = {"a|b\nc": recipe.experts["sort"]}
    rows = dict.fromkeys(recipe.coefficients, (0.25,))
    card = card_of(recipe.model_copy(update={"experts": experts, "coefficients": rows}))
    assert "| all | 0.25 |" in card
    assert "| a\\|b c | sort |" in card
