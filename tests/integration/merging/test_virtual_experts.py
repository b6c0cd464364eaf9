"""Closed-form merges are written once as ordinary checkpoints and found again."""

import fcntl
import json
import multiprocessing
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import VOCAB, random_llama, recipe_over, save, with_noise
from torch import Tensor
from transformers import AutoModelForCausalLM

from merging.checkpoint import fingerprint, open_checkpoint
from merging.closed_form import fisher_tensors, regmean_tensors
from merging.errors import MergeError
from merging.materialize import Sources, materialize
from merging.methods.regmean import regmean
from merging.norms import squared_norms
from merging.recipe import Recipe, Source
from merging.statistics import (
    Kind,
    Statistics,
    collect_fisher,
    collect_gram,
    open_statistics,
    statistics_key,
    write_statistics,
)
from optimizer.virtual import STATISTICS, VIRTUAL, Calibration, Virtual, make_virtual

EVERY = pytest.mark.parametrize("kind", VIRTUAL)
WITH_DATA = pytest.mark.parametrize("kind", list(STATISTICS))
EXAMPLES = {"reverse": ["t:1", "t:2"], "sort": ["t:3"], "add": ["t:4", "t:5"]}


def known(folder: Path, **changes: Any) -> Recipe:
    recipe = recipe_over(folder, **changes).model_copy(update={"coefficients": {}})
    return Sources(recipe).fingerprinted(recipe)


def collected(folder: Path, kind: Kind, expert: str) -> dict[str, Tensor]:
    """On random tokens, another draw for every expert."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder / expert, dtype=torch.float32)
    draws = [
        torch.randint(VOCAB, (1, 20), generator=torch.Generator().manual_seed(sum(map(ord, one))))
        for one in EXAMPLES[expert]
    ]
    if kind == "gram":
        return collect_gram(model, [{"input_ids": ids} for ids in draws])
    return collect_fisher(model, (model(input_ids=ids, labels=ids).loss for ids in draws))


def files_of(folder: Path, template: Recipe, kind: Kind, at: Path) -> Callable[[str], Path]:
    """What a worker does: the file of an expert's statistics."""

    def collect(expert: str) -> Path:
        key = statistics_key(kind, str(template.experts[expert].fingerprint), EXAMPLES[expert])
        return write_statistics(at / f"{expert}.safetensors", kind, key, collected(folder, kind, expert))

    return collect


def calibration(kind: Virtual, folder: Path, template: Recipe, at: Path) -> Calibration | None:
    if kind not in STATISTICS:
        return None
    return Calibration(EXAMPLES, files_of(folder, template, STATISTICS[kind], at))


def made(kind: Virtual, folder: Path, at: Path, **changes: Any) -> Source:
    template = known(folder, **changes)
    return make_virtual(kind, template, at / "virtual", calibration(kind, folder, template, at / "statistics"))


def statistics(folder: Path, kind: Kind, at: Path, experts: int = 3) -> dict[str, Statistics]:
    template = known(folder, experts=experts)
    collect = files_of(folder, template, kind, at)
    return {expert: open_statistics(collect(expert)) for expert in template.experts}


def weights(source: Source) -> dict[str, Tensor]:
    opened = open_checkpoint(source)
    return {name: opened.tensor(name).clone() for name in opened.names}


@EVERY
def test_a_virtual_expert_is_an_ordinary_expert_of_the_base(zoo: Path, tmp_path: Path, kind: Virtual) -> None:
    source = made(kind, zoo, tmp_path)
    template = known(zoo)
    assert template.base is not None
    base, found = weights(template.base), weights(source)
    assert {name: (one.dtype, one.shape) for name, one in found.items()} == {
        name: (one.dtype, one.shape) for name, one in base.items()
    }
    assert any(not torch.equal(found[name], base[name]) for name in base)
    assert AutoModelForCausalLM.from_pretrained(source.path).dtype == torch.bfloat16
    joined = template.model_copy(update={"experts": {**template.experts, "virtual": source}})
    sources = Sources(joined)  # opens it and finds it compatible
    sources.verify()
    rows = dict.fromkeys([group.name for group in sources.groups], (0.0, 0.0, 0.0, 1.0))
    for name, merged in materialize(joined.model_copy(update={"coefficients": rows}), sources):
        assert torch.equal(merged, found[name])


