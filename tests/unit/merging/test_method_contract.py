"""What every method in the table promises; a new one inherits these tests by being there."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from merging.frozen import Frozen
from merging.methods import METHODS, At, Method
from merging.whole import Whole


def each(methods: Iterable[Method]) -> pytest.MarkDecorator:
    """Run a test once for each of these methods."""
    return pytest.mark.parametrize("method", list(methods), ids=lambda method: method.name)


EVERY = each(METHODS.values())
LINEAR = each(method for method in METHODS.values() if method.linear)
ON_A_BASE = each(method for method in METHODS.values() if method.needs_base)
ELEMENTWISE = each(method for method in METHODS.values() if method.elementwise(method.structure()))
SLICED = each(method for method in METHODS.values() if method.sliced(method.structure()))
RANDOM = each(METHODS[name] for name in ("dare_linear", "dare_ties", "della", "della_linear"))
SHAPES = [(), (1,), (7,), (5, 9), (1, 1), (3, 1), (2, 3, 4), (0,), (600, 700)]
# settings under which a method that drops entries drops none
NOTHING_DROPPED: dict[str, dict[str, Any]] = {
    "ties": {"density": 1.0},
    "dare_linear": {"density": 1.0},
    "dare_ties": {"density": 1.0},
    "breadcrumbs": {"density": 1.0, "gamma": 0.0},
    "della": {"density": 1.0, "epsilon": 0.0},
    "della_linear": {"density": 1.0, "epsilon": 0.0},
    "breadcrumbs_ties": {"density": 1.0, "gamma": 0.0},
    "cabs": {"keep": 256, "block": 256},
    "consensus": {"votes": 0},
    "ram": {"epsilon": 0.0},
    "ram_plus": {"epsilon": 0.0},
    "localize_and_stitch": {"density": 1.0},
    "arcee_fusion": {"multiplier": -1e30},
    "nearswap": {"t": 1e3},
    "knots": {"density": 1.0},
    "drm": {"density": 1.0},
    "lines": {"beta": 0.0},
}


def models(count: int, shape: Sequence[int] = (40, 50), seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """A base and fine-tunes of it, float32."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator) * 0.02
    return base, [base + torch.randn(shape, generator=generator) * 0.002 for _ in range(count)]


def place(method: Method, row: Sequence[float] | None = None, experts: int = 2, **settings: Any) -> At[Any]:
    """A place in a merge of experts a, b, c ... with the method's default settings, its survey included."""
    names = tuple("abcdefgh"[:experts])
    if row is None:
        row = [0.3 + 0.2 * position for position in range(len(method.coefficients(names)))]
    structure: Frozen = method.structure.model_validate(settings)
    at = At("model.layers.0.mlp.up_proj.weight", names, tuple(row), structure, 7, depth=0.5)
    return surveyed(method, at, *models(experts, seed=5))


def surveyed(method: Method, at: At[Any], base: Tensor, tuned: Sequence[Tensor]) -> At[Any]:
    """The place in a merge of models that are these tensors and nothing else."""

    def reading(tensor: Tensor) -> Callable[[str], Tensor]:
        return lambda name: tensor  # noqa: ARG005

    whole = Whole([at.tensor], reading(base), [reading(one) for one in tuned])
    return replace(at, survey=method.survey(whole, at.structure))


@EVERY
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_merge_has_the_models_shape_in_float32(method: Method, shape: tuple[int, ...]) -> None:
    base, tuned = models(2, shape)
    merged = method.merge(base.bfloat16(), [one.bfloat16() for one in tuned], place(method))
    assert merged.shape == torch.Size(shape)
    assert merged.dtype == torch.float32
    assert merged.isfinite().all()


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_models_are_left_as_they_were(method: Method, dtype: torch.dtype) -> None:
    base, tuned = models(2)
    stored = [one.to(dtype) for one in (base, *tuned)]
    before = [one.clone() for one in stored]
    merged = method.merge(stored[0], stored[1:], place(method))
    merged.fill_(0)  # nor does the result share memory with a model
    assert all(torch.equal(one, other) for one, other in zip(stored, before, strict=True))


@EVERY
def test_the_same_call_gives_the_same_bits(method: Method) -> None:
    base, tuned = models(2)
    first = method.merge(base, tuned, place(method))
    assert torch.equal(first, method.merge(base, tuned, place(method)))


@EVERY
def test_kept_directions_give_the_same_bits_for_every_row(method: Method) -> None:
    base, tuned = models(2)
    at = method.measured_at(base, tuned, place(method))
    directions = method.directions(base, tuned, replace(at, row=()))
    kept = [one.clone() for one in directions]
    for scale in (0.5, -1.0, 2.0):
        row = tuple(scale * weight for weight in at.row)
        fresh = method.merge(base, tuned, replace(at, row=row))
        settled = method.settled(directions, replace(at, row=row))
        assert torch.equal(method.combine(base, directions, settled), fresh)
    assert all(torch.equal(one, other) for one, other in zip(directions, kept, strict=True))


@LINEAR
def test_a_linear_method_is_base_plus_coefficients_times_directions(method: Method) -> None:
    base, tuned = models(3)
    at = place(method, [0.3, -0.7, 1.1], experts=3)
    expected = base.double()
    for weight, direction in zip(at.row, method.directions(base, tuned, at), strict=True):
        expected = expected + weight * direction.double()
    assert torch.allclose(method.merge(base, tuned, at).double(), expected, atol=1e-7)


