"""Layers may be left out, repeated, scaled, and taken from one model; a live model computes what the export does."""

import re
from pathlib import Path

import pytest
import torch
from tiny_llama import recipe_over
from transformers import LlamaForCausalLM

from merging.folder import write_checkpoint
from merging.live_path import LivePath
from merging.materialize import MergeError, Sources, materialize, steps
from merging.recipe import Recipe, Visit
from merging.recipe_file import read_recipe
from merging.yaml_file import FileError

PATHS = [
    (Visit(layer=1),),
    (Visit(layer=0), Visit(layer=0), Visit(layer=1)),
    (Visit(layer=0), Visit(layer=1, source="sort"), Visit(layer=1, scale=0.5), Visit(layer=0, source="base")),
    (Visit(layer=0, source="add", scale=1.5), Visit(layer=1)),
]


def along(zoo: Path, path: tuple[Visit, ...] | None) -> Recipe:
    return recipe_over(zoo).model_copy(update={"path": path})


def made(recipe: Recipe) -> dict[str, torch.Tensor]:
    return dict(materialize(recipe, Sources(recipe)))


def test_a_recipe_file_may_lay_its_layers_out_along_a_path(zoo: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    text = f"method: task_arithmetic\nbase: {zoo / 'base'}\nexperts: {{sort: {zoo / 'sort'}}}\nweights: {{sort: 0.5}}\n"
    file.write_text(text + "path: [1, {layer: 0, source: sort}, {layer: 0, scale: 0.5}]\n")
    recipe = read_recipe(file)
    assert recipe.path == (Visit(layer=1), Visit(layer=0, source="sort"), Visit(layer=0, scale=0.5))
    assert "model.layers.2.mlp.up_proj.weight" in made(recipe)
    for path, said in (
        ("[true]", "`path.0`: must be a layer's number, or a mapping with its `layer` (got true)"),
        ("[{layer: 0, scale: true}]", "`path.0.scale`: must be a number (got true)"),
        ("[{layer: 0, source: srt}]", "but there is no `srt`; did you mean `sort`?"),
    ):
        file.write_text(text + f"path: {path}\n")
        with pytest.raises((FileError, MergeError), match=re.escape(said)):
            read_recipe(file)


def test_the_models_own_path_is_no_path(zoo: Path) -> None:
    plain, own = made(along(zoo, None)), made(along(zoo, (Visit(layer=0), Visit(layer=1))))
    assert plain.keys() == own.keys()
    assert all(torch.equal(plain[name], own[name]) for name in plain)


def test_a_recipe_without_a_path_keeps_the_digest_it_had_and_every_path_has_its_own(zoo: Path) -> None:
    digests = [along(zoo, path).digest() for path in (None, *PATHS)]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("path", PATHS)
def test_each_layer_of_the_result_is_the_one_that_the_path_names(zoo: Path, path: tuple[Visit, ...]) -> None:
    plain, found = made(along(zoo, None)), made(along(zoo, path))
    sources = Sources(along(zoo, None))
    models = {"base": sources.base, **sources.experts}
    for number, visit in enumerate(path):
        own = f"model.layers.{visit.layer}."
        for name in (one for one in plain if one.startswith(own)):
            stored = plain[name] if visit.source is None else models[visit.source].tensor(name)
            tensor = found[f"model.layers.{number}.{name.removeprefix(own)}"]
            if name.endswith(("o_proj.weight", "down_proj.weight")) and visit.scale != 1:
                assert torch.allclose(tensor.float(), stored.float() * visit.scale, rtol=1e-2)
                assert not torch.equal(tensor, stored)
            else:
                assert torch.equal(tensor, stored)
    assert len([name for name in found if name.endswith("mlp.up_proj.weight")]) == len(path)


@pytest.mark.parametrize("path", PATHS)
def test_an_export_has_the_path_s_layers_loads_and_writes_the_same_with_a_cache(
    zoo: Path, tmp_path: Path, path: tuple[Visit, ...]
) -> None:
    recipe = along(zoo, path)
    folder = write_checkpoint(recipe, Sources(recipe), tmp_path / "out", card_text="#\n")
    model, told = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.num_hidden_layers == len(path)
    asked = torch.tensor([[1, 2, 3]])
    cached, fresh = (model.generate(asked, max_new_tokens=6, do_sample=False, use_cache=way) for way in (True, False))
    assert torch.equal(cached, fresh)


def test_a_live_model_computes_what_each_export_would_whatever_it_was_before(zoo: Path, tmp_path: Path) -> None:
    sources = Sources(along(zoo, None))
    config = LlamaForCausalLM.from_pretrained(zoo / "base").config
    config.num_hidden_layers = 4
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    live = LivePath(model, sources, 4)
    asked = torch.tensor([[5, 9, 2, 7]])
    for number, path in enumerate((*PATHS, None, PATHS[0], PATHS[2])):
        recipe = along(zoo, path)
        live.fill(recipe)
        folder = write_checkpoint(recipe, Sources(recipe), tmp_path / str(number), card_text="#\n")
        exported = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        with torch.no_grad():
            assert torch.equal(model(asked).logits, exported(asked).logits)


def test_only_what_differs_is_written_anew(zoo: Path) -> None:
    sources = Sources(along(zoo, None))
    config = LlamaForCausalLM.from_pretrained(zoo / "base").config
    config.num_hidden_layers = 4
    live = LivePath(LlamaForCausalLM(config).to(torch.bfloat16), sources, 4)
    live.fill(along(zoo, PATHS[1]))
    marked = live.targets["model.layers.0.mlp.up_proj.weight"]
    with torch.no_grad():
        marked.fill_(7.0)  # whoever writes it anew takes the mark away
    live.fill(along(zoo, (Visit(layer=0), Visit(layer=1))))
    assert bool((marked == 7.0).all())


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ((), "at least one layer"),
        ((Visit(layer=2),), "layers 0 to 1, but is 2"),
        ((Visit(layer=0, source="srot"),), "did you mean `sort`"),
    ],
)
def test_a_path_that_is_none_is_refused(zoo: Path, path: tuple[Visit, ...], said: str) -> None:
    recipe = along(zoo, path)
    with pytest.raises(MergeError, match=said):
        steps(recipe, Sources(recipe))


def test_a_path_longer_than_the_live_model_is_refused(zoo: Path) -> None:
    config = LlamaForCausalLM.from_pretrained(zoo / "base").config
    live = LivePath(LlamaForCausalLM(config), Sources(along(zoo, None)), 2)
    with pytest.raises(MergeError, match="has 3 layers, but the model has 2"):
        live.fill(along(zoo, PATHS[1]))
