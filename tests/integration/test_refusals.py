"""Whatever would fail later is refused at submit: before a row is written, and with a word on what to do."""

import json
import shutil
import socket
import sqlite3
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging.methods import METHODS as TABLE
from optimizer.database import open_database
from optimizer.errors import InputError
from optimizer.jobs import get_job
from optimizer.merge import MergeOptions, merge
from optimizer.queue import list_jobs
from optimizer.spec import read_job_file
from optimizer.submit import Submitted, submit
from tests.integration.evaluators.small_tasks import CHOICE, choice_rows, write_task
from tests.integration.small_job import EXPERTS, WEIGHTS, Shop, make_shop, write_job

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    torch.set_num_threads(1)
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def submitted(job: Path, say: Callable[[str], None] = lambda _: None) -> Submitted:
    """Submit the file to the database beside it."""
    database = open_database(str(job.parent / "jobs.db"))
    try:
        spec = read_job_file(job)
        return submit(database, spec, job.parent / "jobs" / spec.name, say, local=True)
    finally:
        database.dispose()


def refusal(job: Path) -> str:
    """What a refused job is told; also that it left no row and no folder, and that no plan was shown."""
    lines: list[str] = []
    with pytest.raises(InputError) as caught:
        submitted(job, lines.append)
    database = open_database(str(job.parent / "jobs.db"))
    assert list_jobs(database) == []
    database.dispose()
    assert not (job.parent / "jobs").exists()
    assert not [line for line in lines if line.startswith("Plan:")]
    return str(caught.value)


# ---- what the job file says

TWO_OBJECTIVES = [{"task": "letter", "objective": "letters"}, {"task": "pick", "objective": "choices"}]
METHODS = f"(there is: {', '.join(TABLE)})"
ENGINES = "(there is: auto, cma-es, tpe, gp, random, nsga2, nsga3)"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"search.buget": {}}, ["unknown key `search.buget`; did you mean `budget`?"], id="misspelt key"),
        pytest.param({"method": "tise"}, [f"no method `tise`; did you mean `ties`? {METHODS}"], id="unknown method"),
        pytest.param(
            {"method": {"name": "ties", "densty": 0.2}},
            ["`ties` has no setting `densty`; did you mean `density`?"],
            id="unknown method setting",
        ),
        pytest.param(
            {"method": {"name": "ties", "density": 2}},
            ["`ties`: `density` must be at most 1, but is 2"],
            id="method setting out of range",
        ),
        pytest.param(
            {"search.engine": "cma_es"}, [f"no engine `cma_es`; did you mean `cma-es`? {ENGINES}"], id="unknown engine"
        ),
        pytest.param(
            {"search.engine": "cma-es", "evaluate.tasks": TWO_OBJECTIVES},
            ["the engine 'cma-es' takes one objective, but there are 2", "an engine for several: tpe, random, nsga2"],
            id="several objectives with an engine for one",
        ),
        pytest.param(
            {"evaluate.tasks": [{"task": "pick", "metric": "acc_nrom"}]},
            ["task `pick` has no metric `acc_nrom`. It has: acc, acc_norm; did you mean `acc_norm`?"],
            id="unknown metric",
        ),
        pytest.param(
            {"evaluate.tasks": [{"task": "letter", "filter": "first"}]},
            ["task `letter` has no filter `first`. It has: first-letter, strict."],
            id="unknown filter",
        ),
        pytest.param({"evaluate.include_path": "nowhere"}, ["`include_path` must name folders"], id="no task folder"),
        pytest.param(
            {"models.experts.north": "./nowhere"},
            ["nowhere: there is no such folder", "check the spelling"],
            id="missing model folder",
        ),
        pytest.param({"models.experts": {}}, ["there must be at least one expert", "add `name: path`"], id="no expert"),
        pytest.param(
            {"method": "slerp"},
            ["`slerp` must have at most 2 experts, but has 3; leave some out"],
            id="slerp of three experts",
        ),
        pytest.param(
            {"models.base": None}, ["`task_arithmetic` adds to a base", "name a `base`, or use `linear`"], id="no base"
        ),
        pytest.param(
            {"space.modules": ["attention+norms+mlp+embeddings+head", "other"]},
            ["every set in `modules` must own tensors, but the model has none for 'other'"],
            id="module set without tensors",
        ),
        pytest.param(
            {"space.modules": ["attention", "mlp"]},
            ["no set in `modules` names norms, embeddings, head", "or give `rest`"],
            id="tensors without a module set",
        ),
        pytest.param(
            {"search.budget.trials": 10},
            ["must cover the 10 baselines and at least one candidate, 11 trials, but is 10"],
            id="budget below the baselines",
        ),
        pytest.param(
            {"search.budget": {"examples": 300}},
            ["must cover 11 trials of 30 examples, 330 in all, but is 300"],
            id="budget of examples below the baselines",
        ),
        pytest.param({"evaluate.tasks": ["few"]}, ["`few`", "more documents"], id="too few documents for three splits"),
        pytest.param(
            {"evaluate.tasks": [{"task": "letter", "limit": 1}]},
            ["`letter` must have at least 2 examples in the search split, but has 1; raise `limit`"],
            id="limit of one",
        ),
        pytest.param(
            {"evaluate.chat_template": True},
            ["needs a tokenizer with a chat template", "Set `chat_template: false`"],
            id="no chat template",
        ),
        pytest.param(
            {"workers.count": 1024},
            ["1024 workers need about", "of memory, but", "is available; lower `workers.count`"],
            id="not enough memory",
        ),
        pytest.param(
            {"workers.count": 1024, "search.engine": "auto"},
            ["of it for gradients), but", "or search without gradients (`splits` that give `gradient` no examples)"],
            id="not enough memory for gradients",
        ),
        pytest.param(
            {"evaluate.tasks": [{"task": "letter", "teacher": "nroth"}]},
            ["the `teacher` of `letter` must be an expert of the job, one of north, south, west, but is `nroth`"],
            id="unknown teacher",
        ),
        pytest.param(
            {"search.engine": "auto", "search.virtual": "regmean"},
            ["`search.virtual`: must be a list, like [regmean]"],
            id="virtual experts that are no list",
        ),
    ],
)
def test_a_job_file_that_cannot_work_is_refused(
    shop: Shop, tmp_path: Path, changes: dict[str, Any], said: list[str]
) -> None:
    told = refusal(write_job(shop, tmp_path, changes))
    for words in said:
        assert words in told


