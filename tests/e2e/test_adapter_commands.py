"""Adapters from the command line: a search over them, its export, and adapters merged into one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from merging.materialize import Sources, materialize
from merging.recipe import Recipe
from tests.e2e.commandline import Place
from tests.integration.small_job import job_content, make_shop

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A folder with the small job's `models`, `tasks`, and adapters `math` and `code`; what was started in it ends."""
    here = Place(tmp_path_factory.mktemp("adapters"))
    shop = make_shop(here.folder)
    for seed, name in enumerate(("math", "code")):
        base: Any = AutoModelForCausalLM.from_pretrained(shop.models / "base", dtype=torch.float32)
        tuned = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        tuned.save_pretrained(str(here.folder / name))
    content = job_content(shop) | {"models": {"base": "./models/base", "experts": {"math": "./math", "code": "./code"}}}
    here.write(content | {"search": {"engine": "random", "budget": {"trials": 12}}})
    yield here
    here.kill_all()


def test_a_search_over_adapters_ends_in_a_whole_model(place: Place, tmp_path: Path) -> None:
    place.run("run", "job.yaml")
    assert place.job().state == "done"
    place.run("export", "small", tmp_path / "out")
    recipe = Recipe.model_validate_json((tmp_path / "out" / "mergeopt_recipe.json").read_text())
    made, found = dict(materialize(recipe, Sources(recipe))), load_file(tmp_path / "out" / "model.safetensors")
    assert [Path(source.path).name for source in recipe.experts.values()] == ["math", "code"]
    for name, tensor in made.items():
        assert torch.equal(tensor, found[name])
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not hasattr(model, "peft_config")
    said = place.run("merge-adapters", tmp_path / "out" / "mergeopt_recipe.json", tmp_path / "adapter", "--rank", "4")
    assert "rank 4 to 4" in said.stdout
    base: Any = AutoModelForCausalLM.from_pretrained(place.folder / "models" / "base", dtype=torch.float32)
    over: Any = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).merge_and_unload()
    for name, tensor in over.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name].float(), rtol=1e-4, atol=1e-5)


def test_adapters_merge_into_an_adapter(place: Place, tmp_path: Path) -> None:
    recipe = {"adapters": {"math": "./math", "code": "./code"}, "weights": {"math": 0.5, "code": -0.5}, "rank": 2}
    said = place.run("merge-adapters", place.write(recipe, "adapters.yaml"), tmp_path / "out").stdout
    assert "rank 2 to 2" in said
    assert "of the change" in said
    base = AutoModelForCausalLM.from_pretrained(place.folder / "models" / "base")
    assert peft.PeftModel.from_pretrained(base, str(tmp_path / "out")).peft_config["default"].r == 2
    again = place.run("merge-adapters", "adapters.yaml", tmp_path / "out", code=2).stderr
    assert "must not exist" in again


def test_adapters_that_cannot_be_merged_leave_nothing(place: Place, tmp_path: Path) -> None:
    file = place.folder / "broken" / "adapter_model.safetensors"
    file.parent.mkdir()
    (file.parent / "adapter_config.json").write_text((place.folder / "math" / "adapter_config.json").read_text())
    tensors = load_file(place.folder / "math" / file.name)
    first = next(iter(tensors))
    save_file(tensors | {first: tensors[first] * float("nan")}, file)
    recipe = {"adapters": {"math": "./math", "broken": "./broken"}, "weights": {"math": 0.5, "broken": 0.5}}
    said = place.run("merge-adapters", place.write(recipe, "broken.yaml"), tmp_path / "out", code=2).stderr
    assert first in said
    assert not list(tmp_path.iterdir())
