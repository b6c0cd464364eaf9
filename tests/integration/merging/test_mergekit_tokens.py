"""Models with tokens of their own: one vocabulary, rows by token, and what is said about them before."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from mergekit_cases import make_models
from safetensors.torch import load_file
from tokenizers import Tokenizer

from merging.checkpoint import open_checkpoint
from merging.errors import CheckpointError, MergeError
from merging.mergekit.prepare import prepare
from merging.mergekit.read import read_configs
from merging.mergekit.write import merge_file
from merging.recipe import Source
from merging.tokenizers.known import known_tokens
from merging.tokenizers.report import report_lines, token_report
from optimizer.errors import InputError
from optimizer.tokens import compare_tokens


@pytest.fixture
def models(tmp_path: Path) -> Path:
    make_models(tmp_path / "models")
    return tmp_path / "models"


def merged(models: Path, text: str) -> Path:
    (models / "config.yml").write_text(text)
    merge_file(read_configs(models / "config.yml"), models / "merged", lambda _: None)
    return models / "merged"


def average(*names: str) -> str:
    models = "".join(f"- {{model: {name}, parameters: {{weight: 1}}}}\n" for name in names)
    return f"merge_method: linear\ndtype: float32\nmodels:\n{models}"


def row(folder: Path, token: str, tensor: str = "lm_head.weight") -> torch.Tensor:
    number = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(token)
    return load_file(folder / "model.safetensors")[tensor][number]


def test_a_union_keeps_the_rows_of_the_first_model_and_merges_by_token(models: Path) -> None:
    made = merged(models, average("ta", "tb", "tc") + "tokenizer: {source: union}\n")
    ids = Tokenizer.from_file(str(made / "tokenizer.json")).get_vocab()
    first = Tokenizer.from_file(str(models / "ta" / "tokenizer.json")).get_vocab()
    assert {token: ids[token] for token in first} == first
    assert sorted(ids) == ["<im>", "<s>", "<x>", "a", "ab", "b", "cd", "ef", "gh"]
    everywhere = [row(models / name, "a") for name in ("ta", "tb", "tc")]
    assert torch.allclose(row(made, "a"), sum(everywhere[1:], everywhere[0]) / 3, atol=1e-6)
    assert torch.allclose(row(made, "gh"), row(models / "tc", "gh"), atol=1e-6)
    config = json.loads((made / "config.json").read_text())
    assert config["vocab_size"] == len(ids) == load_file(made / "model.safetensors")["lm_head.weight"].shape[0]


def test_the_same_union_comes_out_every_time(models: Path) -> None:
    text = average("ta", "tb", "tc") + "tokenizer: {source: union}\n"
    first = (merged(models, text) / "tokenizer.json").read_bytes()
    shutil.rmtree(models / "merged")
    assert (merged(models, text) / "tokenizer.json").read_bytes() == first


def test_padding_of_one_model_is_cut_where_tokens_are_the_same(models: Path) -> None:
    shutil.copy(models / "ta" / "tokenizer.json", models / "tb" / "tokenizer.json")
    made = merged(models, average("ta", "tb"))
    assert load_file(made / "model.safetensors")["model.embed_tokens.weight"].shape[0] == 6
    assert json.loads((made / "config.json").read_text())["vocab_size"] == 6
    expected = (row(models / "ta", "cd") + row(models / "tb", "cd")) / 2
    assert torch.allclose(row(made, "cd"), expected, atol=1e-6)


def test_embeddings_and_head_of_stacked_models_are_cut_to_one_size(models: Path) -> None:
    shutil.copy(models / "tb" / "tokenizer.json", models / "ta" / "tokenizer.json")
    slices = "[{sources: [{model: tb, layer_range: [0, 1]}]}, {sources: [{model: ta, layer_range: [1, 2]}]}]"
    made = load_file(merged(models, f"merge_method: passthrough\nslices: {slices}\n") / "model.safetensors")
    assert made["model.embed_tokens.weight"].shape == made["lm_head.weight"].shape == (6, 4)


def test_rows_of_different_tokens_are_not_cut_together(models: Path) -> None:
    with pytest.raises(MergeError, match=r"6 of tb\), and tb has 2 tokens at rows where ta has others, 'cd' first"):
        merged(models, average("ta", "tb"))


def test_rows_of_different_tokens_are_pointed_out_where_sizes_agree(models: Path) -> None:
    (models / "config.yml").write_text(average("tb", "tc"))
    (config,) = read_configs(models / "config.yml").configs
    (remark,) = prepare(config, models).remarks
    assert remark.startswith("tc has 6 tokens at rows where tb has others, 'b' first")


def test_a_model_without_a_tokenizer_is_taken_to_have_the_first_ones(models: Path) -> None:
    (models / "y" / "tokenizer.json").unlink()
    made = merged(models, average("x", "y") + "tokenizer: {source: union}\n")
    assert torch.allclose(row(made, "c"), (row(models / "x", "c") + _rows(models / "y")[2]) / 2, atol=1e-6)


def _rows(folder: Path) -> torch.Tensor:
    return load_file(folder / "model.safetensors")["lm_head.weight"]


def test_tokens_of_the_first_model_without_a_row_are_left_out(models: Path) -> None:
    tokenizer = Tokenizer.from_file(str(models / "x" / "tokenizer.json"))
    tokenizer.add_tokens(["beyond"])
    tokenizer.save(str(models / "x" / "tokenizer.json"))
    made = merged(models, average("x", "tb") + "tokenizer: {source: base}\n")
    assert Tokenizer.from_file(str(made / "tokenizer.json")).token_to_id("beyond") is None


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("{source: union, tokens: {new: {source: y}}}", "come from y, but that is none of ta, tb"),
        ("{source: union, tokens: {new: {source: tb}}}", "that of token 'new' in tb, which has no such token"),
        (
            "{source: union, tokens: {new: {source: {kind: model_token, model: tb, token_id: 99}}}}",
            "that of token 99 in tb, which has no such token",
        ),
        (
            "{source: td}",
            "`tokenizer.source` must be union, base, a model of the merge or a folder with a tokenizer.json",
        ),
    ],
)
def test_rows_that_are_not_there_are_refused(said: str, reason: str, models: Path) -> None:
    with pytest.raises(MergeError, match=reason):
        merged(models, average("ta", "tb") + f"tokenizer: {said}\n")


def test_the_tokens_may_be_those_of_a_model_that_is_not_merged(models: Path) -> None:
    made = merged(models, average("ta", "tb") + "tokenizer: {source: tc}\n")
    ids, wanted = (Tokenizer.from_file(str(one / "tokenizer.json")).get_vocab() for one in (made, models / "tc"))
    assert ids == wanted
    assert torch.equal(row(made, "gh"), torch.zeros(4))


def test_a_report_says_which_tokens_come_from_whom(models: Path) -> None:
    known = {name: known_tokens(open_checkpoint(Source(path=str(models / name)))) for name in ("ta", "tb", "tc")}
    report = token_report(known)
    assert (report["union"], report["in_all"], report["alike"]) == (9, 2, False)
    assert report["models"]["tc"]["own"] == ["gh", "<x>"]
    assert report["models"]["tb"]["moved"] == ["cd"]
    assert report["models"]["ta"]["padding"] == 3
    text = "\n".join(report_lines(report))
    assert "tb: 6 tokens in 6 rows, 0 of them padding" in text
    assert "2 tokens ('ef', '<im>') that ta lacks" in text
    assert "tokenizer: {source: union}" in text


def test_what_cannot_be_told_without_a_tokenizer_is_not_claimed(models: Path) -> None:
    (models / "y" / "tokenizer.json").unlink()
    report = compare_tokens([str(models / "x"), str(models / "y")])
    assert (report["alike"], report["same_rows"]) == (None, None)
    last = list(report_lines(report))[-1]
    assert last.startswith("Whether tokens have the same rows in all models cannot be told")
    assert str(models / "y") in last


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "must be a tokenizer, with a `vocab` in its `model`, but has none"),
        ('{"model": {"vocab": {}}, "added_tokens": [{"content": "a"}]}', "must each have `content` and `id`"),
    ],
)
def test_json_that_is_no_tokenizer_is_refused_with_its_name(content: str, said: str, models: Path) -> None:
    (models / "tb" / "tokenizer.json").write_text(content)
    for names in (("ta", "tb"), ("tb", "ta")):
        with pytest.raises(CheckpointError, match=rf"tb/tokenizer\.json: .*{said}"):
            merged(models, average(*names) + "tokenizer: {source: union}\n")
    with pytest.raises(InputError, match=rf"tb/tokenizer\.json: .*{said}"):
        compare_tokens([str(models / "ta"), str(models / "tb")])


@pytest.mark.parametrize(
    ("model", "said"),
    [("", "a model of '': must have at least 1 character"), ("a@b@c", "a model of 'a@b@c': a model may have one `@`")],
)
def test_what_names_no_model_is_answered_in_one_line(model: str, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        compare_tokens([model])
    assert str(refusal.value).startswith(said)
    assert "\n" not in str(refusal.value)


def test_a_tokenizer_of_no_known_kind_is_refused_with_its_name(models: Path) -> None:
    (models / "ta" / "tokenizer.json").write_text('{"model": {"type": "other", "vocab": {"a": 0}}}')
    with pytest.raises(MergeError, match=r"ta/tokenizer\.json: cannot be read as a tokenizer"):
        merged(models, average("ta", "tb") + "tokenizer: {source: union}\n")


def test_models_with_the_same_tokens_are_said_to_be_alike(models: Path) -> None:
    report = compare_tokens([str(models / "x"), str(models / "y")])
    assert report["alike"]
    assert list(report_lines(report))[-1].startswith("Every token has the same row in all models")