def test_an_unknown_task_is_refused_with_the_nearest_and_those_there_are(shop: Shop, tmp_path: Path) -> None:
    told = refusal(write_job(shop, tmp_path, {"evaluate.tasks": ["leter"]}))
    assert "task `leter` is not known. Nearest: letter" in told
    assert "few, letter, pick" in told


def test_a_task_whose_prompt_names_a_field_its_documents_lack_is_refused(shop: Shop, tmp_path: Path) -> None:
    write_task(tmp_path, "wrong", {"test": choice_rows(1, 30)}, **{**CHOICE, "doc_to_text": "{{querstion}}"})
    changes = {"evaluate.tasks": ["wrong"], "evaluate.include_path": str(tmp_path)}
    told = refusal(write_job(shop, tmp_path, changes))
    assert "`wrong`" in told
    assert "querstion" in told


def test_a_document_that_does_not_fit_its_template_is_refused_by_example(shop: Shop, tmp_path: Path) -> None:
    rows = [*choice_rows(1, 30), {"question": "one without options", "options": None, "answer": 0}]
    write_task(tmp_path, "holed", {"test": rows}, **CHOICE)
    changes = {"evaluate.tasks": ["holed"], "evaluate.include_path": str(tmp_path)}
    told = refusal(write_job(shop, tmp_path, changes))
    assert "example `holed:" in told
    assert "Mend its document" in told


# ---- what the models are


def _tensors(folder: Path, **changed: torch.Tensor) -> None:
    """Replace tensors of a model; `__` in a keyword stands for a dot."""
    stored = load_file(folder / WEIGHTS)
    save_file({**stored, **{key.replace("__", "."): value for key, value in changed.items()}}, folder / WEIGHTS)


