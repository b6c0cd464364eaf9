"""Turn a merge config into steps, one for each tensor of the result."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pydantic import ValidationError

from merging.check import check_row, explained
from merging.errors import MergeError
from merging.mergekit.grammar import MergeConfig
from merging.mergekit.methods import KNOWN_PARAMETERS, Call, Counterpart, Parameter, counterpart
from merging.mergekit.plan import NOT_MERGED, Input, Plan, Planned
from merging.mergekit.settings import Parameters, looked_up
from merging.methods import METHODS, At
from merging.step import Read, Step
from merging.yaml_file import suggest

Rows = Callable[[Planned], tuple[tuple[int, ...], list[Read]] | None]
"""The shape and the readers of a tensor's inputs where rows are rearranged, None where they are not."""


def compiled(config: MergeConfig, plan: Plan, rows: Rows, seed: int = 0) -> list[Step]:
    """The steps of the result, sorted by name.

    Arithmetic is in float32 whatever `dtype` says. Tensors are stored in `out_dtype`, else in `dtype`, else in the
    widest dtype of their inputs. `seed` is that of random masks. Raises `MergeError` where the method lacks a parameter
    or a model, refuses a value, or shapes differ.
    """
    method = counterpart(config.merge_method)
    return [_step(config, method, planned, rows, seed) for planned in plan.tensors]


def unknown_parameters(config: MergeConfig) -> tuple[list[str], list[str]]:
    """Parameters in the config that no method has, and those that only other methods have, which have no effect."""
    method = counterpart(config.merge_method)
    ours = {parameter.name for parameter in (*method.shared, *method.each)}
    written = list(dict.fromkeys(name for place in _written(config) for name in place))
    strangers = [name for name in written if name not in KNOWN_PARAMETERS]
    return strangers, [name for name in written if name not in ours and name not in strangers]


def refuse_unknown(config: MergeConfig) -> None:
    """Raises `MergeError` where the config has a parameter that no method has."""
    strangers, _ = unknown_parameters(config)
    if strangers:
        method = counterpart(config.merge_method)
        known = [parameter.name for parameter in (*method.shared, *method.each)]
        there_is = suggest(strangers[0], known) if known else "it has none"
        raise MergeError(
            f"`{method.name}` has no parameter `{strangers[0]}`; {there_is}. With --lenient it is left out."
        )


def _written(config: MergeConfig) -> list[Parameters]:
    parts: list[Any] = [config, *(config.modules or {}).values()]
    slices = [piece for part in parts for piece in part.slices or ()]
    models = [model for part in parts for model in part.models or ()]
    sources = [source for piece in slices for source in piece.sources]
    return [holder.parameters for holder in (*parts, *slices, *models, *sources) if holder.parameters]


def _step(config: MergeConfig, method: Counterpart, planned: Planned, rows: Rows, seed: int) -> Step:
    shape, readers = rows(planned) or (_common_shape(planned), [_reader(one) for one in planned.inputs])
    dtype = _dtype(config, planned.inputs)
    first = planned.inputs[0]
    if planned.part == NOT_MERGED or not first.checkpoint.is_float(first.name):
        return Step(planned.name, shape, dtype, None, None, None, (readers[0],))
    by_label = {one.label: read for one, read in zip(planned.inputs, readers, strict=True)}
    base, others = _parted(method, planned)
    call = _call(method, planned, others)
    tuned = tuple(by_label[one.label] for one in others)
    if call.method is None:
        return Step(planned.name, shape, dtype, None, None, None, tuned)
    return Step(
        name=planned.name,
        shape=shape,
        dtype=dtype,
        method=METHODS[call.method],
        at=_at(call, planned, others, seed),
        base=by_label[base.label] if base is not None else None,
        tuned=tuned,
    )


def _reader(one: Input) -> Read:
    return partial(one.checkpoint.tensor, one.name)


def _common_shape(planned: Planned) -> tuple[int, ...]:
    shapes = [one.checkpoint.shapes[one.name] for one in planned.inputs]
    if any(shape != shapes[0] for shape in shapes):
        shown = ", ".join(f"{shape} of {one.label}" for shape, one in zip(shapes, planned.inputs, strict=True))
        raise MergeError(f"`{planned.name}` must have one shape in all models, but there is {shown}.")
    return shapes[0]


