"""Where the examples come from that gradients are taken on."""

from pathlib import Path

from small_tasks import CHOICE, LETTER, Make, choice_rows, letter_rows, write_task

from evaluators.harness import HarnessEvaluator
from evaluators.shares import Splits

SPLITS = Splits(gradient=0.3)


def ids_of(evaluator: HarnessEvaluator, split: str) -> set[str]:
    return {example.id for example in evaluator.examples() if example.split == split}


def test_gradient_examples_are_a_task_s_training_documents_that_are_scored_nowhere(make: Make, tmp_path: Path) -> None:
    rows = {"train": letter_rows(3, 80), "validation": letter_rows(1, 60), "test": letter_rows(2, 20)}
    rows["train"] += rows["validation"][:5] + rows["test"][:4]
    write_task(tmp_path, "taught", rows, **LETTER)
    plain, taught = make("taught", folder=tmp_path), make("taught", folder=tmp_path, splits=SPLITS)
    for split in ("search", "select", "test"):
        assert ids_of(taught, split) == ids_of(plain, split)
    assert not ids_of(plain, "gradient")
    counts = taught.counts()["taught"]
    assert counts.gradient == len(ids_of(taught, "gradient")) == -(-counts.search // 2)
    assert counts.leaked == 9
    assert not ids_of(taught, "gradient") & {example.id for example in plain.examples()}


def test_training_documents_that_prompts_show_are_not_used(make: Make, tmp_path: Path) -> None:
    rows = {"train": choice_rows(3, 80), "validation": choice_rows(1, 60), "test": choice_rows(2, 20)}
    write_task(tmp_path, "shown", rows, **CHOICE, num_fewshot=2)
    evaluator = make("shown", folder=tmp_path, splits=SPLITS)
    found = {split: ids_of(evaluator, split) for split in ("gradient", "search", "select", "test")}
    assert all(found.values())
    assert len(found["gradient"] | found["search"] | found["select"]) == 60


def test_the_same_question_with_another_answer_is_one_example(make: Make, tmp_path: Path) -> None:
    rows = choice_rows(1, 40)
    again = [{**row, "answer": (row["answer"] + 1) % 4} for row in rows[:6]]
    write_task(tmp_path, "twice", {"test": [*rows, *again]}, **CHOICE)
    evaluator = make("twice", folder=tmp_path)
    assert evaluator.counts()["twice"].duplicates == 6
    assert len(evaluator.examples()) == 40
