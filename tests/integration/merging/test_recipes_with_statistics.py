"""RegMean, RegMean++ and Fisher merging from a recipe and texts, without an evaluator."""

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from adapter_zoo import adapter, merged_by_peft
from tiny_llama import VOCAB, random_llama, save, with_noise
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from merging.errors import MergeError
from merging.materialize import Sources, materialize
from merging.methods.fisher import fisher_average
from merging.methods.regmean import regmean
from merging.recipe_file import read_recipe
from merging.running_merge import running_grams
from merging.statistics import collect_gram, expert_file, open_statistics
from optimizer.calibrate import calibrate, files_by_expert, read_texts
from optimizer.errors import InputError
from optimizer.merge import MergeOptions, merge, planned

UP = "model.layers.1.mlp.up_proj.weight"
FIRST = "model.layers.0.self_attn.q_proj.weight"
NORM = "model.norm.weight"


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Two fine-tunes with a tokenizer that has a word for each token, and texts for each."""
    base = random_llama(seed=0).float()
    words = PreTrainedTokenizerFast(tokenizer_object=_tokenizer())
    for seed, name in enumerate(("a", "b"), start=1):
        save(with_noise(base, seed, 0.05), tmp_path / name)
        words.save_pretrained(tmp_path / name)
    (tmp_path / "a.txt").write_text("w1 w2 w3 w4 w5\nw7 w6 w5\n\nw9 w1 w1 w2\n")
    answers = [{"prompt": "w20 w21", "answer": "w22 w23"}, {"text": "w30 w20 w40 w41"}]
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(one) for one in answers))
    return tmp_path


def _tokenizer() -> Tokenizer:
    found = Tokenizer(WordLevel({f"w{number}": number for number in range(VOCAB)}, unk_token="w0"))
    found.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    return found


def recipe_file(
    pool: Path, method: str = "regmean", weights: tuple[float, float] = (1.0, 1.0), **settings: Any
) -> Path:
    method_part = {"name": method, "statistics": str(pool / "statistics"), **settings}
    written = {
        "method": method_part,
        "experts": {name: str(pool / name) for name in ("a", "b")},
        "weights": dict(zip(("a", "b"), weights, strict=True)),
    }
    file = pool / f"{method}.yaml"
    file.write_text(json.dumps(written))  # JSON is YAML
    return file


def texts(pool: Path) -> dict[str, Path]:
    return {"a": pool / "a.txt", "b": pool / "b.jsonl"}


def merged(file: Path) -> dict[str, Tensor]:
    recipe = read_recipe(file)
    return dict(materialize(recipe, Sources(recipe)))


def weights_of(pool: Path) -> list[Mapping[str, Tensor]]:
    return [AutoModelForCausalLM.from_pretrained(pool / name).state_dict() for name in ("a", "b")]


def quietly(line: str) -> None:
    """Nobody listens."""


def test_regmean_from_a_recipe_is_the_least_squares_merge_on_the_experts_texts(pool: Path) -> None:
    file = recipe_file(pool, weights=(1.0, 3.0), alpha=0.8)
    files = calibrate(file, texts(pool), quietly)
    assert files == [expert_file(pool / "statistics", "gram", expert) for expert in ("a", "b")]
    grams = [open_statistics(one) for one in files]
    found, own = merged(file), weights_of(pool)
    expected = regmean([one[UP] for one in own], [one.tensor(UP) for one in grams], 0.8, row=(1.0, 3.0))
    assert torch.allclose(found[UP], expected, atol=1e-6)
    assert torch.allclose(found[NORM], (own[0][NORM] + 3 * own[1][NORM]) / 4)
    model = AutoModelForCausalLM.from_pretrained(pool / "a")
    lines = [[1, 2, 3, 4, 5], [7, 6, 5], [9, 1, 1, 2]]
    own_grams = collect_gram(model, [{"input_ids": torch.tensor([line])} for line in lines])
    assert torch.allclose(grams[0].tensor(UP), own_grams[UP], atol=1e-6)


def test_fisher_from_a_recipe_weighs_entries_by_the_gradients_of_the_answers(pool: Path) -> None:
    file = recipe_file(pool, "fisher", weights=(2.0, 1.0))
    fishers = [open_statistics(one) for one in calibrate(file, texts(pool), quietly)]
    found, own = merged(file), weights_of(pool)
    scaled = [one.tensor(UP).double() / one.norm for one in fishers]
    expected = fisher_average([one[UP] for one in own], scaled, (2.0, 1.0))
    assert torch.allclose(found[UP], expected, atol=1e-6)
    model: Any = AutoModelForCausalLM.from_pretrained(pool / "b")
    total = torch.zeros_like(own[1][UP])
    for ids, labels in (([20, 21, 22, 23], [-100, -100, 22, 23]), ([30, 20, 40, 41], [30, 20, 40, 41])):
        model.zero_grad()
        predicted = sum(one >= 0 for one in labels[1:])
        (model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss * predicted).backward()
        total += model.get_parameter(UP).grad.square()
    assert torch.allclose(fishers[1].tensor(UP), total / 2, rtol=1e-3, atol=1e-9)


def test_the_running_merge_shows_each_layer_what_the_merge_before_it_makes(pool: Path) -> None:
    """By hand: the second layer's inputs come from a model whose first layer, and embeddings, are the merge's."""
    file = recipe_file(pool)
    plain = [open_statistics(one).tensor(UP) for one in calibrate(file, texts(pool), quietly)]
    with pytest.raises(InputError, match="must have no statistics yet, but has 2 files"):
        calibrate(file, texts(pool), quietly, running=True)
    shutil.rmtree(pool / "statistics")
    running = [open_statistics(one) for one in calibrate(file, texts(pool), quietly, running=True)]
    assert all(not torch.allclose(one.tensor(UP), other, rtol=1e-3) for one, other in zip(running, plain, strict=True))
    found = merged(file)
    lines = [[1, 2, 3, 4, 5], [7, 6, 5], [9, 1, 1, 2]]
    batches = [{"input_ids": torch.tensor([line])} for line in lines]
    own = weights_of(pool)
    hybrid: Any = AutoModelForCausalLM.from_pretrained(pool / "a")
    average = (own[0]["model.embed_tokens.weight"] + own[1]["model.embed_tokens.weight"]) / 2
    hybrid.get_parameter("model.embed_tokens.weight").data.copy_(average)
    assert torch.allclose(collect_gram(hybrid, batches)[FIRST], running[0].tensor(FIRST), atol=1e-6)
    for name in found:
        if name.startswith("model.layers.0."):
            hybrid.get_parameter(name).data.copy_(found[name])
    assert torch.allclose(collect_gram(hybrid, batches)[UP], running[0].tensor(UP), rtol=1e-4, atol=1e-6)
    for name in found:
        if not name.startswith("lm_head"):
            hybrid.get_parameter(name).data.copy_(found[name])
    head = collect_gram(hybrid, batches)["lm_head.weight"]
    assert torch.allclose(head, running[0].tensor("lm_head.weight"), rtol=1e-4, atol=1e-6)


def test_a_running_merge_of_one_block_is_the_plain_one() -> None:
    sizes = {"vocab_size": 30, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    torch.manual_seed(0)
    other: Any = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    for parameter in other.transformer.h.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    batches = [{"input_ids": torch.tensor([[1, 2, 3, 4]]), "use_cache": False}]
    names = {name: name for name, _ in model.named_parameters()}
    found = running_grams({"a": model, "b": other}, {"a": batches, "b": batches}, names)
    for expert, own in (("a", model), ("b", other)):
        plain = collect_gram(own, batches)
        assert set(found[expert]) == set(plain)
        assert all(torch.allclose(found[expert][name], plain[name], atol=1e-5) for name in plain)


def test_a_running_merge_leaves_the_models_as_they_were(pool: Path) -> None:
    models = {name: AutoModelForCausalLM.from_pretrained(pool / name).eval() for name in ("a", "b")}
    before = {name: {key: one.clone() for key, one in model.state_dict().items()} for name, model in models.items()}
    batches = [{"input_ids": torch.tensor([[1, 2, 3]]), "use_cache": False}]
    names = {name: name for name, _ in models["a"].named_parameters()}
    running_grams(models, dict.fromkeys(models, batches), names)
    for name, model in models.items():
        assert all(torch.equal(one, before[name][key]) for key, one in model.state_dict().items())


def test_a_running_merge_refuses_models_without_one_list_of_blocks() -> None:
    with pytest.raises(MergeError, match="one list"):
        running_grams({"a": nn.Linear(2, 2)}, {"a": []}, {})


def test_a_recipe_without_statistics_or_with_negative_weights_is_refused(pool: Path) -> None:
    file = recipe_file(pool, statistics="")
    with pytest.raises(MergeError, match="needs `statistics`"):
        read_recipe(file)
    with pytest.raises(MergeError, match="must not be negative"):
        read_recipe(recipe_file(pool, weights=(1.0, -0.5)))


def test_a_merge_before_calibration_says_which_file_it_lacks(pool: Path) -> None:
    with pytest.raises(MergeError, match=r"a\.gram\.safetensors.*mergeopt calibrate"):
        merged(recipe_file(pool))


def test_other_statistics_give_another_digest_and_another_place_does_not(pool: Path) -> None:
    file = recipe_file(pool)
    calibrate(file, texts(pool), quietly)
    recipe = read_recipe(file)
    first = Sources(recipe).fingerprinted(recipe)
    shutil.move(pool / "statistics", pool / "moved")
    moved = read_recipe(recipe_file(pool, statistics=str(pool / "moved")))
    assert moved.digest() != recipe.digest()  # nothing is known of what lies there
    assert Sources(moved).fingerprinted(moved).digest() == first.digest()
    swapped = {"a": pool / "b.jsonl", "b": pool / "a.txt"}
    calibrate(recipe_file(pool), swapped, quietly)
    assert Sources(recipe).fingerprinted(recipe).digest() != first.digest()
    with pytest.raises(MergeError, match=r"the statistics must have fingerprint .*collected again"):
        Sources(first).fingerprinted(first)


def test_the_folder_of_a_merge_with_statistics_can_be_made_again_and_names_no_path(pool: Path) -> None:
    file = recipe_file(pool)
    calibrate(file, texts(pool), quietly)
    merge(file, pool / "out", MergeOptions(), quietly)
    card = (pool / "out" / "README.md").read_text()
    assert "statistics statistics" in card
    assert str(pool) not in card
    merge(pool / "out" / "mergeopt_recipe.json", pool / "again", MergeOptions(), quietly)
    assert (pool / "out" / "model.safetensors").read_bytes() == (pool / "again" / "model.safetensors").read_bytes()


def test_a_plan_says_which_statistics_a_merge_would_lack(pool: Path) -> None:
    with pytest.raises(InputError, match=r"a\.gram\.safetensors.*mergeopt calibrate"):
        planned(recipe_file(pool), MergeOptions())


def test_calibration_shows_no_progress_bar_of_another_library(pool: Path, capfd: pytest.CaptureFixture[str]) -> None:
    transformers.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    calibrate(recipe_file(pool), texts(pool), quietly)
    assert capfd.readouterr().err == ""


def test_a_calibration_that_fails_at_its_second_expert_leaves_nothing(pool: Path) -> None:
    (pool / "b.jsonl").write_text('{"text": "w1"}\n')
    with pytest.raises(InputError, match="'w1' leaves none"):
        calibrate(recipe_file(pool, "fisher"), texts(pool), quietly)
    assert [one.name for one in pool.iterdir() if "statistics" in one.name] == []


def test_statistics_that_would_take_the_place_of_a_file_are_refused(pool: Path) -> None:
    file = recipe_file(pool, statistics=str(pool / "a.txt"))
    with pytest.raises(InputError, match=r"a\.txt: `statistics` must be a folder, but is a file"):
        calibrate(file, texts(pool), quietly)


def test_an_adapter_is_calibrated_as_the_model_that_it_makes_of_its_base(pool: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(pool / "a")
    settings = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "up_proj"])
    adapter(base, settings, pool / "lora")
    whole = copy.deepcopy(base)
    whole.load_state_dict(merged_by_peft(base, pool / "lora"))
    save(whole, pool / "whole")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(pool / "a" / file, pool / "whole" / file)
    grams = []
    for expert in ("lora", "whole"):
        written = {
            "method": {"name": "regmean", "statistics": str(pool / f"statistics-{expert}")},
            "base": str(pool / "a"),
            "experts": {"a": str(pool / expert), "b": str(pool / "b")},
            "weights": {"a": 1, "b": 1},
        }
        (pool / "recipe.yaml").write_text(json.dumps(written))
        grams.append(open_statistics(calibrate(pool / "recipe.yaml", texts(pool), quietly)[0]))
    assert all(torch.allclose(grams[0].tensor(name), grams[1].tensor(name), atol=1e-5) for name in grams[1].names)
    assert not torch.allclose(grams[0].tensor(UP), collect_gram(base, [{"input_ids": torch.tensor([[1, 2]])}])[UP])


def test_a_line_of_examples_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    (tmp_path / "web.jsonl").write_text(
        '\ufeff{"text": "w1 \u2028 w2"}\r\n{"text": "w3"}\n', encoding="utf-8", newline=""
    )
    assert [one.text for one in read_texts(tmp_path / "web.jsonl")] == ["w1 \u2028 w2", "w3"]
    (tmp_path / "list.json").write_text('[{"text": "w1"}]')
    with pytest.raises(InputError, match=r"stand in a \.jsonl file"):
        read_texts(tmp_path / "list.json")


def test_texts_that_do_not_fit_the_recipe_are_refused(pool: Path) -> None:
    file = recipe_file(pool)
    with pytest.raises(InputError, match="no expert `c`; there is: a, b"):
        calibrate(file, {"a": pool / "a.txt", "c": pool / "a.txt"}, quietly)
    with pytest.raises(InputError, match="only regmean has a running merge"):
        calibrate(recipe_file(pool, "fisher"), texts(pool), quietly, running=True)
    assert not (pool / "statistics").exists()


@pytest.mark.parametrize(
    ("line", "said"), [("{", "must be JSON"), ('{"prompt": "x"}', "`prompt` and an `answer`"), ("", "has no line")]
)
def test_a_line_that_is_no_example_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "broken.jsonl").write_text(line)
    with pytest.raises(InputError, match=said):
        read_texts(tmp_path / "broken.jsonl")


def test_files_of_texts_are_told_by_expert() -> None:
    assert files_by_expert(["a=x=1.txt", "b=y.jsonl"]) == {"a": Path("x=1.txt"), "b": Path("y.jsonl")}
    with pytest.raises(InputError, match="EXPERT=FILE"):
        files_by_expert(["a.txt"])
    with pytest.raises(InputError, match="`a` has two"):
        files_by_expert(["a=x.txt", "a=y.txt"])
