"""Do one merge without a search, or say what it would do: a recipe of ours, or a merge config of mergekit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from merging.check import check_method
from merging.errors import MergeError
from merging.materialize import steps
from merging.mergekit.compile import described
from merging.mergekit.prepare import prepare
from merging.mergekit.read import is_mergekit, read_configs
from merging.mergekit.write import merge_file
from merging.methods.calibrated import Calibrated
from merging.recipe_file import read_recipe
from merging.sources import Sources
from merging.step import Step
from optimizer.errors import InputError, JobFailed
from optimizer.export import refuse_target, tenths, write_recipe

Say = Callable[[str], None]


@dataclass(frozen=True)
class MergeOptions:
    """`lenient` leaves out what mergekit's grammar does not have; `seed` is that of masks in configs of mergekit."""

    lenient: bool = False
    seed: int | None = None
    threads: int | None = None
    device: str = "cpu"


def check_output(dry_run: bool, as_json: bool, delivers: bool) -> None:
    """Raises `InputError` where an option is given that says nothing about a plan, or about a merge.

    `delivers`: something is to be done with the folder that is written.
    """
    if as_json and not dry_run:
        raise InputError("--json says how a plan is shown, but nothing is planned; add --dry-run.")
    if dry_run and delivers:
        raise InputError(
            "--smoke, --push-to-hub and --public are about the folder that is written, but --dry-run writes none; "
            "take one of them out."
        )


def merge(file: Path, folder: Path, options: MergeOptions, say: Say) -> None:
    """Raises `InputError` where file, models or folder are wrong, `JobFailed` where the disk is full."""
    refuse_target(folder)
    try:
        if not is_mergekit(file):
            _refuse_mergekit_options(options)
            recipe = read_recipe(file)
            write_recipe(recipe, folder, say, threads=options.threads, device=options.device)
            return
        read = read_configs(file, options.lenient)
        for remark in read.remarks:
            say(remark)
        merge_file(read, folder, say, options.seed or 0, options.threads, options.device, tenths(say))
    except ValueError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise JobFailed(f"{folder}: could not be written ({error}); nothing of it was left behind.") from error


def planned(file: Path, options: MergeOptions) -> dict[str, Any]:
    """What a merge would do, as plain data: `merges`, each with its `tensors`, `bytes` and `remarks`.

    Reads no weights, unless the method asks about whole models. Raises `InputError` as `merge` does.
    """
    try:
        if not is_mergekit(file):
            _refuse_mergekit_options(options)
            recipe = read_recipe(file)
            structure = check_method(recipe)
            if isinstance(structure, Calibrated):
                structure.opened(tuple(recipe.experts))
            return {"merges": [_planned("result", steps(recipe, Sources(recipe)), [])]}
        read = read_configs(file, options.lenient)
        place, names = file.resolve().parent, {config.name for config in read.configs[:-1]}
        merges = []
        for config in read.configs:
            name = config.name or "result"
            needs = [one.model.path for one in config.references() if one.model.path in names]
            if needs:  # their layers are known once they are made
                merges.append({"name": name, "needs": needs, "tensors": [], "bytes": None, "remarks": []})
                continue
            ready = prepare(config, place, seed=options.seed or 0)
            merges.append(_planned(name, ready.steps, ready.remarks, ready.labels))
        return {"remarks": list(read.remarks), "merges": merges}
    except ValueError as error:
        raise InputError(str(error)) from error


def plan_lines(plan: Mapping[str, Any]) -> Iterator[str]:
    """Lines of text: neighbouring tensors that are treated alike together, under the merge they belong to."""
    yield from plan.get("remarks", [])
    for one in plan["merges"]:
        if one["bytes"] is None:
            yield f"{one['name']}: made from {', '.join(one['needs'])}, and planned once they are made."
            continue
        yield f"{one['name']}: {len(one['tensors'])} tensors, {_size(one['bytes'])}"
        yield from (f"  {remark}" for remark in one["remarks"])
        for alike, group in groupby(one["tensors"], key=_treatment):
            tensors = list(group)
            first, last = tensors[0]["tensor"], tensors[-1]["tensor"]
            size = _size(sum(tensor["bytes"] for tensor in tensors))
            named = first if len(tensors) == 1 else f"{first} ... {last} ({len(tensors)} tensors)"
            yield f"  {named}, {size}"
            yield f"    {alike}"


def _planned(
    name: str,
    made: Sequence[Step],
    remarks: Sequence[str],
    labels: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    tensors = described(made, labels)
    size = sum(tensor["bytes"] for tensor in tensors)
    return {"name": name, "tensors": tensors, "bytes": size, "remarks": list(remarks)}


def _treatment(tensor: Mapping[str, Any]) -> str:
    if tensor["method"] is None:
        return f"as it is in {', '.join(tensor['experts'])}, {tensor['dtype']}"
    row, experts = tensor["coefficients"], tensor["experts"]
    numbers = [f"{name} {value:.4g}" for name, value in row.items()]
    models = ", ".join(numbers if list(row) == experts else experts)
    base = f" over {tensor['base']}" if tensor["base"] else ""
    settings = [] if list(row) == experts else numbers
    settings += [f"{key} {value}" for key, value in tensor["settings"].items()]
    return ", ".join([f"{tensor['method']} of {models}{base}", *settings, tensor["dtype"]])


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _refuse_mergekit_options(options: MergeOptions) -> None:
    if options.lenient:
        raise MergeError("--lenient is for configs of mergekit; a recipe's unknown keys are always refused.")
    if options.seed is not None:
        raise MergeError("--seed is for configs of mergekit; write `seed:` into the recipe.")
