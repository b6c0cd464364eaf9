"""The zoos of the search benchmark: a landscape of merges that is what it says, on models trained in a second."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.search.zoo.kinds import ZOOS, Zoo
from benchmarks.search.zoo.merged import MergedZoo
from benchmarks.search.zoo.reference import references
from benchmarks.search.zoo.train import new_model, trained
from merging.groups import groups_of
from merging.materialize import materialize
from merging.recipe import Recipe, Source
from merging.sources import Sources
from optimizer.virtual import make_virtual

SKILLS = ("reverse", "rotate")
SPLITS = ("gradient", "search", "select", "test")


def kind(**changed: object) -> Zoo:
    """Two layers of width 16, trained for a few steps: nothing learnt, everything in place."""
    asked: dict[str, object] = {
        "trained_as": "least",
        "architecture": "llama",
        "hidden": 16,
        "layers": 2,
        "skills": SKILLS,
        "base_steps": 30,
        "expert_steps": 10,
        "expert_rate": 5e-3,
    }
    return Zoo(**(asked | changed))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoos")


def opened(folder: Path, **changed: object) -> MergedZoo:
    asked = kind(**changed)
    return MergedZoo("least", asked, trained(asked, folder, 0), 0)


def some(zoo: MergedZoo) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 0.9, (len(zoo.groups), len(zoo.experts)))


def few(zoo: MergedZoo, split: str, each: int = 6) -> list[str]:
    """The first examples of every task."""
    own = zoo.ids[split]  # type: ignore[index]
    return [one for skill in SKILLS for one in [i for i in own if i.startswith(skill)][:each]]


def _sources(folder: Path, at: Path) -> Recipe:
    """The zoo's models as folders, in a recipe without coefficients."""
    for name in ("base", *SKILLS):
        (at / name).mkdir()
        weights = folder / "least-0" / f"{name}.safetensors"
        (at / name / "model.safetensors").write_bytes(weights.read_bytes())
        (at / name / "config.json").write_text('{"tie_word_embeddings": false}')
    return Recipe(
        method="task_arithmetic",
        base=Source(path=str(at / "base")),
        experts={name: Source(path=str(at / name)) for name in SKILLS},
        coefficients={},
    )


def test_the_weights_are_those_that_the_product_merges(folder: Path, tmp_path: Path) -> None:
    zoo = opened(folder)
    coefficients = some(zoo)
    rows = {group.name: tuple(row) for group, row in zip(zoo.groups, coefficients.tolist(), strict=True)}
    recipe = _sources(folder, tmp_path).model_copy(update={"coefficients": rows})
    zoo.score(coefficients, few(zoo, "search", 1))
    ours = dict(zoo._model.named_parameters())
    theirs = dict(materialize(recipe, Sources(recipe)))
    assert list(zoo.groups) == groups_of(theirs)
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name].detach(), tensor, rtol=1e-5, atol=1e-6)


def test_its_merge_by_ties_is_that_of_the_product(folder: Path, tmp_path: Path) -> None:
    zoo = opened(folder)
    template = _sources(folder, tmp_path)
    zoo.widen("ties", {})
    alone = np.zeros((len(zoo.groups), len(zoo.experts) + len(zoo.widens)))
    alone[:, len(zoo.experts) + zoo.widens.index("ties")] = 1.0
    zoo.score(alone, few(zoo, "search", 1))
    ours = {name: one.detach().clone() for name, one in zoo._model.named_parameters()}
    source = make_virtual("ties", Sources(template).fingerprinted(template), tmp_path / "virtual")
    theirs = load_file(next(Path(source.path).glob("*.safetensors")))
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)


def test_an_answer_counts_as_right_exactly_where_greedy_decoding_writes_it(folder: Path) -> None:
    zoo = opened(folder, trained_as="enough-to-end", hidden=32, base_steps=100)
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "tiny"))
    from network import greedy  # type: ignore[import-not-found]

    coefficients, ids = some(zoo), few(zoo, "search", 40)
    zoo.score(coefficients, ids[:1])  # leaves the merge in the model
    written = greedy(zoo._model, [zoo._examples[one][0] for one in ids], longest=12)
    ended = [(one, answer) for one, answer in zip(ids, written, strict=True) if 0 < len(answer) < 12]
    assert len(ended) > 20
    for one, answer in ended:  # what it writes is made the right answer, then something close to it
        zoo._examples[one] = (zoo._examples[one][0], answer, ())
    assert [outcome.metric for outcome in zoo.score(coefficients, [one for one, _ in ended])] == [1.0] * len(ended)
    for one, answer in ended:
        zoo._examples[one] = (zoo._examples[one][0], answer + "a", ())
    assert [outcome.metric for outcome in zoo.score(coefficients, [one for one, _ in ended])] == [0.0] * len(ended)


