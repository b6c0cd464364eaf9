"""Any folder of safetensors can be searched: other libraries' names, no config, image models, modules of the user's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForImageClassification, ResNetConfig, ViTConfig

from merging.checkpoint import Checkpoint, CheckpointError, file_hashes, fingerprint, open_checkpoint
from merging.folder import write_checkpoint
from merging.materialize import Sources, materialize
from merging.recipe import Recipe, Source
from optimizer.errors import InputError
from optimizer.evaluate import evaluate_model
from optimizer.plan import Plan
from optimizer.preflight import preflight
from optimizer.spec import JobFile, read_job_file
from optimizer.worker import Worker

DIFFUSERS = "diffusion_pytorch_model"
MODELS = ("base", "left", "right")
CONFIG = {"_class_name": "Net", "channels": 4}

NET = """
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.down_blocks = nn.ModuleList([nn.Linear(2, 4)])
        self.norm = nn.BatchNorm1d(4)
        self.scale = nn.Parameter(torch.ones(()))
        self.up_blocks = nn.ModuleList([nn.Linear(4, 1)])

    def forward(self, x):
        return self.scale * self.up_blocks[0](self.norm(self.down_blocks[0](x)))


def load(folder):
    model = Net()
    (file,) = Path(folder).glob("*.safetensors")
    model.load_state_dict(load_file(file))
    return model


def inputs(documents):
    return torch.tensor([document["x"] for document in documents])


def output(model, documents):
    return model(inputs(documents))[:, 0]


def output_of_tensors(model, documents):
    return torch.func.functional_call(Net().eval(), dict(model.tensors()), inputs(documents))[:, 0]


def first_logit(model, documents):
    size = model.config.image_size if hasattr(model.config, "image_size") else 16
    pixels = [torch.rand(3, size, size, generator=torch.Generator().manual_seed(one["seed"])) for one in documents]
    return model(torch.stack(pixels)).logits[:, 0]


def fails_on_large_scales(model, documents):
    if model.scale > 1.02:
        raise OverflowError("too large")
    return output(model, documents)