def _json(file: Path, **changed: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


def _truncated(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def _swapped_tokens(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def _more_tokens(folder: Path) -> None:
    stored = load_file(folder / WEIGHTS)
    names = ("model.embed_tokens.weight", "lm_head.weight")
    grown = {name: torch.cat([stored[name], stored[name][:3]]) for name in names}
    save_file({**stored, **grown}, folder / WEIGHTS)
    _json(folder / "config.json", vocab_size=len(grown[names[0]]))


def _not_a_number(folder: Path) -> None:
    stored = load_file(folder / WEIGHTS)
    stored["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(stored, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(lambda folder: (folder / WEIGHTS).unlink(), ["must hold model.safetensors"], id="no weights"),
        pytest.param(_truncated, ["is not a whole safetensors file", "download it again"], id="truncated weights"),
        pytest.param(
            lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),
            ["only safetensors are read, because a pickle can run code", "Convert once", "save_pretrained(NEW)"],
            id="only a pickle",
        ),
        pytest.param(
            lambda folder: _tensors(folder, model__norm__weight=torch.ones(16)),
            ["shapes must be those of", "but 1 differ: `model.norm.weight` (32,) and (16,)"],
            id="other shapes",
        ),
        pytest.param(
            lambda folder: _tensors(folder, model__layers__0__extra=torch.ones(2)),
            ["has 1 tensors (`model.layers.0.extra`) that"],
            id="other tensors",
        ),
        pytest.param(
            lambda folder: _json(folder / "config.json", model_type="mistral", architectures=["MistralForCausalLM"]),
            ["`model_type` must be 'llama' as in", "but is 'mistral'"],
            id="other architecture",
        ),
        pytest.param(
            _more_tokens,
            ["`vocab_size` must be 76", "but is 79", "`lm_head.weight` (76, 32) and (79, 32)", "Cut both"],
            id="other vocabulary",
        ),
        pytest.param(
            _swapped_tokens,
            ["must map tokens to the same ids as", "2 tokens differ: 'a' (4 and 5), 'b' (5 and 4)"],
            id="other token ids",
        ),
        pytest.param(
            _not_a_number,
            ["weights must be finite", "first model.layers.1.mlp.up_proj.weight", "Re-download or re-save"],
            id="not a number in the weights",
        ),
        pytest.param(
            lambda folder: (folder / "config.json").write_text("{"),
            ["config.json: cannot be read as JSON"],
            id="config",
        ),
    ],
)
def test_an_expert_that_does_not_fit_is_refused_by_name(
    shop: Shop, tmp_path: Path, damage: Callable[[Path], None], said: list[str]
) -> None:
    damaged = shop.copy(tmp_path)
    damage(damaged.models / "south")
    told = refusal(write_job(damaged, tmp_path))
    assert str(damaged.models / "south") in told
    for words in said:
        assert words in told


def test_an_architecture_that_no_worker_could_build_is_refused(shop: Shop, tmp_path: Path) -> None:
    strange = shop.copy(tmp_path)
    for name in ("base", *EXPERTS):
        _json(strange.models / name / "config.json", model_type="zebra", architectures=["ZebraForCausalLM"])
    told = refusal(write_job(strange, tmp_path))
    assert "must be able to build a causal language model" in told
    assert "model type `zebra`" in told


def test_a_base_without_a_tokenizer_is_refused(shop: Shop, tmp_path: Path) -> None:
    bare = shop.copy(tmp_path)
    for file in (bare.models / "base").glob("tokenizer*"):
        file.unlink()
    told = refusal(write_job(bare, tmp_path))
    assert f"{bare.models / 'base'}: must have a tokenizer that transformers can load" in told
    assert "beside the weights" in told


# ---- what the machine has


def test_a_disk_without_room_for_an_export_is_refused(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**30, 2**30 - 1000, 1000))
    told = refusal(write_job(shop, tmp_path))
    assert "the job's files and one export need about" in told
    assert "choose another folder with --folder" in told