def _dtype(config: MergeConfig, inputs: Sequence[Input]) -> torch.dtype:
    dtypes: list[torch.dtype] = [getattr(torch, one.checkpoint.dtypes[one.name]) for one in inputs]
    said = config.out_dtype or config.dtype
    if said is not None and dtypes[0].is_floating_point:
        found: torch.dtype = getattr(torch, said)
        return found
    widest = dtypes[0]
    for dtype in dtypes[1:]:
        widest = torch.promote_types(widest, dtype)
    return widest


def _parted(method: Counterpart, planned: Planned) -> tuple[Input | None, list[Input]]:
    """The base and the others, as the method sees them. Raises `MergeError` where there are too many or too few."""
    base = next((one for one in planned.inputs if one.is_base), None) if method.base != "model" else None
    others = [one for one in planned.inputs if one is not base]
    if method.base == "required" and base is None:
        raise MergeError(
            f"{planned.part}: `{method.name}` needs a base, but none of {_labels(planned.inputs)} is it; name one "
            "of them as `base_model`, and in slices list it among the sources."
        )
    least, most = method.others
    if len(others) < least or (most is not None and len(others) > most):
        wanted = f"{least}" if least == most else f"at least {least}"
        beside = "" if method.base == "model" else " beside the base"
        raise MergeError(
            f"{planned.part}: `{method.name}` merges {wanted} model{'s' if wanted != '1' else ''}{beside}, but there "
            f"{'is' if len(others) == 1 else 'are'} {len(others)}: {_labels(others) or 'none'}."
        )
    return base, others


def _labels(inputs: Sequence[Input]) -> str:
    return ", ".join(one.label for one in inputs)


def _call(method: Counterpart, planned: Planned, others: Sequence[Input]) -> Call:
    """The method with the values its parameters have for one tensor."""
    shared = {one.name: _value(method, one, planned, None) for one in method.shared}
    each = {one.name: tuple(_value(method, one, planned, of) for of in others) for one in method.each}
    try:
        return method.call(shared, each, len(others))
    except ValueError as error:
        raise MergeError(f"`{planned.name}`: {error}") from None


def _value(method: Counterpart, parameter: Parameter, planned: Planned, of: Input | None) -> Any:
    """A parameter's value: what stands beside the model, then beside its slice, its module and at the top.

    Filters look at the input's name for what belongs to a model, else at the result's.
    """
    places = [*([of.parameters] if of else []), *planned.places]
    name = of.name if of else planned.name
    found = looked_up(parameter.name, places, name, planned.t, parameter.kind)
    if found is not None or parameter.optional:
        return found
    if parameter.default is None:
        where = f" of {of.label}" if of else ""
        hint = " (it is the `base_model`, which this method merges like any other)" if of and of.is_base else ""
        raise MergeError(
            f"{planned.part}: `{method.name}` needs a `{parameter.name}`{where}{hint}, but there is none for `{name}`; "
            f"give `parameters: {{{parameter.name}: ...}}` beside the model, its slice, or at the top."
        )
    return parameter.default


def _at(call: Call, planned: Planned, others: Sequence[Input], seed: int) -> At[Any]:
    assert call.method is not None
    method = METHODS[call.method]
    try:
        structure = method.structure.model_validate(call.structure or {})
    except ValidationError as error:
        raise MergeError("\n".join(f"`{planned.name}`: {line}" for line in explained(error, method))) from None
    experts = tuple(one.label for one in others)
    check_row(planned.name, call.row, method.coefficients(experts), method, structure, len(experts))
    return At(tensor=planned.name, experts=experts, row=call.row, structure=structure, seed=seed, depth=planned.depth)


def described(steps: Sequence[Step], labels: Mapping[str, Sequence[str]] | None = None) -> list[Mapping[str, Any]]:
    """Each step as plain data: what a dry run shows. `labels` names the models that a tensor is made from."""
    return [
        {
            "tensor": step.name,
            "shape": list(step.shape),
            "bytes": math.prod(step.shape) * step.dtype.itemsize,
            "dtype": str(step.dtype).removeprefix("torch."),
            "method": step.method.name if step.method else None,
            "experts": list(step.at.experts) if step.at else list((labels or {}).get(step.name, ["the base"])),
            "base": _base_of(step, labels),
            "coefficients": dict(zip(step.method.coefficients(step.at.experts), step.at.row, strict=True))
            if step.method and step.at
            else {},
            "settings": step.at.structure.model_dump() if step.at else {},
        }
        for step in steps
    ]


def _base_of(step: Step, labels: Mapping[str, Sequence[str]] | None) -> str | None:
    if step.base is None or step.at is None:
        return None
    others = [label for label in (labels or {}).get(step.name, ()) if label not in step.at.experts]
    return others[0] if others else "the base"
