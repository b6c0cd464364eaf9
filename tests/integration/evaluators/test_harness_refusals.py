"""What `HarnessEvaluator` refuses before the first trial, and what it says."""

import re
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from small_tasks import (
    CHOICE,
    LETTER,
    MEAN,
    Make,
    character_tokenizer,
    choice_rows,
    letter_rows,
    small_llama,
    write_task,
)
from transformers import LlamaForCausalLM

from evaluators.harness import HarnessEvaluator
from evaluators.lm_eval_tasks import LmEvalSpec
from evaluators.protocol import EvaluatorError
from evaluators.shares import Splits

ROWS = {"test": letter_rows(1, 20)}
CHOICES = {"test": choice_rows(1, 20)}


def refusal(make: Make, folder: Path, entry: Any, **options: Any) -> str:
    with pytest.raises(EvaluatorError) as caught:
        make(entry, folder=folder, **options)
    return str(caught.value)


def test_an_unknown_metric_is_refused_with_the_metrics_there_are(make: Make, tasks: Path) -> None:
    said = refusal(make, tasks, {"task": "pick", "metric": "acc_nrom"})
    assert said == "task `pick` has no metric `acc_nrom`. It has: acc, acc_norm; did you mean `acc_norm`?"


def test_an_unknown_filter_is_refused_with_the_filters_there_are(make: Make, tasks: Path) -> None:
    said = refusal(make, tasks, {"task": "letter", "filter": "first"})
    assert said == "task `letter` has no filter `first`. It has: first-letter, strict."


def test_an_unknown_id_is_refused_with_the_nearest(make: Make, model: LlamaForCausalLM) -> None:
    evaluator = make("pick")
    known = evaluator.examples()[0].id
    with pytest.raises(EvaluatorError, match=rf"is not one of the 60 examples of pick; nearest: .*{known}"):
        evaluator.score(model, [known, known[:-1]])


def test_a_metric_that_is_no_mean_is_refused(make: Make, tasks: Path, tmp_path: Path) -> None:
    said = refusal(make, tasks, {"task": "last", "metric": "perplexity"})
    assert "`perplexity` of task `last` is not a mean over examples" in said
    assert said.endswith("Its metrics that are: acc.")
    write_task(tmp_path, "bleu", ROWS, **{**LETTER, "metric_list": [{"metric": "bleu"}]})
    said = refusal(make, tmp_path, "bleu")
    assert said == "task `bleu` has no metric that is a mean over examples. It has: bleu."
    both = [{"metric": "acc", **MEAN}, {"metric": "mcc"}]
    write_task(tmp_path, "both", CHOICES, **{**CHOICE, "metric_list": both})
    assert "`mcc` of task `both` is not a mean" in refusal(make, tmp_path, {"task": "both", "metric": "mcc"})


def test_a_mean_metric_without_a_number_per_example_is_refused(make: Make, tmp_path: Path) -> None:
    write_task(tmp_path, "pairs", CHOICES, **{**CHOICE, "metric_list": [{"metric": "likelihood", **MEAN}]})
    assert "metric `likelihood` of task `pairs` gives no number" in refusal(make, tmp_path, "pairs")


def test_a_metric_that_is_fetched_code_is_refused(make: Make, tmp_path: Path) -> None:
    for name, metric in (
        ("far", {"metric": "rouge"}),
        ("hub", {"metric": "exact_match", "hf_evaluate": True}),
    ):
        write_task(tmp_path, name, ROWS, **{**LETTER, "metric_list": [{**metric, **MEAN}]})
        said = refusal(make, tmp_path, name)
        assert f"metric `{metric['metric']}` of task `{name}` is code that lm-eval would fetch" in said


@pytest.mark.slow
def test_an_unknown_task_is_refused_with_the_nearest_and_those_there_are(make: Make, tmp_path: Path) -> None:
    write_task(tmp_path, "pick", CHOICES, **CHOICE)
    write_task(tmp_path, "letter", ROWS, **LETTER)
    (tmp_path / "broken.yaml").write_text("task: [\n")
    said = refusal(make, tmp_path, "leter")
    assert said.startswith("task `leter` is not known. Nearest: letter")
    assert f"In {tmp_path}: letter, pick." in said
    assert f"Not readable: {tmp_path / 'broken.yaml'}: while parsing" in said


def test_a_missing_folder_is_refused(make: Make, tmp_path: Path) -> None:
    said = refusal(make, tmp_path / "no", "pick")
    assert said == f"`include_path` must name folders, but `{tmp_path / 'no'}` is not one."


def test_a_task_without_documents_to_score_is_refused(make: Make, tmp_path: Path) -> None:
    write_task(tmp_path, "only_train", {"train": letter_rows(1, 20)}, **LETTER)
    said = refusal(make, tmp_path, "only_train")
    assert said.startswith("task `only_train` has neither validation nor test documents")


def test_a_task_whose_data_is_missing_is_refused_by_name(make: Make, tmp_path: Path) -> None:
    write_task(tmp_path, "gone", ROWS, **LETTER)
    (tmp_path / "gone.test.jsonl").unlink()
    assert refusal(make, tmp_path, "gone").startswith("task `gone` could not be loaded: FileNotFoundError")


def test_a_split_without_examples_is_refused(make: Make, tmp_path: Path) -> None:
    write_task(tmp_path, "few", {"test": letter_rows(1, 2)}, **LETTER)
    assert "but `few` has none for" in refusal(make, tmp_path, "few")