@pytest.mark.parametrize("architecture", ["llama", "neox"])
@pytest.mark.parametrize("tasks", [{}, {"choices": ("rotate",)}, {"misled": ("rotate",)}], ids=str)
def test_gradients_are_the_slopes_of_the_losses(folder: Path, architecture: str, tasks: dict[str, object]) -> None:
    zoo = opened(folder, architecture=architecture, trained_as=f"least-{architecture}", **tasks)
    ids, at, scales = few(zoo, "gradient"), some(zoo), {"reverse": 0.3, "rotate": 0.9}

    def total(coefficients: np.ndarray) -> float:
        _, losses = zoo.gradient(coefficients, ids, scales)
        return sum(scales[one.split(":")[0]] / 6 * loss for one, loss in zip(ids, losses, strict=True))

    slope, _ = zoo.gradient(at, ids, scales)
    assert slope.shape == at.shape
    assert slope.dtype == np.float64
    for group, expert in [(0, 0), (1, 1), (len(at) - 1, 0), (len(at) - 2, 1)]:
        moved = np.zeros_like(at)
        moved[group, expert] = 0.05
        assert slope[group, expert] == pytest.approx((total(at + moved) - total(at - moved)) / 0.1, rel=0.05, abs=2e-3)


def test_no_question_is_in_two_splits_and_every_task_has_its_share(folder: Path) -> None:
    zoo = opened(folder)
    asked = {split: [zoo._examples[one][0] for one in zoo.ids[split]] for split in SPLITS}  # type: ignore[index]
    assert {split: len(prompts) for split, prompts in asked.items()} == dict(
        zip(SPLITS, (640, 512, 256, 3000), strict=True)
    )
    everything = [prompt for prompts in asked.values() for prompt in prompts]
    assert len(set(everything)) == len(everything)
    for split in SPLITS:
        counts = [sum(one.startswith(skill) for one in zoo.ids[split]) for skill in SKILLS]  # type: ignore[index]
        assert counts[0] == counts[1]


def test_only_the_loss_of_the_misled_tasks_is_misled(folder: Path) -> None:
    plain, misled = opened(folder), opened(folder, misled=("rotate",))
    at, ids = some(plain), few(plain, "search")
    assert [one.metric for one in plain.score(at, ids)] == [one.metric for one in misled.score(at, ids)]
    scales = dict.fromkeys(SKILLS, 0.5)
    (_, losses), (_, other) = plain.gradient(at, ids, scales), misled.gradient(at, ids, scales)
    differs = [one != two for one, two in zip(losses, other, strict=True)]
    assert differs == [one.startswith("rotate") for one in ids]


def test_a_choice_is_scored_by_how_probable_it_is_among_the_options(folder: Path) -> None:
    zoo = opened(folder, choices=SKILLS)
    outcomes = zoo.score(some(zoo), few(zoo, "search", 50))
    for one in outcomes:
        assert one.smooth is not None
        assert 0 < one.smooth < 1
        assert one.metric == 1.0 or one.smooth <= 0.5  # not the most probable: at most half
        assert one.metric == 0.0 or one.smooth >= 0.25  # the most probable of four: at least a quarter


def test_a_seed_trains_the_same_models_again_and_another_seed_others(tmp_path: Path) -> None:
    asked = kind(base_steps=3, expert_steps=2)
    first, again = trained(asked, tmp_path / "first", 1), trained(asked, tmp_path / "again", 1)
    other = trained(asked, tmp_path / "first", 2)
    for name in ("base", *SKILLS):
        assert all(torch.equal(tensor, again[name][key]) for key, tensor in first[name].items())
        assert not all(torch.equal(tensor, other[name][key]) for key, tensor in first[name].items())


def test_models_are_trained_once_and_again_where_one_is_missing(tmp_path: Path) -> None:
    asked = kind(base_steps=3, expert_steps=2)
    trained(asked, tmp_path, 0)
    home = tmp_path / "least-0"
    assert sorted(file.name for file in home.iterdir()) == [
        "base.safetensors",
        "reverse.safetensors",
        "rotate.safetensors",
    ]
    before = (home / "base.safetensors").stat().st_mtime_ns
    trained(asked, tmp_path, 0)
    assert (home / "base.safetensors").stat().st_mtime_ns == before
    (home / "rotate.safetensors").unlink()
    found = trained(asked, tmp_path, 0)
    assert set(load_file(home / "rotate.safetensors")) == set(found["rotate"])


@pytest.mark.parametrize("name", ZOOS)
def test_every_zoo_has_a_model_whose_tensors_fall_into_known_groups(name: str) -> None:
    names = [tensor for tensor, _ in new_model(ZOOS[name]).named_parameters()]
    groups = groups_of(names)
    assert {group.module for group in groups} == {"attention", "mlp", "norms", "embeddings", "head"}
    assert len({group.layer for group in groups}) == ZOOS[name].layers + 1
    assert set(ZOOS[name].misled) | set(ZOOS[name].choices) <= set(ZOOS[name].skills)


def test_the_reference_numbers_start_with_the_base_and_the_parents(folder: Path) -> None:
    found = references(opened(folder))
    labels = [next(found).label for _ in range(4)]
    assert labels == ["base", "parent reverse", "parent rotate", "uniform average"]
