"""The numbers of some ranks are those that a full sort finds, whatever the numbers are."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from merging.methods.magnitudes import cuts
from merging.pieces import CHUNK, pieces
from merging.selection import Bits, Evenly, bits_of, by_histogram, found, found_in_all, kth_largest, signed_bits_of

VALUES = st.floats(-3.0000000054977558e38, 3.0000000054977558e38, width=32) | st.sampled_from(
    [0.0, -0.0, 1e-3, 1.0, -1.0, 1.0000001, 1e-42]
)


def cut_up(bits: Bits, size: int) -> Iterator[Bits]:
    return (bits[start : start + size] for start in range(0, len(bits), size))


@given(st.lists(VALUES, min_size=1, max_size=60), st.data())
def test_any_rank_of_any_numbers_is_exact_even_where_the_sample_misleads(
    values: list[float], data: st.DataObject
) -> None:
    numbers = torch.tensor(values, dtype=torch.float32)
    bits = signed_bits_of(numbers)
    k = data.draw(st.integers(1, len(values)))
    sample = np.array(data.draw(st.lists(st.sampled_from(bits.tolist()), min_size=1, max_size=5)), dtype=np.int32)
    expected = numbers.sort(descending=True).values[k - 1].item()
    (one,) = found([k], len(values), sample, lambda: cut_up(bits, 7))
    assert one.value == expected
    assert by_histogram(k, lambda: cut_up(bits, 7)).value == expected
    # zeros of both signs are equal as numbers and neighbours here
    assert int((numbers > expected).sum()) <= one.larger < k


@pytest.mark.parametrize("step", [1.0, 1e-4])
def test_a_large_tensor_is_exact_with_and_without_many_equal_entries(step: float) -> None:
    generator = torch.Generator().manual_seed(0)
    base = (torch.randn(700, 900, generator=generator) * 0.02).bfloat16()
    tuned = (base.float() + torch.randn(700, 900, generator=generator) * 0.002 * step).bfloat16()
    ordered = (tuned.float() - base.float()).abs().flatten().sort(descending=True).values
    ranks = [1, 2, 6300, 126_000, 629_999, 630_000]
    (ends,) = cuts(base, [tuned], [ranks], exactly=True)
    assert [end.value for end in ends] == [ordered[k - 1].item() for k in ranks]
    assert kth_largest([(tuned.float() - base.float()).abs()], ranks) == [ordered[k - 1].item() for k in ranks]
    for k, end in zip(ranks, ends, strict=True):
        kept = end.kept(tuned.float() - base.float())
        assert int((kept != 0).sum()) == min(k, int((ordered > 0).sum()))


@pytest.mark.parametrize("values", [(0.0, 1.0), (0.0, 0.5, 1.0, 2.0), tuple(number / 500 for number in range(500))])
def test_of_equal_entries_those_that_come_first_are_kept_in_whatever_piece_they_are(values: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    size = 3 * CHUNK + 17
    vector = torch.tensor(values)[torch.randint(len(values), (size,), generator=generator)]
    vector *= torch.randint(2, (size,), generator=generator) * 2 - 1
    ordered = vector.abs().sort(descending=True, stable=True).indices
    ranks = [3, size // 10, size // 3, 3 * size // 4]
    base = torch.zeros(size)
    first, (whole,), none = cuts(base, [vector, -vector, vector], [ranks, [size // 3], []], exactly=True)
    assert none == []
    assert whole == first[2]
    for k, cut in zip(ranks, first, strict=True):
        expected = torch.zeros(size, dtype=torch.bool)
        expected[ordered[:k]] = True
        kept = cut.mask(vector.abs()).bool()
        assert torch.equal(kept, expected)
        assert torch.equal(cut.kept(vector), vector * expected)
        start = CHUNK - 5
        assert torch.equal(cut.kept(vector[start:], start), (vector * expected)[start:])


def test_several_tensors_are_searched_as_one() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, generator=generator) for size in (10, 50_000, 3)]

    def reading() -> Iterator[list[Tensor]]:
        return ([part] for tensor in tensors for part in pieces(tensor, 999))

    (one, other), (negative,) = found_in_all(
        reading, lambda parts: [parts[0].abs(), -parts[0]], lambda total: [[1, total // 3], [total]], signed=True
    )
    everything = torch.cat(tensors)
    assert one.value == everything.abs().max().item()
    assert other.value == everything.abs().sort(descending=True).values[50_013 // 3 - 1].item()
    assert negative.value == -everything.max().item()
    assert found_in_all(list, lambda parts: parts, lambda total: [[total]]) == []


def test_a_sample_of_unknown_length_is_even_and_of_bounded_size() -> None:
    evenly = Evenly(most=1000)
    numbers = np.arange(123_457, dtype=np.int32)
    for piece in cut_up(numbers, 1234):
        evenly.add(piece[evenly.places(len(piece))], len(piece))
    taken = evenly.taken()
    assert len(set(np.diff(taken).tolist())) == 1
    assert taken[0] == 0
    assert 300 < len(taken) <= 1000
    assert evenly.seen == 123_457


@pytest.mark.parametrize("k", [0, 4])
def test_a_rank_that_does_not_exist_is_refused(k: int) -> None:
    bits = bits_of(torch.ones(3))
    with pytest.raises(ValueError, match="k must be between 1 and the 3 entries"):
        found([k], 3, bits, lambda: [bits])