@EVERY
def test_it_is_made_once_and_found_again_without_its_statistics(zoo: Path, tmp_path: Path, kind: Virtual) -> None:
    source = made(kind, zoo, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "virtual").rglob("*") if file.suffix != ".lock"}

    def refuse(expert: str) -> Path:
        raise AssertionError(f"statistics of {expert} were asked for again")

    again = make_virtual(kind, known(zoo), tmp_path / "virtual", Calibration(EXAMPLES, refuse))
    assert again == source
    assert {file: file.stat().st_mtime_ns for file in before} == before


@EVERY
def test_a_second_making_has_the_same_bits(zoo: Path, tmp_path: Path, kind: Virtual) -> None:
    one, other = made(kind, zoo, tmp_path / "one"), made(kind, zoo, tmp_path / "other")
    assert one.path != other.path
    assert one.fingerprint == other.fingerprint == fingerprint(open_checkpoint(other))


@EVERY
def test_it_does_not_depend_on_where_the_models_lie_or_on_the_trials_settings(
    zoo: Path, tmp_path: Path, kind: Virtual
) -> None:
    source = made(kind, zoo, tmp_path)
    shutil.copytree(zoo, tmp_path / "elsewhere")
    moved = made(kind, tmp_path / "elsewhere", tmp_path, method="ties", dtype="float32", seed=5)
    assert moved == source


@EVERY
def test_what_it_was_made_from_stands_beside(zoo: Path, tmp_path: Path, kind: Virtual) -> None:
    source, template = made(kind, zoo, tmp_path), known(zoo)
    said = json.loads(Path(f"{source.path}.json").read_text())
    assert template.base is not None
    assert (said["kind"], said["base"], said["fingerprint"]) == (kind, template.base.fingerprint, source.fingerprint)
    assert said["experts"] == {name: model.fingerprint for name, model in template.experts.items()}
    assert {name: one["examples"] for name, one in said["calibration"].items()} == (
        {name: len(ids) for name, ids in EXAMPLES.items()} if kind in STATISTICS else {}
    )
    assert str(zoo) not in json.dumps(said)


def damage_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")


def damage_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def forget(folder: Path) -> None:
    Path(f"{folder}.json").unlink()


@EVERY
@pytest.mark.parametrize("harm", [damage_weights, damage_file, forget, shutil.rmtree])
def test_one_that_is_not_whole_is_made_again_with_the_same_bits(
    zoo: Path, tmp_path: Path, kind: Virtual, harm: Callable[[Path], None]
) -> None:
    source = made(kind, zoo, tmp_path)
    before = weights(source)
    harm(Path(source.path))
    left = Path(source.path).with_name(f".{Path(source.path).name}.abc.partial")
    left.mkdir()  # what a killed process leaves
    assert made(kind, zoo, tmp_path) == source
    assert all(torch.equal(one, before[name]) for name, one in weights(source).items())
    assert not left.exists()


def _make_in_process(zoo: Path, at: Path, answers: Any) -> None:
    torch.set_num_threads(1)
    answers.put(make_virtual("iso", known(zoo), at).model_dump())


