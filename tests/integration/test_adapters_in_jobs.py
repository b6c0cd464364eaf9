"""A job whose experts are adapters: checked at submit, filled in by workers, scored like any model."""

import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from merging.groups import Group
from merging.materialize import materialize
from merging.sources import Sources
from optimizer.errors import InputError
from optimizer.evaluate import evaluate_model
from optimizer.preflight import preflight
from optimizer.resident import open_resident
from optimizer.spec import read_job_file
from tests.integration.small_job import EXPERTS, Shop, make_shop, write_job


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The small job's models, with adapters in the place of its experts; `merged` holds what peft makes of them."""
    torch.set_num_threads(1)
    made = make_shop(tmp_path_factory.mktemp("shop"))
    for seed, name in enumerate(EXPERTS):
        _write_adapter(made.models, name, seed)
    return made


def _write_adapter(models: Path, name: str, seed: int) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(models / "base", dtype=torch.float32)
    tuned = peft.get_peft_model(base, peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "up_proj"]))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    tuned.save_pretrained(str(models / "adapters" / name))
    whole: Any = tuned.merge_and_unload()
    whole.save_pretrained(models / "merged" / name)


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def job(shop: Shop, folder: Path, **changes: Any) -> Path:
    experts = {name: str(shop.models / "adapters" / name) for name in EXPERTS}
    return write_job(shop, folder, {"models.experts": experts, **changes})


def test_a_worker_is_filled_with_what_the_adapters_make_of_the_base(shop: Shop, tmp_path: Path) -> None:
    spec = read_job_file(job(shop, tmp_path))
    plan = preflight(spec, tmp_path / "job").plan
    rows = {Group(layer, module).name: (0.5, -0.2, 1.0) for layer, module in plan.groups}
    recipe = plan.template.model_copy(update={"coefficients": rows})
    sources = Sources(recipe)
    resident = open_resident(spec, plan.template, sources)
    resident.fill(recipe)
    filled, made = resident.model.state_dict(), dict(materialize(recipe, sources))
    whole = [load_file(shop.models / "merged" / name / "model.safetensors") for name in EXPERTS]
    base = sources.base
    assert base is not None
    for name, tensor in made.items():
        assert torch.equal(filled[name], tensor.to(filled[name].dtype))
        origin = base.tensor(name).float()
        wanted = origin + sum(w * (one[name] - origin) for w, one in zip((0.5, -0.2, 1.0), whole, strict=True))
        torch.testing.assert_close(tensor.float(), wanted, rtol=1e-4, atol=1e-5)


def test_fingerprints_of_adapters_are_in_the_plan(shop: Shop, tmp_path: Path) -> None:
    template = preflight(read_job_file(job(shop, tmp_path)), tmp_path / "job").plan.template
    prints = [source.fingerprint for source in template.experts.values()]
    assert None not in prints
    assert len(dict.fromkeys(prints)) == 3
    assert Sources(template).verify() is None


def test_an_adapter_scores_as_the_model_it_makes(shop: Shop, tmp_path: Path) -> None:
    file = job(shop, tmp_path, **{"evaluate.tasks": ["pick"], "search.signal": "smooth"})
    scored = [
        [one.smooth for one in evaluate_model(str(shop.models / model), file, "test").outcomes]
        for model in ("adapters/north", "merged/north", "base")
    ]
    assert scored[0] == pytest.approx(scored[1], abs=1e-4)
    assert scored[0] != pytest.approx(scored[2], abs=1e-4)


def test_the_plans_notes_say_where_an_adapter_names_another_base(shop: Shop, tmp_path: Path) -> None:
    own = shop.copy(tmp_path)
    file = own.models / "adapters" / "north" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "someone/else"}))
    notes = preflight(read_job_file(job(own, tmp_path)), tmp_path / "job").notes
    assert any("`north` says it was made for someone/else" in note for note in notes)


def test_a_job_of_broken_adapters_is_refused_with_the_tensor(shop: Shop, tmp_path: Path) -> None:
    own = shop.copy(tmp_path)
    file = own.models / "adapters" / "south" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "lora_B" in name)
    tensors[name][0, 0] = math.inf
    save_file(tensors, file)
    with pytest.raises(InputError, match=name):
        preflight(read_job_file(job(own, tmp_path)), tmp_path / "job")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        preflight(read_job_file(job(own, tmp_path)), tmp_path / "job")


def test_a_job_of_adapters_needs_a_base(shop: Shop, tmp_path: Path) -> None:
    file = job(shop, tmp_path, **{"models.base": None, "method": "linear"})
    with pytest.raises(InputError, match="name a `base`"):
        preflight(read_job_file(file), tmp_path / "job")
