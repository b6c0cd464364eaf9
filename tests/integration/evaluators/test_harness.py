"""What `HarnessEvaluator` promises about scores, checked against lm-eval itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from small_tasks import Make, small_llama
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evaluators.aggregate import objectives, task_means
from evaluators.harness import HarnessEvaluator
from evaluators.lm_eval_tasks import LmEvalSpec
from evaluators.protocol import Outcome, ScoringError
from evaluators.shares import Splits
from evaluators.splits import content_hash

CLOSE = 1e-4  # nats: batches of other shapes add up in another order


def reference(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Path,
    names: list[str],
    **options: Any,
) -> dict[str, Any]:
    """lm-eval's own run, with a plain `HFLM`."""
    results = lm_eval.simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8),
        tasks=names,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )
    assert results is not None
    return results


def by_example(rows: list[dict[str, Any]], task: str, filter_name: str = "none") -> dict[str, dict[str, Any]]:
    return {f"{task}:{content_hash(row['doc'])}": row for row in rows if row["filter"] == filter_name}


def all_of(evaluator: HarnessEvaluator, model: LlamaForCausalLM) -> dict[str, Outcome]:
    return {row.id: row for row in evaluator.score(model, [example.id for example in evaluator.examples()])}


def of_task(outcomes: dict[str, Outcome], task: str) -> dict[str, Outcome]:
    return {name: row for name, row in outcomes.items() if name.startswith(f"{task}:")}


def test_every_example_scores_what_simple_evaluate_gives_it(
    make: Make, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tasks: Path
) -> None:
    names = ["pick", "letter_shots", "pick_shots", "last"]
    found = all_of(make(*names), model)
    expected = reference(model, tokenizer, tasks, names)
    metrics = {"pick": "acc", "letter_shots": "exact_match", "pick_shots": "acc", "last": "acc"}
    for name, metric in metrics.items():
        rows = by_example(expected["samples"][name], name, "first-letter" if "letter" in name else "none")
        assert rows.keys() == of_task(found, name).keys()
        for key, row in rows.items():
            assert found[key].metric == row[metric]
            if name != "letter_shots":
                gold = row["doc"].get("answer", 0)
                assert found[key].loglikelihood == pytest.approx(row["filtered_resps"][gold][0], abs=CLOSE)
    right = sum(row.metric for row in of_task(found, "letter_shots").values())
    assert 0 < right < 40  # otherwise this compared nothing but zeros


def test_task_means_equal_those_of_simple_evaluate(
    make: Make, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tasks: Path
) -> None:
    evaluator = make({"task": "pick", "metric": "acc_norm"}, {"task": "letter_shots", "filter": "strict"}, "pick_shots")
    found = task_means(all_of(evaluator, model).values(), evaluator.tasks())
    expected = reference(model, tokenizer, tasks, ["pick", "letter_shots", "pick_shots"])["results"]
    assert found["pick"]["metric"] == pytest.approx(expected["pick"]["acc_norm,none"], abs=1e-12)
    assert found["letter_shots"]["metric"] == expected["letter_shots"]["exact_match,strict"]
    assert found["pick_shots"]["metric"] == pytest.approx(expected["pick_shots"]["acc,none"], abs=1e-12)


def test_chat_prompts_score_as_in_simple_evaluate(
    make: Make, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tasks: Path
) -> None:
    names = ["pick_shots", "letter_shots"]
    found = all_of(make(*names, chat=True, system_instruction="Be brief."), model)
    chat = {"apply_chat_template": True, "system_instruction": "Be brief."}
    expected = reference(model, tokenizer, tasks, names, **chat)["samples"]
    assert "<system>Be brief." in expected["pick_shots"][0]["arguments"][0][0]
    for key, row in by_example(expected["pick_shots"], "pick_shots").items():
        assert found[key].metric == row["acc"]
        gold = row["filtered_resps"][row["doc"]["answer"]][0]
        assert found[key].loglikelihood == pytest.approx(gold, abs=CLOSE)
    for key, row in by_example(expected["letter_shots"], "letter_shots", "first-letter").items():
        assert found[key].metric == row["exact_match"]
    plain = all_of(make(*names), model)
    assert any(plain[key].loglikelihood != row.loglikelihood for key, row in of_task(found, "pick_shots").items())