@pytest.mark.parametrize("workers", [{"gpus": 1}, {"device": "cuda"}, {"gpus": 0.5, "device": "cpu"}])
def test_workers_on_gpus_that_are_not_there_are_refused(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: dict[str, Any]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = refusal(write_job(shop, tmp_path, {"workers": workers}))
    assert "torch finds no CUDA device; set `device: cpu`, `gpus: 0`" in told


def test_more_gpus_than_there_are_are_refused(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    told = refusal(write_job(shop, tmp_path, {"workers": {"count": 3, "gpus": 1}}))
    assert "3 workers with 1 GPUs each need 3, but there are 2" in told


# ---- where it would be written


def test_a_database_server_that_is_not_there_is_refused_without_its_password() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(InputError) as caught:
        open_database(f"postgresql://someone:hidden@127.0.0.1:{port}/jobs")
    assert f"postgresql+psycopg://someone:***@127.0.0.1:{port}/jobs" in str(caught.value)
    assert "Check that the server runs" in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("Not a database, but somebody's notes.\n" * 50)
    with pytest.raises(InputError, match="file is not a database"):
        open_database(str(file))
    assert file.read_text().startswith("Not a database")


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    open_database(str(tmp_path / "jobs.db")).dispose()
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        connection.execute("UPDATE mergeopt_alembic_version SET version_num = '9999'")
    with pytest.raises(InputError, match=r"a newer mergeopt has upgraded them\. Upgrade mergeopt here"):
        open_database(str(tmp_path / "jobs.db"))


def test_a_name_that_another_job_file_has_is_refused_with_what_differs(shop: Shop, tmp_path: Path) -> None:
    submitted(write_job(shop, tmp_path))
    other = write_job(shop, tmp_path, {"search.seed": 7, "splits": {"search": 0.5, "select": 0.25, "test": 0.25}})
    with pytest.raises(InputError) as caught:
        submitted(other)
    assert "`small` was submitted with another splits, search" in str(caught.value)
    assert "--name" in str(caught.value)
    database = open_database(str(tmp_path / "jobs.db"))
    assert [job.name for job in list_jobs(database)] == ["small"]
    assert get_job(database, "small").spec["search"]["seed"] == 0


def merge_of(experts: dict[str, str], folder: Path, target: Path) -> None:
    """A linear merge of these experts by a recipe file."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({"method": "linear", "experts": experts, "weights": dict.fromkeys(experts, 0.5)}))
    merge(recipe, target, MergeOptions(), lambda _: None)


def test_a_merge_of_models_that_map_tokens_differently_is_refused(shop: Shop, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(shop.models / "north", odd)
    content = json.loads((odd / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (odd / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="must map tokens to the same ids"):
        merge_of({"south": str(shop.models / "south"), "odd": str(odd)}, tmp_path, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_names_that_no_file_can_have_are_refused(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder can be called so"):
        merge_of({"north": str(shop.models / "north")}, tmp_path, tmp_path / ("x" * 300))
    with pytest.raises(InputError, match=r"cannot be looked for|there is no such folder"):
        merge_of({"north": "/" + "x" * 5000}, tmp_path, tmp_path / "merged")


def test_a_merge_does_not_touch_a_target_that_exists(shop: Shop, tmp_path: Path) -> None:
    experts = {name: str(shop.models / name) for name in EXPERTS}
    content = {"method": "linear", "experts": experts, "weights": dict.fromkeys(EXPERTS, 0.3)}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(content))
    target = tmp_path / "merged"
    target.mkdir()
    (target / "precious").write_text("mine")
    with pytest.raises(InputError, match="the target must not exist, but does; choose another name or remove it"):
        merge(recipe, target, MergeOptions(), lambda _: None)
    assert [file.name for file in target.iterdir()] == ["precious"]


# ---- what is accepted


def test_the_plan_with_memory_and_disk_is_told_before_anything_is_written(shop: Shop, tmp_path: Path) -> None:
    job = write_job(shop, tmp_path)
    database = open_database(str(tmp_path / "jobs.db"))
    rows_then: dict[str, int] = {}
    done = submitted(job, lambda line: rows_then.update({line: len(list_jobs(database))}))
    assert done.fresh
    plans = [line for line in rows_then if line.startswith("Plan:")]
    assert len(plans) == 1
    for words in ("12 coefficients, 10 baselines", "1 workers, about ", " of memory; about ", " of disk for an export"):
        assert words in plans[0]
    assert rows_then == dict.fromkeys(rows_then, 0)
    assert get_job(database, "small").state == "queued"


def test_what_gradients_take_is_told_where_the_search_takes_them(shop: Shop, tmp_path: Path) -> None:
    def plan_of(changes: dict[str, Any]) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        lines: list[str] = []
        submitted(write_job(shop, folder, {"search.engine": "auto", **changes}), lines.append)
        return next(line for line in lines if line.startswith("Plan:"))

    assert "of it for gradients" in plan_of({})
    assert "gradients" not in plan_of({"splits": {"search": 0.5, "select": 0.25, "test": 0.25}})
    assert "gradients" not in plan_of({"search.engine": "random"})


def test_the_same_job_file_submitted_twice_is_the_same_job(shop: Shop, tmp_path: Path) -> None:
    job = write_job(shop, tmp_path)
    first, second = submitted(job), submitted(job)
    assert (first.fresh, second.fresh) == (True, False)
    assert first.job.id == second.job.id


def test_documents_that_were_left_out_are_told(shop: Shop, tmp_path: Path) -> None:
    rows = choice_rows(1, 30)
    write_task(tmp_path, "twice", {"validation": [*rows, rows[0]], "test": [*choice_rows(2, 30), rows[1]]}, **CHOICE)
    changes = {"evaluate.tasks": ["twice"], "evaluate.include_path": str(tmp_path)}
    lines: list[str] = []
    submitted(write_job(shop, tmp_path, changes), lines.append)
    assert "Note: `twice`: 1 documents that come twice, but for case and white space, are kept once." in lines
    assert "Note: `twice`: 1 documents are left out, they are scored in another split." in lines
