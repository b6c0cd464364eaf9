"""Write a recipe as a merge config of mergekit, where mergekit can say it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from merging.check import check_method, check_recipe
from merging.errors import MergeError
from merging.groups import group_of, split_at_layer
from merging.layer_path import layers_in
from merging.mergekit.filters import written
from merging.recipe import Recipe, Source, Visit
from merging.sources import Sources

Parameters = dict[str, Mapping[str, float] | float]
Rows = Mapping[str, tuple[float, ...]]
"""A row of coefficients for every merged tensor."""
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")


@dataclass(frozen=True)
class _Said:
    """How mergekit says a recipe: `models` in order, each with its parameters by tensor, and parameters for all."""

    method: str
    base: Source | None
    models: list[tuple[Source, Parameters]]
    shared: dict[str, Mapping[str, float] | float | bool]


_Way = Callable[[Recipe, Rows, dict[str, Any]], _Said]


def to_mergekit(recipe: Recipe, sources: Sources) -> str:
    """The YAML text of a config that merges the same, up to rounding of its gradients in the last place.

    Random masks are drawn by mergekit's own generator, so they are others of the same kind. Raises `MergeError`, with
    the reason, where mergekit has no such method or setting.
    """
    check_recipe(recipe, sources.groups)
    if recipe.unmerged:
        raise MergeError(f"mergekit merges every tensor, but {', '.join(recipe.unmerged)} are `unmerged`.")
    reference = sources.reference_of(recipe)
    names = [name for name in reference.names if reference.is_float(name)]
    rows = {name: recipe.coefficients[group_of(name).name] for name in names}
    settings = check_method(recipe).model_dump()
    if recipe.method not in _WAYS:
        raise MergeError(f"mergekit has no `{recipe.method}`; it can say {', '.join(_WAYS)}.")
    said = _WAYS[recipe.method](recipe, rows, settings)
    _check_told_apart(recipe)
    content: dict[str, Any] = {"merge_method": said.method}
    if said.base is not None:
        content["base_model"] = _reference(said.base, None)
    adapters = [recipe.experts[name] for name, one in sources.experts.items() if one.overlay and name in recipe.experts]

    def reference_to(source: Source) -> Any:
        return _reference(source, recipe.base if source in adapters else None)

    if recipe.path is None:
        content["models"] = [
            {"model": reference_to(source), **_parameters(parameters, names)} for source, parameters in said.models
        ]
        content |= _parameters(said.shared, names)
    else:
        content["slices"] = list(_slices(recipe.path, recipe, said, names, reference_to))
        content |= _parameters({name: one for name, one in said.shared.items() if not isinstance(one, Mapping)}, names)
    dtypes = Counter(reference.dtypes[name] for name in names)
    content["dtype"] = "float32"
    content["out_dtype"] = recipe.dtype or dtypes.most_common(1)[0][0]
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _check_told_apart(recipe: Recipe) -> None:
    """mergekit tells models by their paths: of two with one path it would keep one."""
    named = {**({"base": recipe.base} if recipe.base is not None else {}), **recipe.experts}
    first: dict[tuple[str, str | None], str] = {}
    for name, source in named.items():
        other = first.setdefault((source.path, source.revision), name)
        if other != name:
            raise MergeError(
                f"mergekit can name a model once, but `{other}` and `{name}` are both {source.path}; put them together."
            )


def _slices(
    path: Sequence[Visit], recipe: Recipe, said: _Said, names: Sequence[str], reference_to: Callable[[Source], Any]
) -> Iterator[dict[str, Any]]:
    """A slice of one layer for each of the path; the first and the last also say what goes for tensors outside."""
    layers, outside = layers_in(names), [name for name in names if split_at_layer(name) is None]
    models = [*said.models]
    if said.base is not None and not any(source is said.base for source, _ in models):
        models.append((said.base, {}))
    for number, visit in enumerate(path):
        if visit.scale != 1:
            raise MergeError(f"mergekit scales no layer of a merge, but layer {number} of the path has {visit.scale}.")
        here = [*layers[visit.layer], *(outside if number in (0, len(path) - 1) else [])]
        wanted = _source_of(visit, recipe) if visit.source is not None else None
        sources = []
        for source, parameters in models:
            told = parameters if wanted is None else _only(said.method, source, wanted, parameters, layers[visit.layer])
            layer = {"model": reference_to(source), "layer_range": [visit.layer, visit.layer + 1]}
            sources.append({**layer, **_parameters(told, here)})
        by_tensor = {name: one for name, one in said.shared.items() if isinstance(one, Mapping)}
        yield {"sources": sources, **_parameters(by_tensor, here)}


def _source_of(visit: Visit, recipe: Recipe) -> Source | None:
    return recipe.base if visit.source == "base" else recipe.experts[visit.source or ""]


def _only(
    method: str, source: Source, wanted: Source | None, parameters: Parameters, layer: Sequence[str]
) -> Parameters:
    """A model's weight in a layer that is one model's as it is: 1 or 0. Other tensors keep theirs."""
    if method not in ("linear", "task_arithmetic"):
        raise MergeError(f"mergekit has one method for all layers, and `{method}` cannot leave one as it is.")
    if "weight" not in parameters:
        return parameters
    given, own = parameters["weight"], 1.0 if source is wanted else 0.0
    assert isinstance(given, Mapping)
    return {**parameters, "weight": {**given, **dict.fromkeys(layer, own)}}


def _reference(source: Source, under: Source | None) -> Any:
    """A model's path, as a mapping where mergekit would take a character of it for something else.

    An adapter stands behind the model that is `under` it.
    """
    parts = [one for one in (under, source) if one is not None]
    if any("@" in one.path or "+" in one.path for one in parts):
        paths = [{"path": one.path, **({"revision": one.revision} if one.revision else {})} for one in parts]
        return dict(zip(("model", "lora"), paths, strict=False))
    return "+".join(f"{one.path}@{one.revision}" if one.revision else one.path for one in parts)


def _parameters(parameters: Mapping[str, Mapping[str, float] | float | bool], names: Sequence[str]) -> dict[str, Any]:
    """The key `parameters` where there are any, as far as they are about these tensors."""
    settings = {
        name: written({tensor: value[tensor] for tensor in names}) if isinstance(value, Mapping) else value
        for name, value in parameters.items()
    }
    return {"parameters": settings} if settings else {}


def _weights(recipe: Recipe, rows: Rows) -> list[tuple[Source, Parameters]]:
    """Every expert with its `weight` in every tensor."""
    return [
        (source, {"weight": {name: row[position] for name, row in rows.items()}})
        for position, source in enumerate(recipe.experts.values())
    ]


def _linear(recipe: Recipe, rows: Rows, settings: dict[str, Any]) -> _Said:
    """A base only lends its config, which mergekit takes from the base too; it is merged at a weight of 0."""
    models = _weights(recipe, rows)
    if recipe.base is not None:
        models.append((recipe.base, {"weight": dict.fromkeys(rows, 0.0)}))
    return _Said("linear", recipe.base, models, {"normalize": settings["normalize"]})


def _slerp(recipe: Recipe, rows: Rows, settings: dict[str, Any]) -> _Said:  # noqa: ARG001
    """From the base to the other model. Two task vectors are what mergekit calls nuslerp."""
    t = {name: row[0] for name, row in rows.items()}
    experts = list(recipe.experts.values())
    if recipe.base is not None and len(experts) == 2:
        first = {name: 1 - value for name, value in t.items()}
        return _Said("nuslerp", recipe.base, [(experts[0], {"weight": first}), (experts[1], {"weight": t})], {})
    start, end = (recipe.base, experts[0]) if recipe.base is not None else (experts[0], experts[1])
    return _Said("slerp", start, [(start, {}), (end, {})], {"t": t})


def _task_arithmetic(recipe: Recipe, rows: Rows, settings: dict[str, Any]) -> _Said:  # noqa: ARG001
    return _Said("task_arithmetic", recipe.base, _weights(recipe, rows), {})


def _sparse(recipe: Recipe, rows: Rows, settings: dict[str, Any]) -> _Said:
    """Methods that differ between papers and mergekit can be said where they are told to do as mergekit does."""
    if settings["compat"] != "mergekit":
        raise MergeError(
            f"mergekit's `{recipe.method}` differs from the paper's (docs/mergekit.md); a recipe with "
            "`compat: mergekit` can be written for it, this one not."
        )
    if settings.get("scope", "tensor") != "tensor":
        raise MergeError(f"mergekit counts in each tensor, but `scope` is `{settings['scope']}`.")
    shared: dict[str, Mapping[str, float] | float | bool] = {"lambda": settings["scale"]}
    if "average" in settings:
        if settings["average"] == "count":
            raise MergeError("mergekit divides by weights or not at all, but `average` is `count`.")
        shared["normalize"] = settings["average"] == "weights"
    else:
        shared["normalize"] = False
    if "rescale" in settings:
        if settings["rescale"] == "inverse":
            raise MergeError("mergekit brings the norm back or nothing, but `rescale` is `inverse`.")
        shared["rescale"] = settings["rescale"] == "norm"
    models = _weights(recipe, rows)
    for position, (_, parameters) in enumerate(models):
        for name in ("density", "gamma", "epsilon"):
            if name in settings:
                value = settings[name]
                parameters[name] = value[position] if isinstance(value, tuple) else value
    return _Said(recipe.method, recipe.base, models, shared)


def _model_stock(recipe: Recipe, rows: Rows, settings: dict[str, Any]) -> _Said:
    _all_equal(recipe, rows, 1.0)
    models: list[tuple[Source, Parameters]] = [(source, {}) for source in recipe.experts.values()]
    return _Said("model_stock", recipe.base, models, {"filter_wise": settings["scope"] == "row"})


def _without_weights(method: str, spelled: Mapping[str, str], only: Mapping[str, Any], most: int | None = None) -> _Way:
    """Methods with neither weights nor lambda at mergekit: what its parameters are called here, and what is fixed."""

    def way(recipe: Recipe, rows: Rows, settings: dict[str, Any]) -> _Said:
        _all_equal(recipe, rows, 1.0)
        for name, value in {"scale": 1.0, **only}.items():
            if settings[name] != value:
                raise MergeError(f"mergekit's `{method}` has `{name}: {value}` alone, but here it is {settings[name]}.")
        if most is not None and len(recipe.experts) > most:
            raise MergeError(
                f"mergekit's `{method}` merges {most} model with a base, but here are {len(recipe.experts)}."
            )
        models: list[tuple[Source, Parameters]] = [(source, {}) for source in recipe.experts.values()]
        return _Said(method, recipe.base, models, {theirs: settings[ours] for theirs, ours in spelled.items()})

    return way


def _nuslerp(recipe: Recipe, rows: Rows, settings: dict[str, Any]) -> _Said:  # noqa: ARG001
    return _Said("nuslerp", recipe.base, _weights(recipe, rows), {})


def _nuslerp_rows(recipe: Recipe, rows: Rows, settings: dict[str, Any]) -> _Said:
    columns = settings["along"] == "columns"
    shared: dict[str, Mapping[str, float] | float | bool] = {"nuslerp_flatten": False, "nuslerp_row_wise": columns}
    return _Said("nuslerp", recipe.base, _weights(recipe, rows), shared)


def _multislerp(recipe: Recipe, rows: Rows, settings: dict[str, Any]) -> _Said:  # noqa: ARG001
    return _Said("multislerp", recipe.base, _weights(recipe, rows), {})


def _karcher(recipe: Recipe, rows: Rows, settings: dict[str, Any]) -> _Said:  # noqa: ARG001
    if recipe.base is not None:
        raise MergeError(
            "mergekit's `karcher` is the mean of models, not of what they add to a base; take the base out."
        )
    _all_equal(recipe, rows, None)
    return _Said("karcher", None, [(source, {}) for source in recipe.experts.values()], {})


def _all_equal(recipe: Recipe, rows: Rows, value: float | None) -> None:
    """Raises `MergeError` where models have weights that mergekit's method does not know."""
    for name, row in rows.items():
        wanted = row[0] if value is None else value
        if any(one != wanted for one in row):
            what = "equal weights" if value is None else f"weights of {value:g}"
            raise MergeError(
                f"mergekit's `{recipe.method}` has no weights, so {what} are needed, but `{name}` has {row}."
            )


