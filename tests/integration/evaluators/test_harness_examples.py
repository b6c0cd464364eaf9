"""Which examples a task offers, and which documents are shown in prompts."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_tasks import CHOICE, LETTER, Make, choice_rows, letter_rows, write_task
from transformers import LlamaForCausalLM

from evaluators.protocol import Example


def by_split(examples: list[Example]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"search": set(), "select": set(), "test": set()}
    for example in examples:
        found[example.split].add(example.id)
    return found


def test_test_documents_are_never_searched_on(make: Make, tmp_path: Path) -> None:
    shared = letter_rows(9, 6)
    rows = {"validation": [*letter_rows(1, 30), *shared], "test": [*shared, *letter_rows(2, 15), *shared[:2]]}
    write_task(tmp_path, "both", rows, **LETTER)
    evaluator = make("both", folder=tmp_path)
    found = by_split(evaluator.examples())
    assert len(found["test"]) == 21
    assert len(found["search"] | found["select"]) == 30
    assert not found["test"] & (found["search"] | found["select"])
    counts = evaluator.counts()["both"]
    assert (counts.duplicates, counts.leaked, counts.over_limit) == (2, 6, 0)


def test_examples_survive_another_order_of_the_data_file(make: Make, tmp_path: Path) -> None:
    rows = letter_rows(1, 60)
    for folder, ordered in (("one", rows), ("two", rows[::-1])):
        (tmp_path / folder).mkdir()
        write_task(tmp_path / folder, "letter", {"test": ordered}, **LETTER)
    entry = {"task": "letter", "limit": 8}
    assert make(entry, folder=tmp_path / "one").examples() == make(entry, folder=tmp_path / "two").examples()


def test_a_limit_holds_for_every_split_and_keeps_a_part_of_the_whole(make: Make) -> None:
    whole = by_split(make("pick").examples())
    part = by_split(make({"task": "pick", "limit": 5}).examples())
    assert {split: len(ids) for split, ids in part.items()} == {"search": 5, "select": 5, "test": 5}
    assert all(part[split] < ids for split, ids in whole.items())


def test_a_limit_changes_no_prompt_of_a_few_shot_task(make: Make, model: LlamaForCausalLM) -> None:
    whole, part = make("pick_shots"), make({"task": "pick_shots", "limit": 4})
    ids = [example.id for example in part.examples()]
    for expected, found in zip(whole.score(model, ids), part.score(model, ids), strict=True):
        assert found.loglikelihood == pytest.approx(expected.loglikelihood, abs=1e-4)


def test_documents_shown_as_shots_are_not_scored(make: Make, tmp_path: Path) -> None:
    rows = {"validation": choice_rows(1, 10), "test": choice_rows(2, 40)}
    write_task(tmp_path, "dev", rows, **CHOICE, num_fewshot=2, fewshot_split="validation")
    found = by_split(make("dev", folder=tmp_path).examples())
    assert sum(map(len, found.values())) == 40  # all from test, dealt to the three splits
    assert all(found.values())
    assert sum(map(len, by_split(make({"task": "dev", "fewshot": 1}, folder=tmp_path).examples()).values())) == 40
    (tmp_path / "zero").mkdir()
    write_task(tmp_path / "zero", "dev", rows, **CHOICE)
    assert len(by_split(make("dev", folder=tmp_path / "zero").examples())["test"]) == 40


def test_a_group_stands_for_its_tasks_and_shares_its_weight(
    make: Make, tmp_path: Path, model: LlamaForCausalLM
) -> None:
    write_task(tmp_path, "first", {"test": choice_rows(1, 20)}, **CHOICE, tag="tagged")
    write_task(tmp_path, "second", {"test": choice_rows(2, 20)}, **CHOICE, tag="tagged")
    inner: dict[str, Any] = {"group": "inner", "task": ["second"]}
    (tmp_path / "inner.yaml").write_text(yaml.safe_dump(inner))
    (tmp_path / "outer.yaml").write_text(yaml.safe_dump({"group": "outer", "task": ["first", "inner"]}))
    for name in ("outer", "tagged"):
        entry = {"task": name, "weight": 3, "metric": "acc_norm", "objective": "reading"}
        evaluator = make(entry, folder=tmp_path)
        told = [(task.name, task.weight, task.metric, task.objective) for task in evaluator.tasks()]
        assert told == [("first", 1.5, "acc_norm", "reading"), ("second", 1.5, "acc_norm", "reading")]
        ids = [example.id for example in evaluator.examples()]
        assert len(evaluator.score(model, ids)) == 40


def test_any_accepted_answer_counts(make: Make, tmp_path: Path, model: LlamaForCausalLM) -> None:
    rows = [{**row, "answer": [row["answer"], (row["answer"] + 1) % 4]} for row in choice_rows(1, 40)]
    write_task(tmp_path, "either", {"test": rows}, **CHOICE)
    write_task(tmp_path, "single", {"test": choice_rows(1, 40)}, **CHOICE)
    either, single = make("either", folder=tmp_path), make("single", folder=tmp_path)
    mean = {}
    for evaluator in (either, single):
        outcomes = evaluator.score(model, [example.id for example in evaluator.examples()])
        name = evaluator.tasks()[0].name
        mean[name] = sum(row.smooth or 0.0 for row in outcomes) / len(outcomes)
        assert all(row.smooth is not None and 0 <= row.smooth <= 1 for row in outcomes)
    assert mean["either"] > mean["single"]


def test_repeats_are_answered_as_often_as_the_task_asks(make: Make, tmp_path: Path, model: LlamaForCausalLM) -> None:
    vote = [{"name": "vote", "filter": [{"function": "regex", "regex_pattern": "([a-c])"}]}]
    vote[0]["filter"] += [{"function": "majority_vote"}, {"function": "take_first"}]  # type: ignore[operator]
    write_task(tmp_path, "thrice", {"test": letter_rows(5, 40)}, **{**LETTER, "filter_list": vote}, repeats=3)
    write_task(tmp_path, "once", {"test": letter_rows(5, 40)}, **LETTER)
    found = []
    for name in ("thrice", "once"):
        evaluator = make(name, folder=tmp_path)
        rows = evaluator.score(model, [example.id for example in evaluator.examples()])
        found.append({row.id.rpartition(":")[2]: row.metric for row in rows})
    assert found[0] == found[1]
    assert 0 < sum(found[0].values()) < 40


def test_outcomes_are_plain_numbers(make: Make, model: LlamaForCausalLM) -> None:
    evaluator = make("pick", "letter", "last", gold_likelihood=True)
    for row in evaluator.score(model, [example.id for example in evaluator.examples()][::7]):
        json.dumps([row.metric, row.smooth, row.loglikelihood])
        assert type(row.metric) is float
