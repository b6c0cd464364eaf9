"""Adapters merged into an adapter: peft loads it, and over the base it is what the same merge of whole models is."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from adapter_zoo import ALL_LINEAR, ATTENTION, Convolutions, adapter, gpt2, llama, merged_by_peft, save_base
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging.adapters.factors import Factors, factor_sum, product_sum, truncated
from merging.adapters.recipe import AdapterRecipe, merge_adapters, read_adapter_recipe
from merging.checkpoint import CheckpointError
from merging.errors import MergeError
from merging.folder import write_checkpoint
from merging.materialize import materialize
from merging.recipe import Recipe, Source, Visit
from merging.sources import Sources
from merging.yaml_file import FileError

LORA = peft.LoraConfig
FILE = "adapter_model.safetensors"


def lora(folder: Path, seed: int, model: Callable[[], Any] = llama, **settings: Any) -> Path:
    facts = {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, **settings}
    return adapter(model(), LORA(**facts), folder, seed)


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, Path]:
    """Two adapters that differ in rank, scale and modules."""
    return {
        "one": lora(tmp_path / "one", 1),
        "two": lora(tmp_path / "two", 2, r=3, use_rslora=True, target_modules=["q_proj", "up_proj", "o_proj"]),
    }


@pytest.fixture
def twins(tmp_path: Path) -> dict[str, Path]:
    """Two adapters of one shape."""
    return {"one": lora(tmp_path / "one", 1), "two": lora(tmp_path / "two", 2)}


def merged(folders: dict[str, Path], weights: tuple[float, ...], out: Path, **facts: Any) -> Path:
    recipe = AdapterRecipe.model_validate(
        {
            "adapters": {name: {"path": str(folder)} for name, folder in folders.items()},
            "weights": dict(zip(folders, weights, strict=True)),
            **facts,
        }
    )
    merge_adapters(recipe, out)
    return out


def densely(model: Any, folders: dict[str, Path], weights: tuple[float, ...]) -> dict[str, Tensor]:
    """base + the weighted sum of what peft makes of each adapter."""
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    total = {name: tensor.clone() for name, tensor in base.items()}
    for folder, weight in zip(folders.values(), weights, strict=True):
        for name, tensor in merged_by_peft(model, folder).items():
            total[name] += weight * (tensor - base[name])
    return total


def refusal(folders: dict[str, Path], weights: tuple[float, ...], out: Path, **facts: Any) -> str:
    with pytest.raises((MergeError, CheckpointError)) as refused:
        merged(folders, weights, out, **facts)
    assert not out.exists()
    return str(refused.value)


def same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1.0, -0.7), (0.0, 2.0)])
def test_a_merged_adapter_is_the_dense_merge(weights: tuple[float, ...], pair: dict[str, Path], tmp_path: Path) -> None:
    out = merged(pair, weights, tmp_path / "out")
    same(merged_by_peft(llama(), out), densely(llama(), pair, weights))


def test_a_merged_adapter_is_task_arithmetic_over_the_base(pair: dict[str, Path], tmp_path: Path) -> None:
    base = save_base(llama(), tmp_path / "base")

    def made(folders: dict[str, Path], row: tuple[float, ...]) -> dict[str, Tensor]:
        experts = {name: Source(path=str(folder)) for name, folder in folders.items()}
        recipe = Recipe(method="task_arithmetic", base=Source(path=str(base)), experts=experts, coefficients={})
        sources = Sources(recipe)
        return dict(
            materialize(
                recipe.model_copy(update={"coefficients": {group.name: row for group in sources.groups}}), sources
            )
        )

    out = merged(pair, (0.6, -0.3), tmp_path / "out")
    same(made({"merged": out}, (1.0,)), made(pair, (0.6, -0.3)))


def test_peft_finds_every_tensor_of_a_merged_adapter(pair: dict[str, Path], tmp_path: Path) -> None:
    out = merged(pair, (0.5, 0.5), tmp_path / "out")
    model = peft.PeftModel.from_pretrained(llama(), str(out))
    saved, loaded = load_file(out / FILE), peft.get_peft_model_state_dict(model)
    assert sorted(saved) == sorted(loaded)
    for name, tensor in saved.items():
        assert torch.equal(tensor, loaded[name]), name


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (gpt2, {"fan_in_fan_out": True, "target_modules": ["c_attn", "c_proj"], "lora_bias": True}),
        (Convolutions, {"target_modules": ["wide", "point", "line", "last"]}),
        (llama, {"target_modules": r".*layers\.1\..*(q|down)_proj"}),
        (llama, {"target_modules": ATTENTION, "layers_to_transform": [0]}),
        (llama, {"target_modules": ALL_LINEAR, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}}),
    ],
    ids=["gpt2", "convolutions", "regex", "one-layer", "patterns"],
)
def test_every_layout_of_lora_merges(model: Callable[[], Any], settings: dict[str, Any], tmp_path: Path) -> None:
    folders = {name: lora(tmp_path / name, seed, model, **settings) for seed, name in enumerate(("one", "two"), 1)}
    out = merged(folders, (0.7, -0.4), tmp_path / "out")
    same(merged_by_peft(model(), out), densely(model(), folders, (0.7, -0.4)))


def test_modules_held_whole_are_summed_around_the_base(tmp_path: Path) -> None:
    base = save_base(llama(), tmp_path / "base")
    folders = {
        "one": lora(tmp_path / "one", 1, modules_to_save=["lm_head", "norm"]),
        "two": lora(tmp_path / "two", 2, modules_to_save=["norm"]),
    }
    assert "name the `base`" in refusal(folders, (0.5, 0.5), tmp_path / "out")
    out = merged(folders, (0.5, 0.25), tmp_path / "out", base={"path": str(base)})
    same(merged_by_peft(llama(), out), densely(llama(), folders, (0.5, 0.25)))


def test_embeddings_merge(tmp_path: Path) -> None:
    base = save_base(llama(), tmp_path / "base")
    folders = {
        name: lora(tmp_path / name, seed, target_modules=["embed_tokens", "v_proj"])
        for seed, name in enumerate(("one", "two"), 1)
    }
    out = merged(folders, (0.5, -1.0), tmp_path / "out", base={"path": str(base)})
    same(merged_by_peft(llama(), out), densely(llama(), folders, (0.5, -1.0)))


def test_negating_twice_gives_the_adapter_back(twins: dict[str, Path], tmp_path: Path) -> None:
    one = {"one": twins["one"]}
    once = merged(one, (-1.0,), tmp_path / "once")
    twice = merged({"once": once}, (-1.0,), tmp_path / "twice")
    base, there, back = llama().state_dict(), merged_by_peft(llama(), once), merged_by_peft(llama(), twice)
    forth = merged_by_peft(llama(), twins["one"])
    for name in base:
        torch.testing.assert_close(there[name] - base[name], base[name] - forth[name], rtol=1e-4, atol=1e-6)
    same(back, forth)


def test_negation_is_the_sign_of_b_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    part = Factors(torch.randn(3, 8, generator=generator), torch.randn(5, 3, generator=generator))
    for made in (product_sum([part], [-1.0]), factor_sum([part], [-1.0])):
        assert torch.equal(made.a, part.a)
        assert torch.equal(made.b, -part.b)
        torch.testing.assert_close(made.b @ made.a, -(part.b @ part.a))


def test_sums_of_factors_are_not_sums_of_products(twins: dict[str, Path], tmp_path: Path) -> None:
    out = merged(twins, (0.5, 0.5), tmp_path / "out", combine="factors")
    tensors = [load_file(folder / FILE) for folder in twins.values()]
    made, settings = load_file(out / FILE), json.loads((out / "adapter_config.json").read_text())
    scale = settings["lora_alpha"] / settings["r"]
    for name in made:
        mean = (tensors[0][name] + tensors[1][name]) / 2
        torch.testing.assert_close(made[name], mean * (2 / scale if "lora_B" in name else 1))
    wanted = densely(llama(), twins, (0.5, 0.5))
    name = "model.layers.0.self_attn.q_proj.weight"
    away = merged_by_peft(llama(), out)[name] - wanted[name]
    assert away.norm() > 0.3 * (wanted[name] - llama().state_dict()[name]).norm()


def test_factors_of_one_start_average_to_nearly_the_mean_of_products(tmp_path: Path) -> None:
    shared = lora(tmp_path / "one", 1)
    tensors = load_file(shared / FILE)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "adapter_config.json").write_text((shared / "adapter_config.json").read_text())
    # A is shared, as where it was frozen: then the two sums are one
    save_file({name: t * 3 if "lora_B" in name else t for name, t in tensors.items()}, tmp_path / "two" / FILE)
    folders = {"one": shared, "two": tmp_path / "two"}
    out = merged(folders, (0.5, 0.5), tmp_path / "out", combine="factors")
    same(merged_by_peft(llama(), out), densely(llama(), folders, (0.5, 0.5)))


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_cut_to_a_rank_is_the_nearest_there_is(rank: int, pair: dict[str, Path], tmp_path: Path) -> None:
    out = merged(pair, (1.0, -0.5), tmp_path / "out", rank=rank)
    base, made, whole = llama().state_dict(), merged_by_peft(llama(), out), densely(llama(), pair, (1.0, -0.5))
    for name in base:
        change = (whole[name] - base[name]).double()
        if change.ndim < 2 or not change.any():
            continue
        u, values, vh = torch.linalg.svd(change)
        nearest = u[:, :rank] * values[:rank] @ vh[:rank]
        torch.testing.assert_close((made[name] - base[name]).double(), nearest, rtol=1e-4, atol=1e-5)


def test_the_error_of_a_cut_is_what_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    part = Factors(torch.randn(6, 40, generator=generator), torch.randn(30, 6, generator=generator))
    near, lost, all_of_it = truncated(part, 2)
    assert near.rank == 2
    away = (near.b @ near.a - part.b @ part.a).double().square().sum()
    torch.testing.assert_close(float(away), lost, rtol=1e-4, atol=0)
    torch.testing.assert_close(float((part.b @ part.a).double().square().sum()), all_of_it, rtol=1e-4, atol=0)


def test_the_error_of_all_modules_is_a_share_of_the_whole_change(pair: dict[str, Path], tmp_path: Path) -> None:
    models = {name: {"path": str(folder)} for name, folder in pair.items()}
    recipe = AdapterRecipe.model_validate({"adapters": models, "weights": {"one": 1.0, "two": 0.5}, "rank": 3})
    combined = merge_adapters(recipe, tmp_path / "out")
    base, made, whole = (
        llama().state_dict(),
        merged_by_peft(llama(), tmp_path / "out"),
        densely(llama(), pair, (1, 0.5)),
    )
    lost = sum(float((made[name] - whole[name]).square().sum()) for name in base)
    change = sum(float((whole[name] - base[name]).square().sum()) for name in base)
    assert combined.total_error == pytest.approx((lost / change) ** 0.5, rel=1e-3)
    # those that only the adapter of rank 3 changes are not cut
    assert "model.layers.0.mlp.up_proj" in combined.factors
    assert "model.layers.0.mlp.up_proj" not in combined.error


def test_a_cut_that_loses_nothing_changes_nothing(twins: dict[str, Path], tmp_path: Path) -> None:
    out = merged({"one": twins["one"], "again": twins["one"]}, (0.5, 0.5), tmp_path / "out", rank=4)
    same(merged_by_peft(llama(), out), merged_by_peft(llama(), twins["one"]))
    assert "0.00% of the change is lost" in (out / "README.md").read_text()


def test_ia3_is_summed_as_distances_from_one(tmp_path: Path) -> None:
    config = peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])
    folders = {name: adapter(llama(), config, tmp_path / name, seed) for seed, name in enumerate(("one", "two"), 1)}
    read = [load_file(folder / FILE) for folder in folders.values()]
    negated = load_file(merged({"one": folders["one"]}, (-1.0,), tmp_path / "negated") / FILE)
    mean = load_file(merged(folders, (0.5, 0.5), tmp_path / "mean") / FILE)
    for name in read[0]:
        torch.testing.assert_close(negated[name], 2 - read[0][name])
        torch.testing.assert_close(mean[name], (read[0][name] + read[1][name]) / 2)
    back = merged({"negated": tmp_path / "negated"}, (-1.0,), tmp_path / "back")
    same(merged_by_peft(llama(), back), merged_by_peft(llama(), folders["one"]))


def test_a_merged_ia3_over_the_base_is_task_arithmetic(tmp_path: Path) -> None:
    config = peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    folders = {name: adapter(llama(), config, tmp_path / name, seed) for seed, name in enumerate(("one", "two"), 1)}
    out = merged(folders, (0.5, -0.8), tmp_path / "out")
    same(merged_by_peft(llama(), out), densely(llama(), folders, (0.5, -0.8)))


def test_adapters_that_do_not_go_together_are_refused(twins: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    ia3 = adapter(llama(), peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]), tmp_path / "ia3")
    assert "`ia3` is IA3" in refusal({**twins, "ia3": ia3}, (1.0, 1.0, 1.0), out)
    dora = lora(tmp_path / "dora", 3, use_dora=True)
    assert "`dora` is a DoRA" in refusal({**twins, "dora": dora}, (1.0, 1.0, 1.0), out)
    wider = lora(tmp_path / "wider", 3, r=5)
    assert "the same rank" in refusal({**twins, "wider": wider}, (1.0, 1.0, 1.0), out, combine="factors")
    scaled = lora(tmp_path / "scaled", 3, lora_alpha=9)
    assert "the same scale" in refusal({**twins, "scaled": scaled}, (1.0, 1.0, 1.0), out, combine="factors")
    fewer = lora(tmp_path / "fewer", 3, target_modules=["q_proj"])
    assert "`fewer` lacks" in refusal({**twins, "fewer": fewer}, (1.0, 1.0, 1.0), out, combine="factors")
    other = lora(tmp_path / "other", 3, gpt2, target_modules=["c_attn"], fan_in_fan_out=True)
    assert "fan_in_fan_out" in refusal({**twins, "other": other}, (1.0, 1.0, 1.0), out)
    assert "leave it out" in refusal(twins, (1.0, 1.0), out, combine="factors", rank=2)


def test_nan_and_overflow_are_named(twins: dict[str, Path], tmp_path: Path) -> None:
    assert "lora_B" in refusal(twins, (1e30, 1.0), tmp_path / "out", dtype="float16")
    tensors = load_file(twins["two"] / FILE)
    name = next(iter(tensors))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, twins["two"] / FILE)
    assert f"`{name}` must be finite" in refusal(twins, (1.0, 1.0), tmp_path / "out")


def test_a_target_that_exists_is_left_alone(twins: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(MergeError, match="must not exist"):
        merged(twins, (1.0, 1.0), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_recipe_file_says_what_to_merge(twins: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("adapters: {one: ./one, two: {path: ./two}}\nweights: {one: 0.5, two: 0.5}\ndtype: bfloat16\n")
    recipe = read_adapter_recipe(file)
    assert [model.path for model in recipe.adapters.values()] == [str(folder) for folder in twins.values()]
    merge_adapters(recipe, tmp_path / "out")
    with safe_open(tmp_path / "out" / FILE, "pt") as opened:
        assert {opened.get_slice(name).get_dtype() for name in opened.keys()} == {"BF16"}  # noqa: SIM118
    file.write_text("adapters: {one: ./one}\nwieghts: {one: 0.5}\n")
    with pytest.raises(FileError, match="did you mean `weights`"):
        read_adapter_recipe(file)


def test_every_adapter_has_one_weight(twins: dict[str, Path], tmp_path: Path) -> None:
    facts = {"adapters": {name: {"path": str(folder)} for name, folder in twins.items()}}
    few, many = {"one": 1.0}, {"one": 1.0, "two": 1.0, "six": 1.0}
    for weights, said in ((few, "`two` has none"), (many, "`six`, which is no adapter")):
        with pytest.raises(MergeError, match=said):
            merge_adapters(AdapterRecipe.model_validate(facts | {"weights": weights}), tmp_path / "out")


def test_a_whole_model_among_the_adapters_is_refused(twins: dict[str, Path], tmp_path: Path) -> None:
    base = save_base(copy.deepcopy(llama()), tmp_path / "base")
    assert "must be an adapter's folder" in refusal({**twins, "whole": base}, (1.0, 1.0, 1.0), tmp_path / "out")


def test_rows_by_group_are_those_of_a_whole_merge(pair: dict[str, Path], tmp_path: Path) -> None:
    base = save_base(llama(), tmp_path / "base")
    experts = {name: Source(path=str(folder)) for name, folder in pair.items()}
    recipe = Recipe(method="task_arithmetic", base=Source(path=str(base)), experts=experts, coefficients={})
    sources = Sources(recipe)
    rows = {group.name: (0.1 * number, 1 - 0.3 * number) for number, group in enumerate(sources.groups)}
    recipe = recipe.model_copy(update={"coefficients": rows})
    file = write_checkpoint(recipe, sources, tmp_path / "whole") / "mergeopt_recipe.json"
    merge_adapters(read_adapter_recipe(file), tmp_path / "out")
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    made = merged_by_peft(llama(), tmp_path / "out")
    same({name: made[name] for name in whole}, whole)


def test_a_merge_that_is_not_of_adapters_is_no_adapter(pair: dict[str, Path], tmp_path: Path) -> None:
    base = Source(path=str(save_base(llama(), tmp_path / "base")))
    experts = {name: Source(path=str(folder)) for name, folder in pair.items()}
    file = tmp_path / "recipe.json"
    file.write_text(Recipe(method="ties", base=base, experts=experts, coefficients={}).model_dump_json())
    with pytest.raises(MergeError, match="but this one is by `ties`"):
        read_adapter_recipe(file)
    whole = Recipe(method="task_arithmetic", base=base, experts=experts | {"whole": base}, coefficients={})
    file.write_text(whole.model_dump_json())
    with pytest.raises(CheckpointError, match="must be an adapter's folder"):
        merge_adapters(read_adapter_recipe(file), tmp_path / "out")
    longer = Recipe(method="task_arithmetic", base=base, experts=experts, coefficients={}, path=(Visit(layer=0),) * 3)
    file.write_text(longer.model_dump_json())
    with pytest.raises(MergeError, match="but this one follows a path of layers"):
        read_adapter_recipe(file)


def test_the_adapter_of_a_whole_merge_is_refused_where_an_adapter_was_changed_since(
    pair: dict[str, Path], tmp_path: Path
) -> None:
    base = Source(path=str(save_base(llama(), tmp_path / "base")))
    experts = {name: Source(path=str(folder)) for name, folder in pair.items()}
    recipe = Recipe(method="task_arithmetic", base=base, experts=experts, coefficients={})
    sources = Sources(recipe)
    rows = {group.name: (1.0, 1.0) for group in sources.groups}
    file = tmp_path / "recipe.json"
    file.write_text(sources.fingerprinted(recipe.model_copy(update={"coefficients": rows})).model_dump_json())
    read_adapter_recipe(file)
    weights = pair["one"] / "adapter_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(MergeError, match="must have fingerprint"):
        read_adapter_recipe(file)
    short = recipe.model_copy(update={"coefficients": {"layer.0.attention": (1.0,)}})
    file.write_text(short.model_dump_json())
    with pytest.raises(MergeError, match=r"`layer\.0\.attention` must have one weight for each of one, two, but has 1"):
        read_adapter_recipe(file)


def test_a_row_for_a_group_that_no_adapter_changes_is_answered_with_the_nearest(
    pair: dict[str, Path], tmp_path: Path
) -> None:
    row = {"one": 1.0, "two": 1.0}
    models = {name: {"path": str(folder)} for name, folder in pair.items()}
    wrong = AdapterRecipe.model_validate(
        {"adapters": models, "coefficients": {"default": row, "layr.0.attention": row}}
    )
    with pytest.raises(MergeError, match=r"the group `layr\.0\.attention`; did you mean `layer\.0\.attention`"):
        merge_adapters(wrong, tmp_path / "out")


def test_adapters_that_name_different_bases_are_merged_with_a_note(pair: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in pair.items():
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": f"org/{name}"}))
    recipe = AdapterRecipe.model_validate(
        {"adapters": {name: str(folder) for name, folder in pair.items()}, "weights": {"one": 1, "two": 1}}
    )
    assert merge_adapters(recipe, tmp_path / "out").notes == (
        "the adapters say they were made for different bases: one for org/one, two for org/two.",
    )


def test_a_group_without_a_row_is_named(pair: dict[str, Path], tmp_path: Path) -> None:
    row = {"one": 1.0, "two": 1.0}
    models = {name: {"path": str(folder)} for name, folder in pair.items()}
    few = AdapterRecipe.model_validate({"adapters": models, "coefficients": {"layer.0.attention": row}})
    with pytest.raises(MergeError, match=r"`layer\.0\.mlp` has none"):
        merge_adapters(few, tmp_path / "out")
    default = few.model_copy(update={"coefficients": {"layer.0.attention": row, "default": row}})
    merge_adapters(default, tmp_path / "out")
    same(merged_by_peft(llama(), tmp_path / "out"), densely(llama(), pair, (1.0, 1.0)))
    with pytest.raises(ValueError, match="neither is"):
        AdapterRecipe.model_validate({"adapters": models})
