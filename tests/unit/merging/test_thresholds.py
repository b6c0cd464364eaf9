"""The streamed k-th largest magnitude is the one a full sort finds."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from merging.thresholds import histogram, kth_largest_of

VALUES = st.floats(0, 3.0000000054977558e38, width=32) | st.sampled_from([0.0, 1e-3, 1.0, 1.0000001, 1e-42])


def found(values: Tensor, k: int, size: int = 7) -> float:
    def pieces() -> Iterator[Tensor]:
        return (values[start : start + size] for start in range(0, len(values), size))

    return kth_largest_of(k, histogram(pieces()), pieces())


@given(st.lists(VALUES, min_size=1, max_size=60), st.data())
def test_any_rank_of_any_numbers_is_exact(values: list[float], data: st.DataObject) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    k = data.draw(st.integers(1, len(values)))
    assert found(tensor, k) == tensor.sort(descending=True).values[k - 1].item()


def test_a_large_model_of_few_distinct_values_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = (torch.randn(200_000, generator=generator) * 1e-3).bfloat16().float().abs()
    ordered = tensor.sort(descending=True).values
    for k in (1, 2, 1000, 40_000, 199_999, 200_000):
        assert found(tensor, k, 30_000) == ordered[k - 1].item()


@pytest.mark.parametrize("k", [0, 4])
def test_a_rank_that_does_not_exist_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="k must be between 1 and the 3 entries"):
        found(torch.ones(3), k)
