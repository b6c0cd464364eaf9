"""Splits are decided by content, not by order or file, and no test example is ever searched on."""

import datetime
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.protocol import EvaluatorError
from evaluators.shares import Limits, Splits
from evaluators.splits import assign, content_hash, draw


def documents(count: int, start: int = 0) -> list[dict[str, object]]:
    return [{"question": f"q{index}", "answer": index % 4} for index in range(start, start + count)]


def splits_of(placed: list, which: str) -> set[str]:
    return {row.id for row in placed if row.split == which}


@given(st.permutations(range(60)))
def test_the_order_of_documents_changes_no_split(order: list[int]) -> None:
    rows = documents(60)
    expected, _ = assign("t", None, rows, Splits(), limit=Limits(search=9, select=9, test=9))
    found, _ = assign("t", None, [rows[index] for index in order], Splits(), limit=Limits(search=9, select=9, test=9))
    assert [(row.id, row.split) for row in found] == [(row.id, row.split) for row in expected]
    assert all(rows[order[row.position]] == rows[old.position] for row, old in zip(found, expected, strict=True))


def test_splits_stay_what_they_were_in_earlier_versions() -> None:
    # Stored outcomes are keyed by these ids: a change here orphans every database.
    assert content_hash({"b": 1, "a": "é"}) == "aa58fba8483623be"
    assert draw("0123456789abcdef") == pytest.approx(0.26571195150302174, abs=1e-15)
    placed, _ = assign("t", None, documents(6), Splits())
    assert [(row.id, row.split, row.position) for row in placed] == [
        ("t:6d7c6d65a785ec92", "search", 5),
        ("t:d219b9e71bc5b550", "search", 2),
        ("t:fe4abc5ff9fb2b03", "search", 1),
        ("t:c6021c2999bf47d5", "select", 4),
        ("t:13a9da2f5933154b", "test", 3),
        ("t:3fe8522ee6148715", "test", 0),
    ]


def test_key_order_and_number_types_do_not_make_another_example() -> None:
    assert content_hash({"a": 1, "b": [1, 2]}) == content_hash({"b": np.array([1, 2]), "a": np.int64(1)})
    assert content_hash({"a": datetime.date(2024, 5, 1)}) == content_hash({"a": "2024-05-01"})
    assert content_hash({"a": 1}) != content_hash({"a": "1"})


def test_a_field_without_a_plain_form_is_refused() -> None:
    with pytest.raises(EvaluatorError, match="one of them is a object"):
        content_hash({"a": object()})


def test_adding_documents_moves_no_earlier_document() -> None:
    before, _ = assign("t", None, documents(50), Splits())
    after, _ = assign("t", None, documents(80), Splits())
    assert {(row.id, row.split) for row in before} <= {(row.id, row.split) for row in after}


def test_shares_are_close_to_the_weights_whatever_they_add_up_to() -> None:
    rows = documents(4000)
    placed, counts = assign("t", None, rows, Splits(search=3, select=1, test=1))
    assert abs(counts.search - 2400) < 100
    assert abs(counts.select - 800) < 80
    assert placed == assign("t", None, rows, Splits(search=0.6, select=0.2, test=0.2))[0]


def test_validation_documents_are_searched_and_test_documents_are_kept() -> None:
    placed, counts = assign("t", documents(1000), documents(300, start=5000), Splits())
    assert {row.origin for row in placed if row.split == "test"} == {"test"}
    assert {row.origin for row in placed if row.split != "test"} == {"validation"}
    assert counts.test == 300
    assert abs(counts.search - 750) < 60  # 0.6 : 0.2


def test_one_kind_of_documents_is_dealt_to_all_three_splits() -> None:
    rows = documents(200)
    from_test, _ = assign("t", None, rows, Splits())
    from_validation, _ = assign("t", rows, None, Splits())
    assert [(row.id, row.split) for row in from_test] == [(row.id, row.split) for row in from_validation]
    assert all(splits_of(from_test, split) for split in ("search", "select", "test"))


def test_a_document_of_both_kinds_is_only_tested() -> None:
    shared = documents(20, start=990)  # ten of them are validation documents too
    placed, counts = assign("t", documents(1000), shared, Splits())
    assert counts.leaked == 10
    assert len(splits_of(placed, "test")) == 20
    assert not splits_of(placed, "test") & (splits_of(placed, "search") | splits_of(placed, "select"))
    assert counts.search + counts.select == 990


def test_the_same_content_is_kept_once() -> None:
    rows = documents(50)
    doubled = rows + [dict(reversed(row.items())) for row in rows[:7]]
    random.Random(0).shuffle(doubled)
    placed, counts = assign("t", None, doubled, Splits())
    assert counts.duplicates == 7
    assert len({row.id for row in placed}) == len(placed) == 50


def test_a_limit_holds_per_split_and_keeps_the_first_ids() -> None:
    whole, whole_counts = assign("t", None, documents(300), Splits())
    part, counts = assign("t", None, documents(300), Splits(), limit=Limits(search=12, select=7))
    assert (counts.search, counts.select) == (12, 7)
    assert counts.test == whole_counts.test
    assert counts.over_limit == 300 - 12 - 7 - counts.test
    for split, most in (("search", 12), ("select", 7), ("test", None)):
        assert splits_of(part, split) == set(sorted(splits_of(whole, split))[:most])


def test_a_document_falls_into_the_same_split_of_every_task() -> None:
    one, _ = assign("one", None, documents(100), Splits())
    two, _ = assign("two", None, documents(100), Splits())
    assert [(row.id.split(":")[1], row.split) for row in one] == [(row.id.split(":")[1], row.split) for row in two]


@given(st.text(alphabet="0123456789abcdef", min_size=16, max_size=16))
def test_a_draw_is_a_share(content: str) -> None:
    assert 0 <= draw(content) < 1
