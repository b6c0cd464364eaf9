"""The table of mergekit's merge methods: their parameters, and which method of ours with which settings they are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from merging.errors import MergeError
from merging.mergekit.settings import Kind
from merging.recipe import Structure
from merging.yaml_file import suggest

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method; it must be given where `default` is None, unless `optional`."""

    name: str
    kind: Kind
    default: float | bool | int | None = None
    optional: bool = False


@dataclass(frozen=True)
class Call:
    """A method of ours (`merging.methods.METHODS`) with row and settings; the only model as it is for None."""

    method: str | None
    row: tuple[float, ...] = ()
    structure: Structure | None = None


@dataclass(frozen=True)
class Counterpart:
    """What one of mergekit's methods asks for, and what it comes to.

    `base`: `model` where `base_model` is merged as one model among the others, `required` or `optional` where the
    others are seen from it. `others` is how many models there may be beside the base (or in all, for `model`).
    `call(shared, each)` gets the values for one tensor: `shared` by parameter, `each` by parameter with one for each
    of the others, in the config's order.
    """

    name: str
    base: Literal["model", "optional", "required"]
    others: tuple[int, int | None]
    shared: tuple[Parameter, ...]
    each: tuple[Parameter, ...]
    call: Callable[[Values, Values, int], Call]


def counterpart(name: str) -> Counterpart:
    """Raises `MergeError` where there is none."""
    if name not in COUNTERPARTS:
        raise MergeError(f"there is no `merge_method` {name!r}; {suggest(name, list(COUNTERPARTS))}.")
    return COUNTERPARTS[name]


