"""A resident model goes from merge to merge without a trace of the one before."""

import multiprocessing
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import random_llama, recipe_over, save, with_noise

from merging.errors import MergeError
from merging.kept_directions import KeptDirections
from merging.live import LiveMerge
from merging.materialize import Sources, materialize
from merging.methods import METHODS
from merging.recipe import Recipe
from merging.resident import load_into

EVERY = pytest.mark.parametrize("method", METHODS)
KEPT = pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.keeps_directions])


def known(recipe: Recipe) -> Recipe:
    """The recipe with fingerprints, as a job's recipes have them."""
    return Sources(recipe).fingerprinted(recipe)


def made(zoo: Path, method: str, **changes: Any) -> Recipe:
    return known(recipe_over(zoo, method, METHODS[method].max_experts or 3, **changes))


def same_bits(model: Any, recipe: Recipe, sources: Sources) -> bool:
    """Whether the model is what a fresh merge copied into a fresh model is."""
    fresh = random_llama(seed=77).to(next(model.parameters()).dtype)
    load_into(fresh, materialize(recipe, sources))
    return all(torch.equal(one, other) for one, other in zip(model.parameters(), fresh.parameters(), strict=True))


def with_row(recipe: Recipe, group: str, value: float) -> Recipe:
    row = (value, *recipe.coefficients[group][1:])
    return recipe.model_copy(update={"coefficients": {**recipe.coefficients, group: row}})


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_merge_of_a_long_search_has_the_bits_of_a_fresh_one(
    zoo: Path, tmp_path: Path, method: str, dtype: str
) -> None:
    rng = random.Random(f"{method} {dtype}")
    recipe = made(zoo, method)
    sources = Sources(recipe)
    model = random_llama(seed=5).to(getattr(torch, dtype))
    live = LiveMerge(model, sources, KeptDirections(sources, tmp_path / "kept"))
    for step in range(12):
        if step % 4 == 3:  # now and then everything changes, the seed of masks too
            recipe = recipe.model_copy(update={"seed": step, "dtype": rng.choice([None, "float32"])})
        for group in rng.sample(sorted(recipe.coefficients), rng.randint(0, 4)):
            recipe = with_row(recipe, group, rng.random())
        live.fill(recipe)
        assert same_bits(model, recipe, sources)


def test_only_groups_whose_coefficients_changed_are_written(zoo: Path) -> None:
    recipe = made(zoo, "task_arithmetic")
    model, sources = random_llama(seed=5), Sources(recipe)
    live = LiveMerge(model, sources)
    live.fill(recipe)
    untouched, changed = model.model.layers[0].mlp.up_proj.weight, model.model.layers[1].mlp.up_proj.weight
    with torch.no_grad():
        untouched.fill_(5)
        changed.fill_(5)
    live.fill(with_row(recipe, "layer.1.mlp", 0.9))
    assert bool((untouched == 5).all())
    assert not bool((changed == 5).any())


def test_after_a_merge_that_failed_everything_is_written_again(zoo: Path) -> None:
    recipe = made(zoo, "task_arithmetic", dtype="float16")
    model, sources = random_llama(seed=5).half(), Sources(recipe)
    live = LiveMerge(model, sources)
    live.fill(recipe)
    with pytest.raises(MergeError, match="must be finite"):
        live.fill(with_row(recipe, "layer.1.mlp", 1e9))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.fill_(5)
    live.fill(recipe)
    assert same_bits(model, recipe, sources)


def test_experts_in_another_order_are_another_merge(zoo: Path) -> None:
    recipe = made(zoo, "ties")
    model, sources = random_llama(seed=5), Sources(recipe)
    live = LiveMerge(model, sources)
    live.fill(recipe)
    turned = recipe.model_copy(update={"experts": dict(reversed(recipe.experts.items()))})
    live.fill(turned)
    assert same_bits(model, turned, sources)


def test_a_tied_head_follows_its_embeddings(tmp_path: Path) -> None:
    base = random_llama(seed=0, tied=True)
    for seed, name in enumerate(("base", "reverse", "sort", "add")):
        save(with_noise(base, seed) if seed else base, tmp_path / name)
    recipe = made(tmp_path, "task_arithmetic")
    model, sources = random_llama(seed=5, tied=True), Sources(recipe)
    LiveMerge(model, sources).fill(recipe)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, dict(materialize(recipe, sources))["model.embed_tokens.weight"])


@KEPT
def test_directions_are_kept_from_the_second_merge_of_a_structure_on(zoo: Path, tmp_path: Path, method: str) -> None:
    recipe = made(zoo, method)
    sources = Sources(recipe)
    kept = KeptDirections(sources, tmp_path)
    assert kept.of(recipe) is None
    directions = kept.of(with_row(recipe, "head", 0.7))
    assert directions is not None
    assert KeptDirections(sources, tmp_path).of(recipe) is not None  # another worker of the node finds them at once
    assert kept.of(recipe.model_copy(update={"seed": 3})) is None


def test_a_damaged_file_of_directions_is_made_again(zoo: Path, tmp_path: Path) -> None:
    recipe = made(zoo, "dare_linear")
    sources = Sources(recipe)
    kept = KeptDirections(sources, tmp_path)
    for _ in range(2):
        kept.of(recipe)
    (file,) = tmp_path.glob("*/0.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    model = random_llama(seed=5)
    live = LiveMerge(model, sources, KeptDirections(sources, tmp_path))
    for value in (0.1, 0.2, 0.3):
        changed = with_row(recipe, "layer.0.mlp", value)
        live.fill(changed)
        assert same_bits(model, changed, sources)
    assert file.stat().st_size > 100


def test_directions_used_longest_ago_make_room_for_new_ones(zoo: Path, tmp_path: Path) -> None:
    recipe = made(zoo, "dare_linear")
    sources = Sources(recipe)
    one = recipe.model_copy(update={"seed": 1})
    kept = KeptDirections(sources, tmp_path)
    for _ in range(2):
        kept.of(one)
    size = sum(file.stat().st_size for file in tmp_path.glob("*/*.safetensors"))
    small = KeptDirections(sources, tmp_path, most_bytes=int(size * 1.5))
    for _ in range(2):
        small.of(recipe)
    assert len(list(tmp_path.glob("*/index.json"))) == 1
    assert KeptDirections(sources, tmp_path).of(one) is None


def test_a_disk_without_room_costs_time_and_not_the_trial(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = made(zoo, "ties")
    sources = Sources(recipe)
    model = random_llama(seed=5)
    live = LiveMerge(model, sources, KeptDirections(sources, tmp_path))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    for value in (0.1, 0.2, 0.3):
        live.fill(with_row(recipe, "layer.0.mlp", value))
    assert same_bits(model, with_row(recipe, "layer.0.mlp", 0.3), sources)
    assert list(tmp_path.glob("*/index.json")) == []


def _keep(recipe: dict[str, Any], folder: str, answers: Any) -> None:
    wanted = Recipe.model_validate(recipe)
    kept = KeptDirections(Sources(wanted), Path(folder))
    kept.of(wanted)
    answers.put(kept.of(wanted) is not None)


def test_workers_that_start_together_make_the_directions_once(zoo: Path, tmp_path: Path) -> None:
    recipe = made(zoo, "della")
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    arguments = (recipe.model_dump(mode="json"), str(tmp_path), answers)
    workers = [context.Process(target=_keep, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=120) for _ in workers] == [True] * 3
    for worker in workers:
        worker.join()
    assert len(list(tmp_path.glob("*/index.json"))) == 1
    assert list(tmp_path.glob(".*")) == []  # nothing half-made is left
