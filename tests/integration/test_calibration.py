"""A worker's resident model collects the statistics of each expert, and virtual experts are made of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluators.meter import Meter
from evaluators.protocol import EvaluatorError
from evaluators.twins import differentiate
from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from merging.live import LiveMerge
from merging.statistics import Grams, open_statistics
from optimizer.calibration import as_expert, collect_statistics, own_tasks
from optimizer.plan import Plan
from optimizer.preflight import preflight
from optimizer.spec import read_job_file
from optimizer.virtual import STATISTICS, Calibration, make_virtual
from optimizer.worker import Worker
from tests.integration.small_job import Shop, make_shop, write_job


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("store")))


class Bench:
    """A worker as a job has it, and a few examples of each of its tasks."""

    def __init__(self, shop: Shop, folder: Path) -> None:
        job = read_job_file(write_job(shop, folder, {"evaluate.tasks": ["letter", "pick"]}))
        checked = preflight(job, folder / "jobs")
        self.plan: Plan = checked.plan
        worker: Any = Worker(job.model_dump(mode="json"), checked.plan.model_dump(mode="json"))
        self.evaluator = worker._evaluator
        self.live: LiveMerge = worker._resident.live
        searched = [one for one in checked.examples if one.split == "search"]
        self.ids = [
            one.id for task in checked.plan.tasks for one in [each for each in searched if each.task == task.name][:3]
        ]

    def collect(self, kind: Any, expert: str, ids: Sequence[str], folder: Path, meter: Meter | None = None) -> Path:
        return collect_statistics(kind, expert, self.plan.template, self.live, self.evaluator, ids, folder, meter)

    def become(self, expert: str) -> None:
        groups = [group.name for group in self.live.sources.groups]
        self.live.fill(as_expert(self.plan.template, expert, groups))


@pytest.fixture
def bench(shop: Shop, tmp_path: Path) -> Bench:
    return Bench(shop, tmp_path)


def test_gram_matrices_are_those_of_the_expert_while_it_is_scored(bench: Bench, tmp_path: Path) -> None:
    meter = Meter()
    opened = open_statistics(bench.collect("gram", "south", bench.ids, tmp_path / "s", meter))
    assert meter.tokens["forward"] > 0
    bench.become("south")
    with Grams(bench.live.model, bench.live.targets) as grams:
        for name in bench.ids:
            bench.evaluator.score(bench.live.model, [name])
    expected = grams.tensors()
    assert set(opened.names) == set(expected)
    assert all(torch.equal(opened.tensor(name), one) for name, one in expected.items())
    other = open_statistics(bench.collect("gram", "west", bench.ids, tmp_path / "s"))
    assert not torch.equal(other.tensor("lm_head.weight"), opened.tensor("lm_head.weight"))


def test_fishers_are_the_mean_squares_of_each_examples_own_gradient(bench: Bench, tmp_path: Path) -> None:
    opened = open_statistics(bench.collect("fisher", "south", bench.ids, tmp_path / "s"))
    bench.become("south")
    expected: dict[str, Tensor] = {}
    model = bench.live.model
    for name in bench.ids:
        model.zero_grad(set_to_none=True)
        differentiate(bench.evaluator, model, [name], {"letter": 1.0, "pick": 1.0})
        for place, parameter in model.named_parameters():
            assert parameter.grad is not None
            square = parameter.grad.square() / len(bench.ids)
            expected[place] = expected.get(place, torch.zeros_like(square)) + square
    assert set(opened.names) == set(expected)
    for place, square in expected.items():
        assert torch.allclose(opened.tensor(place), square, rtol=1e-4, atol=1e-4 * float(square.max()))


def test_scores_after_collecting_are_those_from_before(bench: Bench, tmp_path: Path) -> None:
    bench.become("north")
    before = bench.evaluator.score(bench.live.model, bench.ids)
    required = [one.requires_grad for one in bench.live.model.parameters()]
    for kind in ("gram", "fisher"):
        bench.collect(kind, "north", bench.ids, tmp_path / "s")
    assert bench.evaluator.score(bench.live.model, bench.ids) == before
    assert [one.requires_grad for one in bench.live.model.parameters()] == required
    assert all(one.grad is None for one in bench.live.model.parameters())


def test_statistics_that_are_there_are_not_collected_again(bench: Bench, tmp_path: Path) -> None:
    file = bench.collect("gram", "south", bench.ids, tmp_path / "s")
    meter = Meter()
    assert bench.collect("gram", "south", bench.ids[::-1], tmp_path / "s", meter) == file
    assert not meter.tokens
    assert bench.collect("gram", "south", bench.ids[:2], tmp_path / "s", meter) != file
    assert meter.tokens


@pytest.mark.parametrize("kind", list(STATISTICS))
def test_a_worker_and_a_coordinator_make_a_virtual_expert(bench: Bench, tmp_path: Path, kind: Any) -> None:
    template = bench.plan.template
    means = {"north": (0.9, 0.1), "south": (0.2, 0.3), "west": (0.0, 0.0)}
    own = own_tasks({expert: dict(zip(("letter", "pick"), row, strict=True)) for expert, row in means.items()})
    examples = {
        expert: [name for name in bench.ids if name.rpartition(":")[0] in tasks] for expert, tasks in own.items()
    }

    def collect(expert: str) -> Path:
        return bench.collect(STATISTICS[kind], expert, examples[expert], tmp_path / "s")

    source = make_virtual(kind, template, tmp_path / "v", Calibration(examples, collect))
    made = open_checkpoint(source)
    experts = [open_checkpoint(one) for one in template.experts.values()]
    name = "model.layers.0.mlp.up_proj.weight"
    average = torch.stack([one.tensor(name) for one in experts]).mean(0)
    assert not torch.allclose(made.tensor(name), average, atol=1e-4)


def test_what_cannot_be_collected_leaves_no_file(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="there are none"):
        bench.collect("gram", "south", [], tmp_path / "s")
    with pytest.raises(EvaluatorError):
        bench.collect("fisher", "south", ["stranger:1"], tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_an_expert_is_calibrated_on_what_it_is_best_at_or_on_everything() -> None:
    means = {
        "a": {"sum": 0.9, "sort": 0.5, "add": 0.1},
        "b": {"sum": 0.2, "sort": 0.5, "add": 0.1},
        "c": {"sum": 0.1, "sort": 0.4, "add": 0.0},
    }
    assert own_tasks(means) == {"a": ("sum", "sort", "add"), "b": ("sort", "add"), "c": ("sum", "sort", "add")}