def _linear(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
    return Call("linear", each["weight"], {"normalize": shared["normalize"]})


def _passthrough(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
    (scale,) = each["scale"]
    return Call(None) if scale is None else Call("linear", (scale,), {"normalize": False})


def _slerp(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
    return Call("slerp", (shared["t"],))


def _shared_out(shared: Values, each: Values) -> tuple[float, ...]:
    """The row of methods that add up: lambda and the division by the sum of weights are part of it."""
    weights = each["weight"]
    total = sum(weights) if shared["normalize"] else 1.0
    divisor = total if abs(total) >= 1e-8 else 1.0
    return tuple(weight / divisor * shared["lambda"] for weight in weights)


def _elected(shared: Values, each: Values) -> tuple[tuple[float, ...], Structure]:
    """Row and settings of methods that elect signs: they divide by the weights that agree, entry by entry."""
    average = "weights" if shared["normalize"] else "sum"
    return tuple(each["weight"]), {"average": average, "scale": shared["lambda"]}


def _sparse(method: str, shared: Values, each: Values, settings: tuple[str, ...]) -> Structure:
    """The settings of sparse methods. Raises `MergeError` where a density is not one."""
    for density in each["density"]:
        if not 0 < density <= 1:
            raise MergeError(
                f"`density` must be above 0 and at most 1, but is {density:g}; a `weight` of 0 leaves a model out."
            )
    found: Structure = {"compat": "mergekit", "density": each["density"], **{name: each[name] for name in settings}}
    if method.partition("_")[0] in ("dare", "della"):
        return found | {"rescale": "norm" if shared["rescale"] else "none"}
    if shared["rescale"]:
        raise MergeError(f"`rescale: true` is for methods that drop at random, which `{method}` does not; take it out.")
    return found


def _task_arithmetic(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
    return Call("task_arithmetic", _shared_out(shared, each))


def _adding(method: str, *settings: str) -> Callable[[Values, Values, int], Call]:
    def call(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
        return Call(method, _shared_out(shared, each), _sparse(method, shared, each, settings))

    return call


def _electing(method: str, *settings: str) -> Callable[[Values, Values, int], Call]:
    def call(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
        row, election = _elected(shared, each)
        return Call(method, row, _sparse(method, shared, each, settings) | election)

    return call


def _sce(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
    """Selecting nothing is the base. Raises `MergeError` where the share is none."""
    share = shared["select_topk"]
    if not 0 <= share <= 1:
        raise MergeError(f"`select_topk` must be from 0 (the base) to 1, but is {share:g}.")
    row = (1.0 if share > 0 else 0.0,) * count
    return Call("sce", row, {"compat": "mergekit", "density": share if share > 0 else 1.0})


def _model_stock(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
    return Call("model_stock", (1.0,) * count, {"scope": "row" if shared["filter_wise"] else "tensor"})


def _nuslerp(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
    """Weights that cancel stand for equal ones. mergekit's `row_wise` turns each column of a matrix."""
    row = each["weight"] if abs(sum(each["weight"])) >= 1e-6 else (0.5, 0.5)
    if shared["nuslerp_flatten"]:
        return Call("nuslerp", row)
    return Call("nuslerp_rows", row, {"along": "columns" if shared["nuslerp_row_wise"] else "rows"})


def _multislerp(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
    total = sum(each["weight"])
    if not shared["normalize_weights"] and abs(total - 1) > 1e-6:
        raise MergeError(
            f"with `normalize_weights: false` the weights of `multislerp` must sum to 1, but sum to {total:g}; the "
            "result would have another length than its models"
        )
    return Call("multislerp", each["weight"])


def _karcher(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
    """To convergence: `max_iter` and `tol` have no say."""
    return Call("karcher", (1.0,) * count)


def _nearswap(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
    return Call("nearswap", (1.0,), {"t": shared["t"]})


def _arcee_fusion(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
    return Call("arcee_fusion", (1.0,), {})


def _ram(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
    return Call("ram", (1.0,) * count, {"epsilon": shared["epsilon"]})


def _ram_plus(shared: Values, each: Values, count: int) -> Call:  # noqa: ARG001
    settings: Structure = {"boost": shared["r"], "limit": shared["alpha"], "epsilon": shared["epsilon"]}
    return Call("ram_plus", (1.0,) * count, {"compat": "mergekit", **settings})


WEIGHT = Parameter("weight", float)
DENSITY = Parameter("density", float, 1.0)
NO_EFFECT = Parameter("int8_mask", bool, False)
"""mergekit's masks in eight bits: memory, not a result."""


def _generalized(name: str, call: Callable[[Values, Values, int], Call], normalize: bool, rescale: bool) -> Counterpart:
    """A row for mergekit's task arithmetic with sparsification and sign election, each of both or neither."""
    further = {"breadcrumbs": (Parameter("gamma", float, 0.01),), "della": (Parameter("epsilon", float, 0.15),)}
    return Counterpart(
        name=name,
        base="required",
        others=(1, None),
        shared=(
            NO_EFFECT,
            Parameter("normalize", bool, normalize),
            Parameter("rescale", bool, rescale),
            Parameter("lambda", float, 1.0),
        ),
        each=(WEIGHT, DENSITY, *further.get(name.partition("_")[0], ())),
        call=call,
    )


_ROWS = (
    Counterpart("linear", "model", (1, None), (Parameter("normalize", bool, True),), (WEIGHT,), _linear),
    Counterpart("passthrough", "model", (1, 1), (), (Parameter("scale", float, optional=True),), _passthrough),
    Counterpart("slerp", "required", (1, 1), (Parameter("t", float),), (), _slerp),
    _generalized("task_arithmetic", _task_arithmetic, normalize=False, rescale=False),
    _generalized("ties", _electing("ties"), normalize=True, rescale=False),
    _generalized("dare_ties", _electing("dare_ties"), normalize=False, rescale=True),
    _generalized("dare_linear", _adding("dare_linear"), normalize=False, rescale=True),
    _generalized("breadcrumbs", _adding("breadcrumbs", "gamma"), normalize=False, rescale=False),
    _generalized("breadcrumbs_ties", _electing("breadcrumbs_ties", "gamma"), normalize=False, rescale=False),
    _generalized("della", _electing("della", "epsilon"), normalize=True, rescale=True),
    _generalized("della_linear", _adding("della_linear", "epsilon"), normalize=False, rescale=True),
    Counterpart("sce", "required", (1, None), (NO_EFFECT, Parameter("select_topk", float, 1.0)), (), _sce),
    Counterpart("model_stock", "required", (2, None), (Parameter("filter_wise", bool, False),), (), _model_stock),
    Counterpart(
        "nuslerp",
        "optional",
        (2, 2),
        (Parameter("nuslerp_row_wise", bool, False), Parameter("nuslerp_flatten", bool, True)),
        (WEIGHT,),
        _nuslerp,
    ),
    Counterpart(
        "multislerp",
        "optional",
        (1, None),
        (Parameter("normalize_weights", bool, True), Parameter("eps", float, 1e-8)),
        (WEIGHT,),
        _multislerp,
    ),
    Counterpart(
        "karcher",
        "model",
        (1, None),
        (Parameter("max_iter", int, 10), Parameter("tol", float, 1e-5)),
        (),
        _karcher,
    ),
    Counterpart("nearswap", "required", (1, 1), (Parameter("t", float),), (), _nearswap),
    Counterpart("arcee_fusion", "required", (1, 1), (), (), _arcee_fusion),
    Counterpart("ram", "required", (1, None), (Parameter("epsilon", float, 1e-5),), (), _ram),
    Counterpart(
        "ramplus_tl",
        "required",
        (1, None),
        (Parameter("r", float, 0.1), Parameter("alpha", float, 0.2), Parameter("epsilon", float, 1e-5)),
        (),
        _ram_plus,
    ),
)

COUNTERPARTS: dict[str, Counterpart] = {row.name: row for row in _ROWS}
KNOWN_PARAMETERS = tuple(dict.fromkeys(parameter.name for row in _ROWS for parameter in (*row.shared, *row.each)))
"""Parameters that some method has. Configs carry those of another method along; they have no effect then."""
