"""Nothing that is not finite passes, wherever it is and in whatever dtype."""

import pytest
import torch

from merging.step import is_finite

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("broken", [float("nan"), -float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 500, 1000])
def test_one_broken_entry_is_found(dtype: torch.dtype, broken: float, place: int) -> None:
    tensor = torch.linspace(-3, 3, 1001, dtype=dtype)
    assert is_finite(tensor)
    tensor[place] = broken
    assert not is_finite(tensor)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_finite_numbers_are_finite_though_their_sum_is_not(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    for tensor in (torch.full((9,), largest, dtype=dtype), torch.full((9,), -largest, dtype=dtype)):
        assert is_finite(tensor)


def test_whole_numbers_and_nothing_at_all_are_finite() -> None:
    assert is_finite(torch.tensor([-1, 1 << 40]))
    assert is_finite(torch.empty(0, dtype=torch.bfloat16))
