"""The grammar of merge configs: what is accepted, what is refused, what is left out where that is allowed."""

from pathlib import Path

import pytest

from merging.errors import MergeError
from merging.mergekit.filters import written
from merging.mergekit.modules import owner
from merging.mergekit.read import is_mergekit, read_configs
from merging.mergekit.settings import Setting
from merging.yaml_file import FileError

LINEAR = """
merge_method: linear
models:
- {model: a, parameters: {weight: 1}}
- {model: b, parameters: {weight: 1}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.yml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LINEAR + "dtyp: float32", "unknown key `dtyp`; did you mean `dtype`"),
        (LINEAR.replace("parameters", "parametres", 1), "unknown key `models.0.parametres`; did you mean `parameters`"),
        (LINEAR.replace("weight", "wieght", 1), "`linear` has no parameter `wieght`; did you mean `weight`"),
        (LINEAR.replace("linear", "liner"), "there is no `merge_method` 'liner'; did you mean `linear`"),
        (LINEAR + "dtype: float8", "`dtype`"),
        (LINEAR + "slices: [{sources: [{model: a, layer_range: [0, 1]}]}]", "`models` and `slices`"),
        ("merge_method: linear", "but there is none"),
        (LINEAR + "tokenizer_source: base\ntokenizer: {source: union}", "only one of `tokenizer`"),
        (LINEAR + "chat_template: short", "`chat_template` must be one of auto"),
        (LINEAR + "chat_template: '{% for message in messages %}{{ message }'", "line 1 is none: unexpected '}'"),
        (LINEAR + "chat_template: '{% for message in messages %}{{ message }}'", "Jinja reads, but line 1 is none"),
        (LINEAR + "chat_template: '{{ x }}'", "at least 20 characters with a `{` among them, but is '{{ x }}'"),
        (
            "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0]}]}]",
            "the entry `slices.0.sources.0.layer_range.1` is missing.$",
        ),
        (
            "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 1, 2]}]}]",
            "`slices.0.sources.0.layer_range`: must have at most 2 entries, but has 3$",
        ),
        (LINEAR + "name: a", "so `a` cannot be made from a model `a`"),
        ("merge_method: linear\nslices: [{sources: []}]", "`slices.0.sources`: must have at least 1 entry, but has 0$"),
        ("merge_method: linear\nmodels: [{model: 3}]", r"`models.0.model`: must be a model, as .* \(got 3\)$"),
        ("merge_method: linear\nmodels: [{model: a, parameters: {weight: [1, null]}}]", "but this one holds null"),
        ("merge_method: linear\nmodels: [{model: a, parameters: {weight: .nan}}]", "`: must be a finite number"),
        ("merge_method: linear\nmodels: [{model: a}]\ntokenizer: union", r"write `tokenizer: \{source: union\}`"),
        (
            "merge_method: linear\nmodels: [{model: a}]\ntokenizer: {tokens: {x: {source: {kind: modl}}}}",
            "`kind` must be 'model_token' or 'zero', but is 'modl'",
        ),
        (
            "merge_method: linear\nmodels: [{model: a}]\n"
            "tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}",
            "exactly one of `token` and `token_id` must be given, but neither is",
        ),
        (
            "merge_method: slerp\nslices: [{sources: [{model: a, layer_range: [true, 2]}]}]",
            r"`slices.0.sources.0.layer_range.0`: must be a number \(got true\)",
        ),
        ("merge_method: linear\nmodels: [3]", r"`models.0`: must be a mapping of keys to values \(got 3\)$"),
        ("merge_method: linear\nmodels: a", r"`models`: must be a list \(got 'a'\)$"),
        (LINEAR + "merge_method: slerp", "the key `merge_method` is written twice"),
        ("merge_method: linear\nslices: [{sources: [{model: a, layer_range: [2, 2]}]}]", "`layer_range`"),
        (
            "merge_method: linear\n"
            "slices: [{sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 3]}]}]",
            "must have the same number of layers, but there is \\[0, 2\\] of a, \\[0, 3\\] of b",
        ),
        (LINEAR + "tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}", "`token` and `token_id`"),
    ],
)
def test_what_is_wrong_in_a_config_is_named(text: str, said: str, config: Path) -> None:
    config.write_text(text)
    with pytest.raises((FileError, MergeError), match=said):
        read_configs(config)


def test_a_wrong_source_of_a_slice_is_all_that_is_said(config: Path) -> None:
    config.write_text("merge_method: linear\nslices: [{sources: [{model: a, layer_range: [2, 2]}]}]\n")
    with pytest.raises(FileError) as refusal:
        read_configs(config)
    (line,) = str(refusal.value).splitlines()
    assert "`slices.0.sources.0`: `layer_range` is from the first layer" in line


def test_a_file_that_is_nested_too_deeply_is_refused(config: Path) -> None:
    config.write_text(LINEAR + "parameters: " + "[" * 3000 + "]" * 3000)
    with pytest.raises(FileError, match=r"config\.yml: lists and mappings stand in each other too many times"):
        read_configs(config)


def test_a_lenient_reader_lists_what_it_leaves_out(config: Path) -> None:
    text = LINEAR.replace("{weight: 1}", "{weight: 1, wieght: 2}", 1) + "typo: 1\nparameters: {t: 0.5}\n"
    config.write_text(text.replace("model: b,", "model: b, layer_range: [0, 4],"))
    read = read_configs(config, lenient=True)
    assert [remark.partition(": ")[2] for remark in read.remarks] == [
        "left out the unknown key `models.1.layer_range`.",
        "left out the unknown key `typo`.",
        "left out the unknown parameter `wieght`.",
        "`t` has no effect on `linear`.",
    ]


def test_parameters_of_other_methods_are_carried_along(config: Path) -> None:
    config.write_text(LINEAR + "parameters: {density: 0.5, int8_mask: true}")
    assert [remark.partition(": ")[2] for remark in read_configs(config).remarks] == [
        "`density` has no effect on `linear`.",
        "`int8_mask` has no effect on `linear`.",
    ]


def test_a_config_is_told_from_a_recipe_by_its_keys(config: Path) -> None:
    config.write_text(LINEAR)
    assert is_mergekit(config)
    config.write_text("method: linear\nexperts: {a: a}\nweights: {a: 1}\n")
    assert not is_mergekit(config)


def named(name: str | None, *models: str) -> str:
    listed = "".join(f"- {{model: {model}, parameters: {{weight: 1}}}}\n" for model in models)
    return (f"name: {name}\n" if name else "") + f"merge_method: linear\nmodels:\n{listed}"


def test_merges_come_after_those_they_are_made_from(config: Path) -> None:
    documents = [named(None, "second", "x"), named("second", "first", "y"), named("first", "x", "y")]
    config.write_text("---\n".join(documents))
    assert [one.name for one in read_configs(config).configs] == ["first", "second", None]


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([named("a", "b"), named("b", "a"), named(None, "a")], "must not go in a circle, but a needs b needs a"),
        ([named(None, "x"), named(None, "y")], "only the result may have no `name`"),
        ([named("a", "x"), named("a", "y")], "a `name` of its own"),
        ([named("a", "x"), named("b", "y")], "one document must be the result"),
    ],
)
def test_documents_that_do_not_lead_to_one_result_are_refused(documents: list[str], said: str, config: Path) -> None:
    config.write_text("---\n".join(documents))
    with pytest.raises(FileError, match=said):
        read_configs(config)


def test_tensors_go_to_the_modules_that_a_config_names() -> None:
    both = ["text_decoder", "vision_tower", "multi_modal_projector"]
    assert owner("language_model.model.layers.0.mlp.up_proj.weight", both) == "text_decoder"
    assert owner("model.visual.blocks.0.attn.qkv.weight", both) == "vision_tower"
    assert owner("model.visual.merger.norm.weight", both) == "multi_modal_projector"
    assert owner("lm_head.weight", both) == "text_decoder"
    assert owner("model.visual.blocks.0.attn.qkv.weight", ["text_decoder"]) is None
    assert owner("shared.weight", ["encoder", "decoder"]) is None
    assert owner("encoder.block.0.layer.0.SelfAttention.q.weight", ["encoder", "decoder"]) == "encoder"


@pytest.mark.parametrize("tensor", ["model.layers.0.mlp.up_proj.weight", "lm_head.weight", "encoder.norm.weight"])
def test_default_is_all_of_an_ordinary_model(tensor: str) -> None:
    assert owner(tensor, ["default"]) == "default"


def layers(**values: list[float]) -> dict[str, float]:
    return {
        f"model.layers.{number}.{part.replace('__', '.')}.weight": value
        for part, row in values.items()
        for number, value in enumerate(row)
    }


def test_equal_numbers_are_written_once() -> None:
    assert written({**layers(mlp__up_proj=[0.5, 0.5]), "lm_head.weight": 0.5}) == 0.5


def test_numbers_that_follow_the_layers_become_gradients_by_filter() -> None:
    values = {
        **layers(mlp__up_proj=[0.1, 0.2, 0.3], mlp__down_proj=[0.1, 0.2, 0.3], self_attn__q_proj=[0.5, 0.5, 0.5]),
        "lm_head.weight": 0.5,
        "model.norm.weight": 0.9,
    }
    assert written(values) == [
        {"filter": "norm", "value": 0.9},
        {"filter": "mlp", "value": [0.1, 0.2, 0.3]},
        {"value": 0.5},
    ]


def test_filters_never_pick_a_tensor_with_another_number() -> None:
    values = {
        **layers(input_layernorm=[0.1, 0.2], self_attn__q_norm=[0.3, 0.3], self_attn__q_proj=[0.3, 0.4]),
        "model.norm.weight": 0.7,
        "model.embed_tokens.weight": 0.7,
    }
    setting = Setting.model_validate(written(values))
    for name, value in values.items():
        layer = 1.0 if ".layers.1." in name else 0.0
        assert setting.at(name, layer, float) == pytest.approx(value)


def test_numbers_that_filters_cannot_tell_apart_are_refused() -> None:
    values = {"a.b.weight": 0.1, "a.b.weight.c": 0.2, "xa.b.weight": 0.3, "a.b.weight.cd": 0.4, "b": 0.3}
    with pytest.raises(MergeError, match="no filter of mergekit"):
        written({**values, "a.b": 0.5})