"""


def net_tensors(seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = {
        "down_blocks.0.weight": (4, 2),
        "down_blocks.0.bias": (4,),
        "norm.weight": (4,),
        "norm.bias": (4,),
        "norm.running_mean": (4,),
        "norm.running_var": (4,),
        "scale": (),
        "up_blocks.0.weight": (1, 4),
        "up_blocks.0.bias": (1,),
    }
    tensors = {name: 1 + 0.1 * torch.rand(shape, generator=random) for name, shape in shapes.items()}
    return tensors | {"norm.num_batches_tracked": torch.tensor(seed)}


def net_folders(root: Path, name: str = f"{DIFFUSERS}.safetensors", config: bool = True) -> Path:
    """A base and two experts as another library saves them."""
    for seed, model in enumerate(MODELS):
        (root / model).mkdir(parents=True)
        save_file(net_tensors(seed), root / model / name)
        if config:
            (root / model / "config.json").write_text(json.dumps(CONFIG))
    return root


def sources(root: Path, **options: Any) -> tuple[Recipe, Sources]:
    base, *experts = (Source(path=str(root / name)) for name in MODELS)
    recipe = Recipe(
        method="task_arithmetic",
        base=base,
        experts=dict(zip(MODELS[1:], experts, strict=True)),
        coefficients={},
        **options,
    )
    opened = Sources(recipe)
    rows = {group.name: (0.5, 0.25) for group in opened.groups}
    return recipe.model_copy(update={"coefficients": rows}), opened


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(Source(path=str(folder)))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        opened(folder)
    return str(caught.value)


# ---- names of files


def test_a_folder_of_diffusers_comes_back_under_its_own_names(tmp_path: Path) -> None:
    recipe, models = sources(net_folders(tmp_path / "models"))
    (tmp_path / "models" / "base" / "scheduler_config.json").write_text('{"steps": 1000}')
    whole = write_checkpoint(recipe, models, tmp_path / "whole")
    names = sorted(file.name for file in whole.iterdir())
    assert names == [
        "README.md",
        "config.json",
        f"{DIFFUSERS}.safetensors",
        "mergeopt_provenance.json",
        "mergeopt_recipe.json",
        "scheduler_config.json",
    ]
    assert json.loads((whole / "config.json").read_text()) == CONFIG

    cut = write_checkpoint(recipe, models, tmp_path / "cut", max_shard_bytes=60)
    index = json.loads((cut / f"{DIFFUSERS}.safetensors.index.json").read_text())
    files = sorted(file.name for file in cut.glob("*.safetensors"))
    assert files[0] == f"{DIFFUSERS}-00001-of-{len(files):05d}.safetensors"
    assert sorted(set(index["weight_map"].values())) == files
    assert fingerprint(opened(cut)) == fingerprint(opened(whole))
    assert file_hashes(opened(cut)).keys() == {*files, "config.json", f"{DIFFUSERS}.safetensors.index.json"}


def test_an_export_of_a_cut_folder_is_named_like_it(tmp_path: Path) -> None:
    recipe, models = sources(net_folders(tmp_path / "models", name="unet.safetensors"))
    cut = write_checkpoint(recipe, models, tmp_path / "models2" / "base", max_shard_bytes=60)
    assert opened(cut).stem == "unet"
    for name in MODELS[1:]:
        write_checkpoint(recipe, models, tmp_path / "models2" / name, max_shard_bytes=60)
    again, models = sources(tmp_path / "models2")
    assert (write_checkpoint(again, models, tmp_path / "out") / "unet.safetensors").is_file()


@pytest.mark.parametrize("name", ["weights.safetensors", "unet-00001-of-00001.safetensors", "a.fp16.safetensors"])
def test_one_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    recipe, models = sources(net_folders(tmp_path / "models", name, config=False))
    folder = write_checkpoint(recipe, models, tmp_path / "out")
    assert not (folder / "config.json").exists()
    (file,) = folder.glob("*.safetensors")
    assert file.name == name.replace("-00001-of-00001", "")


def test_the_names_of_transformers_and_diffusers_come_before_others(tmp_path: Path) -> None:
    folder = net_folders(tmp_path) / "base"
    save_file({"other": torch.zeros(1)}, folder / f"{DIFFUSERS}.fp16.safetensors")
    assert opened(folder).files == (f"{DIFFUSERS}.safetensors",)
    save_file({"third": torch.zeros(1)}, folder / "model.safetensors")
    assert opened(folder).names == ("third",)


def test_several_files_without_an_index_are_refused(tmp_path: Path) -> None:
    folder = net_folders(tmp_path, "a.safetensors") / "base"
    save_file({"other": torch.zeros(1)}, folder / "b.safetensors")
    assert "there are 2 and no index: a.safetensors, b.safetensors. Put the one to merge into a folder" in refusal(
        folder
    )


def test_a_shard_whose_others_are_missing_is_refused(tmp_path: Path) -> None:
    folder = net_folders(tmp_path, "model-00002-of-00003.safetensors") / "base"
    assert "model-00002-of-00003.safetensors is one of 3 shards, but there is no index" in refusal(folder)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "pytorch_lora_weights.safetensors"])
def test_an_adapter_is_not_taken_for_the_one_file(tmp_path: Path, name: str) -> None:
    assert "holds a LoRA adapter" in refusal(net_folders(tmp_path, name) / "base")


def test_a_merge_is_loaded_as_a_model_where_its_base_had_an_adapters_config(tmp_path: Path) -> None:
    recipe, models = sources(net_folders(tmp_path / "models"))
    (tmp_path / "models" / "base" / "adapter_config.json").write_text("{}")
    assert not (write_checkpoint(recipe, models, tmp_path / "out") / "adapter_config.json").exists()


# ---- what is in them


def test_scalars_running_statistics_and_counters_are_merged_as_they_should(tmp_path: Path) -> None:
    recipe, models = sources(net_folders(tmp_path))
    merged = dict(materialize(recipe, models))
    base, left, right = map(net_tensors, range(3))
    for name in ("scale", "norm.running_var", "down_blocks.0.weight"):
        expected = base[name] + 0.5 * (left[name] - base[name]) + 0.25 * (right[name] - base[name])
        assert merged[name].shape == base[name].shape
        torch.testing.assert_close(merged[name], expected)
    assert merged["norm.num_batches_tracked"].item() == 0


def test_only_transformers_ties_a_head_to_equal_embeddings(tmp_path: Path) -> None:
    table = torch.rand(5, 3)
    save_file({"output.weight": table, "embeddings.weight": table.clone()}, tmp_path / "net.safetensors")
    assert opened(tmp_path).names == ("embeddings.weight", "output.weight")
    (tmp_path / "net.safetensors").rename(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert opened(tmp_path).names == ("embeddings.weight",)


# ---- whole jobs, without the cluster around them

VIT = ViTConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
)
RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")


def image_models(root: Path, config: Any) -> Path:
    for seed, name in enumerate(MODELS):
        torch.manual_seed(seed)
        model = AutoModelForImageClassification.from_config(config)
        with torch.no_grad():
            for buffer in model.buffers():
                buffer.add_(torch.rand(buffer.shape).to(buffer.dtype))  # as if it had seen images
        model.save_pretrained(root / name)
    return root


def job_file(root: Path, models: Path, load: str, function: str, code: str = NET) -> Path:
    """A job over the models whose evaluator is one of the functions in `code`."""
    (root / "own.py").write_text(code)
    rows = [{"x": [number / 10, 1.0], "seed": number} for number in range(30)]
    (root / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    content = {
        "name": "any",
        "models": {
            "base": str(models / "base"),
            "experts": {name: str(models / name) for name in MODELS[1:]},
            "load": load,
        },
        "space": {"granularity": "layerwise"},
        "evaluate": {"evaluator": "python", "name": "net", "function": f"own.py:{function}", "data": "data.jsonl"},
        "search": {"budget": {"trials": 20}},
    }
    file = root / "job.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def searched(file: Path) -> tuple[JobFile, Plan, Worker, list[str]]:
    """What `submit` checks and a worker opens; and the examples of the test split."""
    job = read_job_file(file)
    checked = preflight(job, file.parent / "jobs")
    worker = Worker(job.model_dump(mode="json"), checked.plan.model_dump(mode="json"))
    return job, checked.plan, worker, [example.id for example in checked.examples if example.split == "test"]


KINDS = {
    "vision transformer": ("AutoModelForImageClassification", "first_logit"),
    "convolutions with running statistics": ("AutoModelForImageClassification", "first_logit"),
    "a function's module": ("own.py:load", "output"),
    "bare tensors": ("tensors", "output_of_tensors"),
}
CONFIGS = {"vision transformer": VIT, "convolutions with running statistics": RESNET}


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_scores_what_its_trial_scored_whatever_the_model_is(tmp_path: Path, kind: str) -> None:
    load, function = KINDS[kind]
    config = CONFIGS.get(kind)
    models = image_models(tmp_path / "models", config) if config else net_folders(tmp_path / "models", config=False)
    file = job_file(tmp_path, models, load, function)
    _, plan, worker, ids = searched(file)
    scored = {}
    for baseline in (*plan.baselines, plan.baselines[0]):  # the first once more, written over others
        answer = worker.score(baseline.recipe.model_dump(mode="json"), ids)
        assert answer["error"] is None
        assert scored.setdefault(baseline.label, answer["metric"]) == answer["metric"]
    assert len({tuple(metric) for metric in scored.values()}) == len(scored)

    uniform = next(one for one in plan.baselines if one.label == "uniform average")
    write_checkpoint(uniform.recipe, Sources(uniform.recipe), tmp_path / "out")
    alone = {outcome.id: outcome.metric for outcome in evaluate_model(str(tmp_path / "out"), file, "test").outcomes}
    assert [alone[name] for name in ids] == scored["uniform average"]


def test_a_merge_the_function_cannot_score_fails_alone(tmp_path: Path) -> None:
    file = job_file(tmp_path, net_folders(tmp_path / "models"), "own.py:load", "fails_on_large_scales")
    _, plan, worker, ids = searched(file)
    answers = [worker.score(one.recipe.model_dump(mode="json"), ids) for one in plan.baselines]
    failed = [answer["error"] for answer in answers if answer["error"] is not None]
    assert 0 < len(failed) < len(answers)
    assert "OverflowError: too large (own.py, line" in failed[0]
    assert "raise OverflowError" in failed[0]


# ---- what is refused before the first trial


def refused(file: Path) -> str:
    with pytest.raises(InputError) as caught:
        preflight(read_job_file(file), file.parent / "jobs")
    return str(caught.value)


def test_a_transformers_class_needs_a_config_and_the_name_it_looks_for(tmp_path: Path) -> None:
    models, load = net_folders(tmp_path / "models", config=False), "AutoModelForImageClassification"
    assert "config.json, but there is none" in refused(job_file(tmp_path, models, load, "first_logit"))
    for name in MODELS:
        (models / name / "config.json").write_text(json.dumps(RESNET.to_dict()))
    message = refused(job_file(tmp_path, models, load, "first_logit"))
    assert f"the weights are in files called {DIFFUSERS}; rename them" in message
    assert "set `models.load` to `tensors`" in message


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def load(folder):\n    return folder", "must return a torch module, but returned str"),
        ("def load(folder):\n    return {}['net']", "KeyError: 'net' (loading.py, line 2: return {}['net'])"),
        ("from own import Net\n\ndef other(folder): ...", "there is no function `load`"),
        (
            "from torch import nn\n\ndef load(folder):\n    return nn.Linear(2, 4)",
            "a worker could not be filled with these weights: Linear has no place for 10 tensors",
        ),
        (
            "from own import *\n\ndef load(folder):\n    net = Net()\n    net.more = nn.Linear(1, 1)\n    return net",
            "Net was left with 2 tensors (`more.weight`, `more.bias`) that the checkpoint does not have",
        ),
    ],
)
def test_a_function_that_gives_no_fitting_module_is_refused(tmp_path: Path, code: str, said: str) -> None:
    file = job_file(tmp_path, net_folders(tmp_path / "models"), "loading.py:load", "output")
    (tmp_path / "loading.py").write_text(code)
    assert said in refused(file)


@pytest.mark.parametrize("asks", [False, True])
def test_a_tokenizer_is_missed_only_where_it_is_asked_for(tmp_path: Path, asks: bool) -> None:
    code = NET.replace("output(model, documents)", "output(model, documents, tokenizer)") if asks else NET
    file = job_file(tmp_path, net_folders(tmp_path / "models", config=False), "own.py:load", "output", code)
    if asks:
        assert "must have a tokenizer that transformers can load" in refused(file)
    else:
        preflight(read_job_file(file), tmp_path / "jobs")
