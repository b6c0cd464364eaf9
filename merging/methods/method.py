"""What a merge method is: directions from the models, and a way to combine them by coefficients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from merging.frozen import Frozen
from merging.methods.whole_model import WholeModel

if TYPE_CHECKING:
    from torch import Tensor

S = TypeVar("S", bound=Frozen)
Gram = list[list[float]]
"""Inner products of directions, over a whole tensor."""


class NoStructure(Frozen):
    """A method without settings of its own."""


@dataclass(frozen=True)
class At(Generic[S]):
    """Where in a merge a method is called: which tensor, with which coefficients and settings.

    `experts` are the recipe's names, in its order. `survey` is what the method found out about the whole models
    (`Method.survey`), None for methods that look at one tensor at a time. `depth` is the place of the tensor's layer,
    from 0 for the first to 1 for the last; None outside of the layers. Where a method is called on a slice of the
    flattened tensor, `start` is the slice's first entry and `measured` what `Method.measure` found in all of it.
    """

    tensor: str
    experts: tuple[str, ...]
    row: tuple[float, ...]
    structure: S
    seed: int = 0
    survey: Any = None
    depth: float | None = None
    start: int = 0
    measured: Any = None

    def each(self, setting: float | Sequence[float]) -> tuple[float, ...]:
        """A setting for each expert: one number stands for all."""
        if isinstance(setting, int | float):
            return (float(setting),) * len(self.experts)
        return tuple(setting)


@dataclass(frozen=True)
class WeightedSum:
    """A merge that is no more than a sum of stored tensors, or of their differences from a base, by weights.

    Added from left to right: base, then models with `base_first`, else models, then the base. Without a base it is
    models alone.
    """

    base: Tensor | None
    models: tuple[Tensor, ...]
    row: tuple[float, ...]
    base_first: bool = False


def one_per_expert(experts: Sequence[str]) -> tuple[str, ...]:
    """The coefficients of most methods: one weight per expert, under its name."""
    return tuple(experts)


def never(structure: Any) -> bool:  # noqa: ARG001
    """For methods that need a whole tensor, whatever their settings."""
    return False


def always(structure: Any) -> bool:  # noqa: ARG001
    """For methods that treat each entry by itself, whatever their settings."""
    return True


def no_survey(whole: WholeModel, structure: Any) -> None:
    """For methods that look at one tensor at a time."""


def no_measure(base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> Any:
    """For methods that need not see a tensor before they treat it."""


def one_entry(structure: Any, shape: Sequence[int]) -> int:  # noqa: ARG001
    """For methods whose slices may begin and end anywhere."""
    return 1


def any_row(row: tuple[float, ...], structure: Any) -> str | None:  # noqa: ARG001
    """For methods to which every row of finite numbers is as good."""
    return None


Write = Callable[[int, int, "Tensor"], bool]
"""Makes the entries from the first number up to the second in a flat tensor, and says whether all are finite there."""


@dataclass(frozen=True)
class Combine:
    """A way to combine directions that has a loop: `writer` gives it, or None where it cannot read these tensors.

    `by_torch` has the same bits, in as many passes as there are operations.
    """

    by_torch: Callable[[Tensor | None, Sequence[Tensor], At[Any]], Tensor]
    writer: Callable[[Tensor | None, Sequence[Tensor], At[Any]], Write | None]

    def __call__(self, base: Tensor | None, directions: Sequence[Tensor], at: At[Any]) -> Tensor:
        """The merged tensor, float32."""
        write = self.writer(base, directions, at)
        if write is None:
            return self.by_torch(base, directions, at)
        merged = directions[0].new_empty(directions[0].shape)
        write(0, merged.numel(), merged.view(-1))
        return merged


def no_sum(base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> WeightedSum | None:  # noqa: ARG001
    """For methods that do more to the entries than to weigh and add them up."""
    return None


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    `directions(base, tuned, at)` gives what the coefficients act on, as float32 tensors that depend on
    structure and seed but never on `at.row`; `combine(base, directions, at)` gives the merged tensor in
    float32. So directions may be kept between merges that differ in coefficients only, and the result has the
    same bits. `base` is None where the recipe has none. Neither function writes to its inputs.

    `linear`: `combine` is base + sum of coefficient times direction, in the order of the experts.
    `elementwise(structure)`: `directions` may be called on any slice of the flattened tensors.
    `sliced(structure)`: it may be called on any slice that `at.start` places, with `at.measured` from
    `measure(base, tuned, at)` of the whole tensor, and gives the same bits; see `measured_at`. `directions` of whole
    tensors need neither, and `combine` only where a method says so.
    `unit(structure, shape)`: such slices begin and end at multiples of so many entries, where a method looks at rows.
    `combines_slices`: `combine` may, with the same slice of every direction.
    `keeps_directions`: making directions takes much longer than reading them, so a search keeps them between trials.
    `survey(whole, structure)`: what the method must know about the whole models, once for a structure; it becomes
    `at.survey`, None where nothing is needed.
    `law(gram, at)`: for methods that are a weighted sum of directions whose weights follow from lengths and angles:
    the row for `combine`, one number for each direction, from G[i][j] = <d_i, d_j> over the whole tensor, float64.
    `weighted_sum(base, tuned, at)`: what `directions` and `combine` come to, for elementwise methods where it is a sum
    of stored tensors, which one reading makes with the same bits; `at.row` is the law's.
    `row_error(row, structure)`: why a row of coefficients cannot be used, None where it can.
    """

    name: str
    summary: str
    paper: str
    needs_base: bool
    linear: bool
    structure: type[Frozen]
    directions: Callable[[Tensor | None, Sequence[Tensor], At[Any]], list[Tensor]]
    combine: Callable[[Tensor | None, Sequence[Tensor], At[Any]], Tensor]
    coefficients: Callable[[Sequence[str]], tuple[str, ...]] = one_per_expert
    min_experts: int = 1
    max_experts: int | None = None
    min_models: int = 1
    elementwise: Callable[[Any], bool] = never
    sliced: Callable[[Any], bool] = never
    measure: Callable[[Tensor | None, Sequence[Tensor], At[Any]], Any] = no_measure
    unit: Callable[[Any, Sequence[int]], int] = one_entry
    combines_slices: bool = True
    keeps_directions: bool = False
    survey: Callable[[WholeModel, Any], Any] = no_survey
    law: Callable[[Gram, At[Any]], Sequence[float]] | None = None
    weighted_sum: Callable[[Tensor | None, Sequence[Tensor], At[Any]], WeightedSum | None] = no_sum
    row_error: Callable[[tuple[float, ...], Any], str | None] = any_row

    def merge(self, base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> Tensor:
        """The merged tensor, float32, from tensors as they are stored (any float dtype, one shape)."""
        if at.measured is None:
            at = self.measured_at(base, tuned, at)
        origin = None if base is None else base.float()
        directions = self.directions(origin, tuned, at)
        return self.combine(origin, directions, self.settled(directions, at))

    def settled(self, directions: Sequence[Tensor], at: At[Any]) -> At[Any]:
        """The place with the row that `combine` is called with: the law's where there is one. Whole tensors only."""
        if self.law is None:
            return at
        from merging.methods.gram import gram  # needs torch, which the table of methods must not

        return self.ruled(gram(directions), at)

    def ruled(self, gram: Gram, at: At[Any]) -> At[Any]:
        """The place with the law's row, from the inner products of the directions over the whole tensor."""
        return at if self.law is None else replace(at, row=tuple(self.law(gram, at)))

    def measured_at(self, base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> At[Any]:
        """The place with what slices of these whole tensors must know of them; tensors as they are stored."""
        return replace(at, measured=self.measure(base, tuned, at))