def test_a_task_named_by_itself_and_by_its_group_is_refused(make: Make, tmp_path: Path) -> None:
    write_task(tmp_path, "one", ROWS, **LETTER)
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"group": "all", "task": ["one"]}))
    with pytest.raises(EvaluatorError, match="task `one` is listed twice, by `all` and by `one`"):
        make("all", "one", folder=tmp_path)


def test_chat_without_a_chat_template_is_refused(tasks: Path) -> None:
    spec = LmEvalSpec(tasks=["pick"], include_path=str(tasks), chat_template=True)
    with pytest.raises(EvaluatorError, match="needs a tokenizer with a chat template, but this one has none"):
        HarnessEvaluator(spec, Splits(), character_tokenizer(chat=False))


def test_a_generation_setting_that_would_be_passed_over_is_refused(make: Make, tmp_path: Path) -> None:
    options = {"until": ["\n"], "max_gen_toks": 4, "num_beams": 3}
    write_task(tmp_path, "beams", ROWS, **{**LETTER, "generation_kwargs": options})
    said = refusal(make, tmp_path, "beams")
    assert said.startswith("task `beams` sets `num_beams: 3` in its `generation_kwargs`, which is not supported.")


def test_more_shots_than_the_task_allows_are_refused(make: Make, tmp_path: Path) -> None:
    write_task(tmp_path, "zero", {"train": letter_rows(1, 9), **ROWS}, **LETTER, num_fewshot=0)
    said = refusal(make, tmp_path, {"task": "zero", "fewshot": 2})
    assert said.startswith("task `zero` fixes `num_fewshot: 0` in its file, but asked is `fewshot: 2`.")


def test_shots_from_the_only_documents_there_are_are_refused(make: Make, tasks: Path) -> None:
    said = refusal(make, tasks, {"task": "pick", "fewshot": 2})
    assert said.startswith("task `pick` takes its 2 few-shot examples from `test`, the only documents")


def test_a_hidden_answer_is_refused(make: Make, tmp_path: Path) -> None:
    write_task(tmp_path, "hidden", {"test": [{**row, "answer": -1} for row in CHOICES["test"]]}, **CHOICE)
    said = refusal(make, tmp_path, "hidden")
    assert re.match(r"the gold answer of `hidden:[0-9a-f]{16}` is -1, none of its 4 choices", said)


def test_an_answer_longer_than_the_model_reads_is_refused(make: Make, tmp_path: Path, model: LlamaForCausalLM) -> None:
    write_task(tmp_path, "long", ROWS, **{**LETTER, "generation_kwargs": {"until": ["\n"], "max_gen_toks": 600}})
    evaluator = make("long", folder=tmp_path)
    with pytest.raises(EvaluatorError, match="may generate 600 tokens, but the model's whole window has 512"):
        evaluator.score(model, [evaluator.examples()[0].id])


def test_an_answer_without_a_token_is_refused(make: Make, tmp_path: Path) -> None:
    write_task(tmp_path, "empty", ROWS, **{**LETTER, "doc_to_target": "", "target_delimiter": ""})
    evaluator = make("empty", folder=tmp_path, gold_likelihood=True)
    with pytest.raises(EvaluatorError, match="has an answer without a single token"):
        evaluator.score(small_llama(1), [evaluator.examples()[0].id])


PYTHON = """from pathlib import Path
Path(__file__).with_name("ran").touch()
def text(doc):
    return doc["word"]
"""


def test_python_in_a_task_file_is_refused_before_it_runs(make: Make, tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text(PYTHON)
    write_task(tmp_path, "plain", ROWS, **LETTER)
    write_task(tmp_path, "direct", ROWS, **LETTER)
    with (tmp_path / "direct.yaml").open("a") as file:
        file.write("doc_to_text: !function helpers.text\n")
    (tmp_path / "base").write_text("doc_to_text: !function helpers.text\n")
    write_task(tmp_path, "indirect", ROWS, **{**LETTER, "doc_to_text": None}, include="base")
    (tmp_path / "group.yaml").write_text(yaml.safe_dump({"group": "both", "task": ["plain", "indirect"]}))
    files = {"direct": "direct.yaml", "indirect": "base", "both": "base"}
    for name, file in files.items():
        said = refusal(make, tmp_path, name)
        assert re.search(rf"would run Python code, at {tmp_path / file}:\d+: !function helpers.text", said)
    assert not (tmp_path / "ran").exists()
    make("plain", folder=tmp_path)  # a neighbour's code is not this task's
    assert len(make("direct", folder=tmp_path, allow_code=True).examples()) == 20
    assert (tmp_path / "ran").exists()


def test_a_template_cannot_reach_python(make: Make, tmp_path: Path) -> None:
    escape = "{{ cycler.__init__.__globals__.os.mkdir('" + str(tmp_path / "ran") + "') }}"
    write_task(tmp_path, "sly", ROWS, **{**LETTER, "doc_to_text": escape})
    assert "SecurityError" in refusal(make, tmp_path, "sly")
    assert not (tmp_path / "ran").exists()


def test_a_task_that_runs_the_models_code_is_refused_before_it_is_loaded(make: Make, tmp_path: Path) -> None:
    write_task(tmp_path, "unsafe", ROWS, **LETTER, unsafe_code=True)
    assert "task `unsafe` runs the code that the model writes" in refusal(make, tmp_path, "unsafe")
    shipped = Path(lm_eval.__file__).parent / "tasks" / "humaneval"  # loading it fetches code from the Hub
    assert "task `humaneval` runs the code that the model writes" in refusal(make, shipped, "humaneval")
