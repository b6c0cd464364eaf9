"""An expert written twice is noticed before the search."""

from optimizer.preflight import _twins


def test_an_expert_with_the_weights_of_another_or_of_the_base_is_pointed_out() -> None:
    found = _twins({"": "b", "math": "m", "code": "c", "sums": "m", "plain": "b"})
    assert found == [
        "expert `sums` has the very weights of expert `math`.",
        "expert `plain` has the very weights of the base.",
    ]


def test_different_weights_are_nothing_to_point_out() -> None:
    assert _twins({"": "b", "math": "m"}) == []