@pytest.mark.slow
def test_the_test_split_scores_what_the_lm_eval_command_reports(
    make: Make, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tasks: Path, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    names = ["pick_shots", "letter"]
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args"]
    command += [f"pretrained={tmp_path / 'model'},dtype=float32", "--tasks", ",".join(names)]
    command += ["--include_path", str(tasks), "--device", "cpu", "--batch_size", "8"]
    command += ["--log_samples", "--output_path", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

    evaluator = make(*names)
    found = all_of(evaluator, model)
    metrics = {"pick_shots": ("acc", "none"), "letter": ("exact_match", "first-letter")}
    for name, (metric, filter_name) in metrics.items():
        (file,) = (tmp_path / "out").glob(f"**/samples_{name}_*.jsonl")
        rows = by_example([json.loads(line) for line in file.read_text().splitlines()], name, filter_name)
        ours = {one.id for one in evaluator.examples() if one.task == name}
        if name == "letter":  # it has validation documents as well, which the command does not score
            ours = {one.id for one in evaluator.examples() if one.task == name and one.split == "test"}
        assert rows.keys() == ours
        assert {key: found[key].metric for key in rows} == {key: row[metric] for key, row in rows.items()}
    (summary,) = (tmp_path / "out").glob("**/results_*.json")
    reported = json.loads(summary.read_text())["results"]
    means = task_means(found.values(), evaluator.tasks())
    assert means["pick_shots"]["metric"] == pytest.approx(reported["pick_shots"]["acc,none"], abs=1e-12)


def test_a_subset_in_any_order_gets_the_scores_of_the_full_run(make: Make, model: LlamaForCausalLM) -> None:
    evaluator = make("pick", "letter", "letter_shots", "last", gold_likelihood=True)
    full = all_of(evaluator, model)
    some = [example.id for example in evaluator.examples()][::-3]
    shuffled = some[1::2] + some[::2]
    found = evaluator.score(model, shuffled)
    assert [row.id for row in found] == shuffled
    for row in found:
        assert row.metric == full[row.id].metric
        assert row.loglikelihood == pytest.approx(full[row.id].loglikelihood, abs=CLOSE)
        assert row.smooth == pytest.approx(full[row.id].smooth, abs=CLOSE)
    assert evaluator.score(model, []) == []


def test_the_order_of_ids_changes_no_bit_of_a_score(make: Make, model: LlamaForCausalLM) -> None:
    evaluator = make("pick", "letter", gold_likelihood=True)
    ids = [example.id for example in evaluator.examples()]
    forward = {row.id: row for row in evaluator.score(model, ids)}
    assert {row.id: row for row in evaluator.score(model, ids[::-1])} == forward


def test_new_weights_in_the_same_model_give_new_scores(make: Make) -> None:
    evaluator = make("pick", "letter", gold_likelihood=True)
    resident, other = small_llama(1), small_llama(3)
    first = all_of(evaluator, resident)
    with torch.no_grad():
        for name, parameter in resident.named_parameters():
            parameter.copy_(other.get_parameter(name))
    second = all_of(evaluator, resident)
    assert second == all_of(make("pick", "letter", gold_likelihood=True), other)
    assert all(second[key].loglikelihood != row.loglikelihood for key, row in first.items())
    assert any(second[key].metric != row.metric for key, row in first.items())


def test_scoring_leaves_weights_and_modes_alone(make: Make) -> None:
    model = small_llama(1)
    model.train()
    model.model.layers[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    evaluator = make("pick", "letter")
    evaluator.score(model, [example.id for example in evaluator.examples()][:12])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model._forward_hooks


@pytest.mark.parametrize("name", ["pick", "last"])
def test_weights_of_nan_are_an_error_where_likelihoods_are_compared(make: Make, name: str) -> None:
    model = small_llama(1)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    evaluator = make(name)
    with pytest.raises(ScoringError, match=rf"log-likelihood of example `{name}:[0-9a-f]{{16}}` is nan"):
        all_of(evaluator, model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_an_error_where_text_is_generated(make: Make, value: float) -> None:
    model = small_llama(1)
    with torch.no_grad():
        model.lm_head.weight[5].fill_(value)
    evaluator = make("letter")
    with pytest.raises(ScoringError, match=r"not finite while generating .* `letter:[0-9a-f]{16}`"):
        all_of(evaluator, model)
    assert not model._forward_hooks
    assert len(all_of(evaluator, small_llama(1))) == 70  # the evaluator itself is none the worse


def test_the_smooth_score_is_the_softmax_over_the_choices(
    make: Make, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tasks: Path
) -> None:
    found = all_of(make("pick"), model)
    by_length = all_of(make({"task": "pick", "metric": "acc_norm"}), model)
    for key, row in by_example(reference(model, tokenizer, tasks, ["pick"])["samples"]["pick"], "pick").items():
        values = torch.tensor([answer[0] for answer in row["filtered_resps"]], dtype=torch.float64)
        lengths = torch.tensor([len(option) for option in row["doc"]["options"]], dtype=torch.float64)
        gold = row["doc"]["answer"]
        assert found[key].smooth == pytest.approx(values.softmax(0)[gold].item(), abs=CLOSE)
        assert by_length[key].smooth == pytest.approx((values / lengths).softmax(0)[gold].item(), abs=CLOSE)


def test_a_generated_answer_has_the_likelihood_of_its_gold_text(
    make: Make, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tasks: Path
) -> None:
    silent = all_of(make("letter_shots"), model)
    assert {(row.smooth, row.loglikelihood) for row in silent.values()} == {(None, None)}
    found = all_of(make("letter_shots", gold_likelihood=True), model)
    assert {key: row.metric for key, row in found.items()} == {key: row.metric for key, row in silent.items()}
    samples = reference(model, tokenizer, tasks, ["letter_shots"])["samples"]["letter_shots"]
    for key, row in by_example(samples, "letter_shots", "first-letter").items():
        prompt = tokenizer.encode(row["arguments"][0][0])
        answer = tokenizer.encode(" " + row["doc"]["letter"], add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        at = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        expected = sum(logits[place, token].item() for place, token in zip(at, answer, strict=True))
        assert found[key].loglikelihood == pytest.approx(expected, abs=CLOSE)
        assert found[key].smooth == pytest.approx(torch.tensor(expected).exp().item(), rel=1e-3)


def test_progress_reaches_its_total(tasks: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    spec = LmEvalSpec(tasks=["pick", "letter"], include_path=str(tasks))
    evaluator = HarnessEvaluator(
        spec,
        Splits(),
        tokenizer,
        progress=lambda doing, done, total: seen.setdefault(doing, []).append((done, total)),
    )
    all_of(evaluator, model)
    assert seen["preparing pick"] == [(done, 60) for done in range(1, 61)]
    assert seen["preparing letter"] == [(done, 70) for done in range(1, 71)]
    assert seen["generating"][-1] == (70, 70)
    assert [done for done, _ in seen["scoring log-likelihoods"]] == sorted(
        done for done, _ in seen["scoring log-likelihoods"]
    )


def test_objectives_of_a_real_run_are_the_weighted_means(make: Make, model: LlamaForCausalLM) -> None:
    evaluator = make({"task": "pick", "weight": 3}, "pick_shots", {"task": "last", "objective": "recall"})
    outcomes = list(all_of(evaluator, model).values())
    means = task_means(outcomes, evaluator.tasks())
    expected = (3 * means["pick"]["metric"] + means["pick_shots"]["metric"]) / 4
    assert objectives(outcomes, evaluator.tasks()) == {
        "score": pytest.approx(expected),
        "recall": means["last"]["metric"],
    }
