"""vLLM itself gives the answers of our torch engine, and takes every merge. Skipped where vLLM is not installed.

Where it is: `pytest tests/integration/vllm_engine`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import WINDOW, WORDS, likelihood_questions, recipes, text_questions

pytest.importorskip("vllm.entrypoints.llm", reason="vLLM is not installed")

from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from evaluators.harness import HarnessEvaluator
from evaluators.lm import Continuation, LanguageModel, Likelihood, Sampling
from evaluators.lm_eval_tasks import LmEvalSpec
from evaluators.shares import Splits
from evaluators.vllm.engine import VllmLanguageModel, VllmModel, open_vllm
from evaluators.vllm.spec import VllmSpec
from merging.folder import write_checkpoint
from merging.live import LiveMerge
from merging.mapped import MappedTensors
from merging.materialize import materialize, merged_dtypes
from merging.recipe import Recipe
from merging.resident import load_into
from merging.sources import Sources
from tests.integration.evaluators.small_tasks import (
    CHOICE,
    LETTER,
    character_tokenizer,
    choice_rows,
    letter_rows,
    write_task,
)

CLOSE = 1e-3  # nats, in float32
TOKENIZER = character_tokenizer(chat=False)


def opened(folder: Path) -> VllmModel:
    """In vLLM as it is built on this machine; a build for CPUs serves these tests as well, but no job."""
    small: dict[str, Any] = {
        "enforce_eager": True,
        "kv_cache_memory_bytes": 1 << 26,
    }  # there are several in this process
    return open_vllm(str(folder), VllmSpec(gpu_memory_utilization=0.1), gpus=1, dtype="float32", **small)


@pytest.fixture(scope="module")
def engine(folder: Path) -> VllmModel:
    """One for all tests on these models."""
    return opened(folder / "base")


@pytest.fixture
def in_vllm(engine: VllmModel, folder: Path) -> VllmLanguageModel:
    """The base's weights, whatever the test before left behind."""
    engine.reload(folder / "base")
    return engine.scoring_engine(TOKENIZER, room=1 << 20)


def in_torch(folder: Path, room: int) -> LanguageModel:
    return LanguageModel(AutoModelForCausalLM.from_pretrained(folder).eval(), TOKENIZER, room)