_WAYS: dict[str, _Way] = {
    "linear": _linear,
    "slerp": _slerp,
    "task_arithmetic": _task_arithmetic,
    **dict.fromkeys(("ties", "breadcrumbs", "breadcrumbs_ties", *RANDOM), _sparse),
    "model_stock": _model_stock,
    "nuslerp": _nuslerp,
    "nuslerp_rows": _nuslerp_rows,
    "multislerp": _multislerp,
    "karcher": _karcher,
    "sce": _without_weights("sce", {"select_topk": "density"}, {"compat": "mergekit", "mask": "delta"}),
    "ram": _without_weights("ram", {"epsilon": "epsilon"}, {}),
    "ram_plus": _without_weights(
        "ramplus_tl", {"r": "boost", "alpha": "limit", "epsilon": "epsilon"}, {"compat": "mergekit", "scope": "tensor"}
    ),
    "arcee_fusion": _without_weights("arcee_fusion", {}, {"multiplier": 1.5}, most=1),
    "nearswap": _without_weights("nearswap", {"t": "t"}, {}, most=1),
}


class _Dumper(yaml.SafeDumper):
    """Lists of numbers stand in one line."""


def _list(dumper: _Dumper, data: list[Any]) -> yaml.SequenceNode:
    numbers = all(isinstance(one, int | float) for one in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=numbers)


_Dumper.add_representer(list, _list)
