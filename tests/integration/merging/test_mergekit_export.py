"""A recipe written as a merge config of mergekit merges the same, or is refused with the reason."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit_cases import make_models
from safetensors.torch import load_file

from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from merging.folder import write_checkpoint
from merging.groups import groups_of
from merging.mergekit.export import to_mergekit
from merging.mergekit.read import read_configs
from merging.mergekit.write import merge_file
from merging.methods import METHODS
from merging.recipe import Recipe, Source, Visit
from merging.sources import Sources

LIKE_MERGEKIT = {"compat": "mergekit", "density": (0.5, 0.8)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_models(folder)
    return folder


def recipe(
    models: Path, method: str, base: bool = True, uneven: bool = True, count: int = 2, **structure: Any
) -> Recipe:
    """With another row for every group, unless not `uneven`."""
    source = Source(path=str(models / "base"))
    experts = {name: Source(path=str(models / name)) for name in ("x", "y")[:count]}
    groups = groups_of(open_checkpoint(source).names)
    width = len(METHODS[method].coefficients(tuple(experts)))
    rows = {
        group.name: tuple(0.2 + 0.05 * number + 0.1 * position for position in range(width))
        if uneven
        else (1.0,) * width
        for number, group in enumerate(groups)
    }
    return Recipe(method=method, base=source if base else None, experts=experts, coefficients=rows, structure=structure)


def both(written: Recipe, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The recipe's merge, and that of its config."""
    sources = Sources(written)
    write_checkpoint(written, sources, folder / "ours", card_text="")
    (folder / "config.yml").write_text(to_mergekit(written, sources))
    merge_file(read_configs(folder / "config.yml"), folder / "theirs", lambda _: None)
    return load_file(folder / "ours" / "model.safetensors"), load_file(folder / "theirs" / "model.safetensors")


@pytest.mark.parametrize(
    ("method", "details"),
    [
        ("linear", {}),
        ("linear", {"normalize": False, "base": False}),
        ("slerp", {}),
        ("slerp", {"base": False}),
        ("task_arithmetic", {}),
        ("ties", {**LIKE_MERGEKIT, "scale": 1.3}),
        ("ties", {**LIKE_MERGEKIT, "average": "sum"}),
        ("breadcrumbs", LIKE_MERGEKIT),
        ("breadcrumbs_ties", LIKE_MERGEKIT),
        ("model_stock", {"uneven": False}),
        ("model_stock", {"uneven": False, "scope": "row"}),
        ("nuslerp", {}),
        ("nuslerp_rows", {"along": "columns"}),
        ("multislerp", {}),
        ("karcher", {"uneven": False, "base": False}),
        ("sce", {"uneven": False, "compat": "mergekit", "density": 0.3}),
        ("ram", {"uneven": False, "epsilon": 1e-3}),
        ("ram_plus", {"uneven": False, "compat": "mergekit", "boost": 0.3, "limit": 0.5}),
        ("arcee_fusion", {"uneven": False, "count": 1}),
        ("nearswap", {"uneven": False, "count": 1, "t": 1e-3}),
    ],
)
def test_a_recipe_and_its_config_merge_the_same(method: str, details: Any, models: Path, tmp_path: Path) -> None:
    ours, theirs = both(recipe(models, method, **details), tmp_path)
    assert sorted(ours) == sorted(theirs)
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("method", "details", "reason"),
    [
        ("iso_c", {}, "mergekit has no `iso_c`; it can say linear"),
        ("ties", {}, "differs from the paper's"),
        ("ties", {"compat": "mergekit", "scope": "model"}, "counts in each tensor, but `scope` is `model`"),
        ("ties", {"compat": "mergekit", "average": "count"}, "`average` is `count`"),
        ("dare_linear", {"compat": "mergekit", "rescale": "inverse"}, "`rescale` is `inverse`"),
        ("model_stock", {}, "has no weights, so weights of 1 are needed"),
        ("karcher", {}, "take the base out"),
        ("sce", {"uneven": False}, "mergekit's `sce` has `compat: mergekit` alone, but here it is paper"),
        ("ram", {}, "has no weights, so weights of 1 are needed"),
        ("ram", {"uneven": False, "scale": 0.5}, "mergekit's `ram` has `scale: 1.0` alone, but here it is 0.5"),
        ("nearswap", {"uneven": False}, "mergekit's `nearswap` merges 1 model with a base, but here are 2"),
    ],
)
def test_what_mergekit_cannot_say_is_refused(method: str, details: Any, reason: str, models: Path) -> None:
    written = recipe(models, method, **details)
    with pytest.raises(MergeError, match=reason):
        to_mergekit(written, Sources(written))


def test_one_model_under_two_names_is_refused_since_mergekit_would_keep_one(models: Path) -> None:
    written = recipe(models, "task_arithmetic")
    for name in ("x", "base"):
        twice = written.model_copy(update={"experts": {**written.experts, "y": Source(path=str(models / name))}})
        with pytest.raises(MergeError, match=f"mergekit can name a model once, but `{name}` and `y` are both"):
            to_mergekit(twice, Sources(twice))


@pytest.mark.parametrize(("method", "details"), [("task_arithmetic", {}), ("linear", {}), ("linear", {"base": False})])
def test_a_path_through_the_layers_becomes_slices(method: str, details: Any, models: Path, tmp_path: Path) -> None:
    path = [Visit(layer=0), Visit(layer=2), Visit(layer=1, source="y"), Visit(layer=2)]
    if details.get("base", True):
        path.append(Visit(layer=0, source="base"))
    ours, theirs = both(recipe(models, method, **details).model_copy(update={"path": tuple(path)}), tmp_path)
    assert sorted(ours) == sorted(theirs)
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("method", "visit", "reason"),
    [
        ("linear", Visit(layer=0, scale=0.5), "mergekit scales no layer of a merge"),
        ("slerp", Visit(layer=0, source="x"), "`nuslerp` cannot leave one as it is"),
    ],
)
def test_a_path_that_mergekit_cannot_follow_is_refused(method: str, visit: Visit, reason: str, models: Path) -> None:
    written = recipe(models, method).model_copy(update={"path": (Visit(layer=1), visit)})
    with pytest.raises(MergeError, match=reason):
        to_mergekit(written, Sources(written))