def test_two_processes_that_want_the_same_make_it_once(zoo: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=_make_in_process, args=(zoo, tmp_path / "v", answers)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert found[0] == found[1]
    assert len([one for one in (tmp_path / "v").iterdir() if one.is_dir()]) == 1


def test_nobody_else_makes_one_while_it_is_being_made(zoo: Path, tmp_path: Path) -> None:
    template = known(zoo)
    collect = files_of(zoo, template, "gram", tmp_path)

    def busy(expert: str) -> Path:
        (lock,) = (tmp_path / "v").glob("*.lock")
        with lock.open("w") as stream, pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return collect(expert)

    make_virtual("regmean", template, tmp_path / "v", Calibration(EXAMPLES, busy))


def test_ties_and_iso_are_their_methods_at_weight_one(zoo: Path, tmp_path: Path) -> None:
    for kind, method, structure in (("ties", "ties", {"density": 0.2}), ("iso", "iso_c", {})):
        recipe = recipe_over(zoo, method, structure=structure)
        recipe = recipe.model_copy(update={"coefficients": dict.fromkeys(recipe.coefficients, (1.0, 1.0, 1.0))})
        found = weights(made(kind, zoo, tmp_path))  # type: ignore[arg-type]
        assert all(torch.equal(merged, found[name]) for name, merged in materialize(recipe, Sources(recipe)))


def test_regmean_merges_linear_layers_by_their_inputs_and_averages_the_rest(zoo: Path, tmp_path: Path) -> None:
    found, template = weights(made("regmean", zoo, tmp_path)), known(zoo)
    experts = [weights(source) for source in template.experts.values()]
    grams = [collected(zoo, "gram", expert) for expert in template.experts]
    assert len(grams[0]) == 15
    for name, merged in found.items():
        own = [expert[name].float() for expert in experts]
        average = sum(own[1:], own[0]) / 3
        expected = regmean(own, [gram[name] for gram in grams]) if name in grams[0] else average
        assert torch.equal(merged, expected.bfloat16())
        assert torch.equal(merged, average.bfloat16()) == (name not in grams[0])


@WITH_DATA
def test_with_one_expert_the_closed_form_is_that_expert(zoo: Path, tmp_path: Path, kind: Virtual) -> None:
    source, template = made(kind, zoo, tmp_path, experts=1), known(zoo, experts=1)
    assert source.fingerprint == template.experts["reverse"].fingerprint


@WITH_DATA
def test_with_the_same_statistics_for_all_it_is_the_average(zoo: Path, tmp_path: Path, kind: Virtual) -> None:
    own = statistics(zoo, STATISTICS[kind], tmp_path)
    same = dict.fromkeys(own, own["sort"])
    sources = Sources(known(zoo))
    tensors = regmean_tensors(sources, same) if kind == "regmean" else fisher_tensors(sources, same)
    for name, merged in tensors:
        experts = [expert.tensor(name).float() for expert in sources.experts.values()]
        assert torch.allclose(merged.float(), sum(experts[1:], experts[0]) / 3, atol=1e-3, rtol=1e-2)


def test_the_scale_of_one_experts_loss_does_not_change_fisher_merging(zoo: Path, tmp_path: Path) -> None:
    own, sources = statistics(zoo, "fisher", tmp_path), Sources(known(zoo))
    first = own["reverse"]
    louder = {name: 1e4 * first.tensor(name) for name in first.names}
    changed = {
        **own,
        "reverse": open_statistics(write_statistics(tmp_path / "loud.safetensors", "fisher", first.key, louder)),
    }
    plain, scaled = dict(fisher_tensors(sources, own)), dict(fisher_tensors(sources, changed))
    assert all(torch.allclose(one.float(), scaled[name].float(), rtol=1e-2) for name, one in plain.items())


def test_a_base_in_float32_gets_virtual_experts_in_float32(tmp_path: Path) -> None:
    base = random_llama(0).float()
    for seed, name in enumerate(("base", "reverse", "sort", "add")):
        save(with_noise(base, seed) if seed else base, tmp_path / "zoo" / name)
    for kind in VIRTUAL:
        assert {one.dtype for one in weights(made(kind, tmp_path / "zoo", tmp_path)).values()} == {torch.float32}


@WITH_DATA
def test_heads_that_are_not_merged_are_left_alone(zoo: Path, tmp_path: Path, kind: Virtual) -> None:
    source, template = made(kind, zoo, tmp_path, unmerged=("head",), coefficients={}), known(zoo)
    assert template.base is not None
    found, base = weights(source), weights(template.base)
    assert torch.equal(found["lm_head.weight"], base["lm_head.weight"])
    assert source.fingerprint != made(kind, zoo, tmp_path).fingerprint


def test_weights_with_inputs_first_are_merged_as_their_transposed_ones(zoo: Path, tmp_path: Path) -> None:
    """GPT-2 keeps them so; here the model is told of one matrix that is square."""
    own, sources = statistics(zoo, "gram", tmp_path), Sources(known(zoo))
    name = "model.layers.0.self_attn.o_proj.weight"
    turned = {}
    for expert, one in own.items():
        file = write_statistics(tmp_path / f"t{expert}", "gram", one.key, {name: one.tensor(name)}, (name,))
        turned[expert] = open_statistics(file)
    merged = dict(regmean_tensors(sources, turned))[name]
    expected = regmean(
        [expert.tensor(name).T.contiguous() for expert in sources.experts.values()],
        [one.tensor(name) for one in turned.values()],
    ).T
    assert torch.equal(merged, expected.bfloat16())


def refused(kind: Virtual, template: Recipe, at: Path, given: Calibration | None = None) -> str:
    with pytest.raises(MergeError) as caught:
        make_virtual(kind, template, at / "virtual", given)
    assert not [one for one in (at / "virtual").glob("*") if one.is_dir()]
    return str(caught.value)


def test_what_cannot_be_made_is_refused_and_leaves_nothing(zoo: Path, tmp_path: Path) -> None:
    template = known(zoo)
    assert "name a `base`" in refused("ties", template.model_copy(update={"base": None}), tmp_path)
    assert "but the base, `reverse`" in refused("iso", recipe_over(zoo), tmp_path)
    assert "needs calibration examples" in refused("regmean", template, tmp_path)
    lacking: Mapping[str, list[str]] = {**EXAMPLES, "sort": []}
    given = Calibration(lacking, files_of(zoo, template, "fisher", tmp_path))
    assert "but sort have none" in refused("fisher", template, tmp_path, given)
    wrong = Calibration(EXAMPLES, files_of(zoo, template, "gram", tmp_path))
    assert "must hold fisher statistics of `reverse`" in refused("fisher", template, tmp_path, wrong)
    swapped = Calibration({**EXAMPLES, "add": ["t:9"]}, files_of(zoo, template, "gram", tmp_path))
    assert "statistics of `add` on its calibration examples" in refused("regmean", template, tmp_path, swapped)


def test_models_that_changed_since_are_refused(copy_of: Callable[[str], Path], zoo: Path, tmp_path: Path) -> None:
    folder = copy_of("sort")
    template = known(zoo)
    moved = {**template.experts, "sort": template.experts["sort"].model_copy(update={"path": str(folder)})}
    damage_weights(folder)
    assert "must have fingerprint" in refused("ties", template.model_copy(update={"experts": moved}), tmp_path)


def test_statistics_of_another_model_are_refused(zoo: Path, tmp_path: Path) -> None:
    own, sources = statistics(zoo, "gram", tmp_path), Sources(known(zoo))

    def with_add(name: str, tensor: Tensor) -> dict[str, Statistics]:
        return {**own, "add": open_statistics(write_statistics(tmp_path / "x", "gram", "k", {name: tensor}))}

    with pytest.raises(MergeError, match="has no tensor `stranger`"):
        list(regmean_tensors(sources, with_add("stranger", torch.ones(2, 2))))
    with pytest.raises(MergeError, match="must be 32 by 32 for every expert"):
        list(regmean_tensors(sources, with_add("lm_head.weight", torch.ones(2, 2))))
    with pytest.raises(MergeError, match="`add` must be of the kind fisher"):
        fisher_tensors(sources, {**statistics(zoo, "fisher", tmp_path / "f"), "add": own["add"]})
    with pytest.raises(MergeError, match="but sort, add have none"):
        regmean_tensors(sources, {"reverse": own["reverse"]})


def test_norms_of_task_vectors_are_theirs_group_by_group(zoo: Path) -> None:
    template = known(zoo)
    assert template.base is not None
    found, base = squared_norms(Sources(template)), weights(template.base)
    for expert, source in template.experts.items():
        whole = sum(float((one.double() - base[name].double()).square().sum()) for name, one in weights(source).items())
        assert sum(found[expert].values()) == pytest.approx(whole, rel=1e-6)
        head = weights(source)["lm_head.weight"].double() - base["lm_head.weight"].double()
        assert found[expert]["head"] == pytest.approx(float(head.square().sum()), rel=1e-6)
    with pytest.raises(MergeError, match="name a `base`"):
        squared_norms(Sources(template.model_copy(update={"base": None})))
