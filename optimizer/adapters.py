"""Merge adapters into an adapter, from a recipe file."""

from pathlib import Path

from merging.adapters.combine import Combined
from merging.adapters.recipe import merge_adapters, read_adapter_recipe
from optimizer.errors import InputError, JobFailed
from optimizer.export import refuse_target

_WORST = 3


def merge_adapter_recipe(file: Path, folder: Path, rank: int | None = None) -> list[str]:
    """Do what the recipe file describes, cut to `rank` if given; what there is to say about it, a line each.

    Raises `InputError` where file, adapters or folder are wrong, `JobFailed` where the disk is.
    """
    refuse_target(folder)
    try:
        return _told(merge_adapters(read_adapter_recipe(file, rank), folder))
    except ValueError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise JobFailed(f"{folder}: could not be written ({error}); nothing of it was left behind.") from error


def _told(combined: Combined) -> list[str]:
    ranks = [factors.rank for factors in combined.factors.values()]
    lines = [*combined.notes, *([f"{len(ranks)} modules, rank {min(ranks)} to {max(ranks)}"] if ranks else [])]
    if combined.scales:
        lines.append(f"{len(combined.scales)} modules")
    if combined.error:
        worst = sorted(combined.error.items(), key=lambda one: -one[1])[:_WORST]
        lines.append(f"the cut loses {combined.total_error:.2%} of the change (Frobenius norm), most of all in:")
        lines += [f"  {module}: {error:.2%}" for module, error in worst]
    return lines