def assert_alike(found: list[Likelihood], expected: list[Likelihood]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.loglikelihood == pytest.approx(other.loglikelihood, abs=CLOSE, rel=1e-4)
        assert one.greedy == other.greedy


def test_log_likelihoods_are_those_of_the_torch_engine(in_vllm: VllmLanguageModel, folder: Path) -> None:
    asked = in_torch(folder / "base", in_vllm.room)
    prompt = text_questions()[3]
    greedy = Continuation(prompt.tokens, asked.generate([prompt])[0].tokens)
    questions = [*likelihood_questions(), greedy]
    expected = asked.loglikelihoods(questions)
    assert_alike(in_vllm.loglikelihoods(questions), expected)
    assert {answer.greedy for answer in expected} == {True, False}


def test_asking_again_in_another_order_changes_no_log_likelihood(in_vllm: VllmLanguageModel) -> None:
    questions = likelihood_questions()
    first = in_vllm.loglikelihoods(questions)
    assert_alike(list(reversed(in_vllm.loglikelihoods(questions[::-1]))), first)


def test_greedy_texts_are_those_of_the_torch_engine(in_vllm: VllmLanguageModel, folder: Path) -> None:
    questions = text_questions()
    expected = in_torch(folder / "base", in_vllm.room).generate(questions)
    assert in_vllm.generate(questions) == expected
    assert len({answer.text for answer in expected}) > 5
    assert {answer.ended for answer in expected} == {"stop", "end", "length"}


def test_sampled_texts_come_from_their_seeds(in_vllm: VllmLanguageModel) -> None:
    prompt = text_questions(count=4)[3]._replace(max_tokens=12, until=())
    drawn = [prompt._replace(sampling=Sampling(seed, 1.5, top_k=30)) for seed in (1, 2, 3, 2**64 - 1, 1)]
    texts = [answer.text for answer in in_vllm.generate(drawn)]
    assert texts == [answer.text for answer in in_vllm.generate(drawn)]
    assert texts[0] == texts[4]
    assert len(set(texts)) > 2


def reload(engine: VllmModel, tensors: MappedTensors) -> None:
    with tensors.folder() as written:
        engine.reload(written)


def filled(folder: Path, recipe: Recipe) -> Any:
    """The merge in a torch model."""
    model = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
    load_into(model, materialize(recipe, Sources(recipe)))
    return model


def test_after_each_fill_the_engine_answers_as_that_merge(
    in_vllm: VllmLanguageModel, engine: VllmModel, folder: Path
) -> None:
    merges, questions, prompts = recipes(folder, 3), likelihood_questions(), text_questions()
    sources = Sources(merges[0])
    tensors = MappedTensors(sources.reference.shapes, merged_dtypes(merges[0], sources))
    live = LiveMerge(tensors, sources)
    before = in_vllm.generate(prompts)  # its contexts are in the prefix cache now
    for recipe in merges:
        live.fill(recipe)
        reload(engine, tensors)
        expected = LanguageModel(filled(folder, recipe), TOKENIZER, in_vllm.room)
        assert_alike(in_vllm.loglikelihoods(questions), expected.loglikelihoods(questions))
        texts = in_vllm.generate(prompts)
        assert texts == expected.generate(prompts)
        assert texts != before
        before = texts


def parameters(engine: VllmModel, names: list[str]) -> dict[str, torch.Tensor]:
    """Those of the engine's parameters that have one of these names."""

    def read(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: one.detach().cpu().clone() for name, one in model.named_parameters() if name in names}

    [found] = engine._llm.apply_model(read)
    return found


def test_a_filled_engine_has_the_bits_of_the_export(
    in_vllm: VllmLanguageModel, engine: VllmModel, folder: Path, tmp_path: Path
) -> None:
    [recipe], questions = recipes(folder, 1), likelihood_questions()
    sources = Sources(recipe)
    tensors = MappedTensors(sources.reference.shapes, merged_dtypes(recipe, sources))
    LiveMerge(tensors, sources).fill(recipe)
    reload(engine, tensors)
    exported = dict(materialize(recipe, sources))
    held = parameters(engine, list(exported))
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= held.keys()
    for name, tensor in held.items():
        if tensor.shape == exported[name].shape:
            assert torch.equal(tensor, exported[name]), name
    answers = in_vllm.loglikelihoods(questions)
    engine.reload(write_checkpoint(recipe, sources, tmp_path / "export"))
    assert in_vllm.loglikelihoods(questions) == answers


def test_broken_weights_are_noticed(in_vllm: VllmLanguageModel, engine: VllmModel, folder: Path) -> None:
    [recipe] = recipes(folder, 1)
    sources = Sources(recipe)
    tensors = MappedTensors(sources.reference.shapes, merged_dtypes(recipe, sources))
    LiveMerge(tensors, sources).fill(recipe)
    tensors.state_dict()["lm_head.weight"][WORDS // 2] = float("nan")
    reload(engine, tensors)
    assert not any(answer.finite for answer in in_vllm.generate(text_questions()))
    assert all(
        answer.loglikelihood != answer.loglikelihood for answer in in_vllm.loglikelihoods(likelihood_questions())
    )


@pytest.mark.usefixtures("in_vllm")
def test_lm_eval_tasks_have_the_outcomes_of_the_torch_engine(engine: VllmModel, folder: Path, tmp_path: Path) -> None:
    write_task(tmp_path, "pick", {"test": choice_rows(1, 60)}, **CHOICE)
    write_task(tmp_path, "letter", {"validation": letter_rows(2, 40), "test": letter_rows(3, 30)}, **LETTER)
    spec = LmEvalSpec(tasks=("pick", "letter"), include_path=str(tmp_path), gold_likelihood=True)
    make: Callable[[], HarnessEvaluator] = lambda: HarnessEvaluator(spec, Splits(), TOKENIZER)  # noqa: E731
    model = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
    evaluator = make()
    ids = [example.id for example in evaluator.examples()]
    expected = evaluator.score(model, ids)
    for one, other in zip(make().score(engine, ids), expected, strict=True):
        assert (one.id, one.metric) == (other.id, other.metric)
        assert one.loglikelihood == pytest.approx(other.loglikelihood, abs=CLOSE)
    assert len({outcome.metric for outcome in expected}) > 1


SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OTHERS: dict[str, Callable[[], PreTrainedModel]] = {
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=64)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_take_weights_as_well(name: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    for place in ("base", "other"):
        OTHERS[name]().save_pretrained(tmp_path / place)
        TOKENIZER.save_pretrained(tmp_path / place)
    if name == "tied" and not torch.cuda.is_available():
        pytest.skip("on a CPU vLLM packs a copy of the head, which a reload of the embeddings does not reach")
    model, questions, prompts = opened(tmp_path / "base"), likelihood_questions(), text_questions()
    found = model.scoring_engine(TOKENIZER, room=1 << 20)
    for place in ("base", "other", "base"):
        model.reload(tmp_path / place)
        expected = in_torch(tmp_path / place, found.room)
        assert_alike(found.loglikelihoods(questions), expected.loglikelihoods(questions))
        assert found.generate(prompts) == expected.generate(prompts)