@ELEMENTWISE
def test_a_method_that_says_it_is_elementwise_gives_the_same_bits_slice_by_slice(method: Method) -> None:
    at = place(method)
    base, tuned = models(2, (1001,))
    whole = method.merge(base, tuned, at)
    settled = method.settled(method.directions(base, tuned, at), at)  # a law looks at all slices before any is made

    def piece(start: int) -> Tensor:
        origin, models = base[start : start + 13], [one[start : start + 13] for one in tuned]
        return method.combine(origin, method.directions(origin, models, at), settled)

    assert torch.equal(torch.cat([piece(start) for start in range(0, 1001, 13)]), whole)


@SLICED
@pytest.mark.parametrize("shape", [(2002,), (77, 26)], ids=str)
def test_a_method_that_measures_a_tensor_first_gives_the_same_bits_slice_by_slice(
    method: Method, shape: tuple[int, ...]
) -> None:
    base, tuned = models(2, shape)
    at = surveyed(method, place(method), base, tuned)
    whole = method.merge(base, tuned, at)
    at = method.measured_at(base, tuned, at)
    unit = method.unit(at.structure, shape)
    size = max(1, 13 // unit) * unit

    def piece(start: int) -> Tensor:
        origin, *models = (one.flatten()[start : start + size] for one in (base, *tuned))
        here = replace(at, start=start)
        return method.combine(origin, method.directions(origin, models, here), here)

    assert torch.equal(torch.cat([piece(start) for start in range(0, 2002, size)]), whole.flatten())


@EVERY
def test_a_method_that_says_so_combines_slices_with_the_same_bits(method: Method) -> None:
    if not method.combines_slices:
        # the angles of rows and singular values are those of the whole tensor
        assert method.name in ("nuslerp_rows", "iso_c", "regmean", "fisher")
        return
    base, tuned = models(2, (1001,))
    at = method.measured_at(base, tuned, place(method))
    directions = method.directions(base, tuned, at)
    at = method.settled(directions, at)
    parts = [
        method.combine(base[start : start + 13], [one[start : start + 13] for one in directions], at)
        for start in range(0, 1001, 13)
    ]
    assert torch.equal(torch.cat(parts), method.combine(base, directions, at))


@ON_A_BASE
def test_zero_weights_give_the_base(method: Method) -> None:
    base, tuned = models(3)
    merged = method.merge(base, tuned, place(method, [0.0, 0.0, 0.0], experts=3))
    assert torch.equal(merged, base)


# iso_c and iso_cts flatten a single expert too, and pcb draws in its extremes and leaves out its worst entry
@each(method for method in METHODS.values() if method.name not in ("iso_c", "iso_cts", "pcb"))
def test_one_expert_at_weight_one_with_nothing_dropped_is_that_expert(method: Method) -> None:
    base, tuned = models(1)
    at = place(method, [1.0], experts=1, **NOTHING_DROPPED.get(method.name, {}))
    stored = tuned[0].bfloat16()
    merged = method.merge(base.bfloat16(), [stored], at)
    assert torch.equal(merged.bfloat16(), stored)


@each(method for method in METHODS.values() if method.name != "cabs")  # where the first expert chooses first
def test_the_order_of_the_experts_does_not_matter(method: Method) -> None:
    count = method.max_experts or 3
    base, tuned = models(count)
    at = place(method, experts=count)
    row = (1 - at.row[0],) if method.name == "slerp" else at.row[::-1]
    turned = surveyed(method, replace(at, experts=at.experts[::-1], row=row), base, tuned[::-1])
    merged = method.merge(base, tuned, surveyed(method, at, base, tuned))
    other = method.merge(base, tuned[::-1], turned)
    assert torch.allclose(merged, other, atol=1e-7)


@EVERY
def test_merging_a_model_with_copies_of_itself_returns_it(method: Method) -> None:
    base, _ = models(1)
    stored = base.bfloat16()
    merged = method.merge(stored, [stored, stored], place(method))
    assert torch.equal(merged.bfloat16(), stored)


@ON_A_BASE
def test_adding_a_constant_to_every_model_adds_it_to_the_merge(method: Method) -> None:
    # whole numbers, so that differences are the same bits with and without the shift
    base, tuned = (torch.arange(-30.0, 30.0), [torch.arange(60.0) % 7, -(torch.arange(60.0) % 11)])
    merged = method.merge(base, tuned, surveyed(method, place(method), base, tuned))
    moved = base + 64, [one + 64 for one in tuned]
    shifted = method.merge(*moved, surveyed(method, place(method), *moved))
    assert torch.allclose(shifted, merged + 64, atol=1e-4)


@RANDOM
def test_masks_follow_seed_expert_and_tensor_and_nothing_else(method: Method) -> None:
    base, tuned = models(2)
    at = place(method)
    first, second = method.directions(base, tuned, at)
    (alone,) = method.directions(base, tuned[1:], replace(at, experts=("b",)))
    assert torch.equal(alone, second)
    for other in (replace(at, seed=8), replace(at, tensor="lm_head.weight"), replace(at, experts=("x", "y"))):
        assert not torch.equal(method.directions(base, tuned, other)[0], first)


@EVERY
def test_the_table_says_what_a_reader_needs(method: Method) -> None:
    assert METHODS[method.name] is method
    assert method.summary.endswith(".")
    assert any(word in method.paper for word in ("arXiv", "doi", "https://"))
    defaults = method.structure()  # every setting has a default
    assert all(field.description for field in type(defaults).model_fields.values())


def test_the_table_can_be_read_without_torch() -> None:
    code = "import sys; import merging.methods, merging.check; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
