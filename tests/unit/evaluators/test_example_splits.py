"""Splits are decided by content, not by order or file, and no test example is ever searched on."""

import datetime
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.documents import check_every_split, deal
from evaluators.protocol import EvaluatorError
from evaluators.shares import Limits, Splits
from evaluators.splits import assign, content_hash, draw, sameness


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


# ---- what is the same

ALIKE = [
    ({"q": "Is  it\tblue? ", "n": 1}, {"q": "is it blue?", "n": 1}),
    ({"q": "\ufb01ve"}, {"q": "FIVE"}),
    ({"q": "Stra\u00dfe"}, {"q": "STRASSE"}),
    ({"choices": ["A ", "b"]}, {"choices": ["a", "B"]}),
    ({"q": "caf\u00e9"}, {"q": "cafe\u0301"}),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_case_spaces_and_unicode_forms_do_not_make_another_document(
    one: dict[str, object], other: dict[str, object]
) -> None:
    assert sameness(one) == sameness(other)
    rows = [*documents(40), one, other]
    placed, counts = assign("t", None, rows, Splits())
    assert counts.duplicates == 1
    (kept,) = {row.id for row in placed} & {f"t:{content_hash(one)}", f"t:{content_hash(other)}"}
    again, _ = assign("t", None, rows[::-1], Splits())
    assert kept in {row.id for row in again}


@pytest.mark.parametrize(("one", "other"), [({"q": "ab"}, {"q": "a b"}), ({"q": "1"}, {"q": 1}), ({"q": 1}, {"r": 1})])
def test_other_words_types_and_fields_do(one: dict[str, object], other: dict[str, object]) -> None:
    assert sameness(one) != sameness(other)


def test_documents_that_ask_the_same_are_kept_once_where_the_task_says_what_it_asks() -> None:
    rows = documents(50)
    answered = [{**row, "answer": 9} for row in rows[:8]]
    _, whole = assign("t", None, [*rows, *answered], Splits())
    placed, asked = assign("t", None, [*rows, *answered], Splits(), question=lambda row: row["question"])
    assert (whole.duplicates, asked.duplicates) == (0, 8)
    assert len(placed) == 50


def test_a_document_that_stands_among_the_test_documents_in_other_words_is_left_out() -> None:
    test = [{"question": f"  Q{index} ", "answer": index % 4} for index in range(10)]
    placed, counts = assign("t", documents(100), test, Splits())
    assert counts.leaked == 10
    assert {row.position for row in placed if row.origin == "validation"} == set(range(10, 100))


# ---- the split that gradients are taken on


def test_without_a_weight_there_is_no_gradient_example_and_no_other_split_changes() -> None:
    for validation, test in ((None, documents(300)), (documents(300), documents(80, start=250))):
        placed, counts = assign("t", validation, test, Splits(), training=documents(500, start=1000))
        assert placed == assign("t", validation, test, Splits(gradient=0.0))[0]
        assert counts.gradient == 0
        assert {row.split for row in placed} == {"search", "select", "test"}


def test_gradient_examples_come_from_validation_where_there_are_no_training_documents() -> None:
    splits = Splits(gradient=0.25, search=0.45, select=0.1, test=0.2)
    placed, counts = assign("t", documents(1600), documents(200, start=5000), splits)
    assert {row.origin for row in placed if row.split == "gradient"} == {"validation"}
    assert abs(counts.gradient - 500) < 60
    assert counts.test == 200
    one_kind, counts = assign("t", None, documents(2000), splits)
    assert abs(counts.gradient - 500) < 80
    assert splits_of(one_kind, "test") == splits_of(assign("t", None, documents(2000), Splits())[0], "test")


@pytest.mark.parametrize("both", [True, False])
def test_training_documents_are_for_the_gradient_and_spare_the_others(both: bool) -> None:
    splits = Splits(gradient=0.3, search=0.6, select=0.2, test=0.2)
    validation, test = (documents(1000), documents(200, start=5000)) if both else (None, documents(1000))
    training = documents(3000, start=10_000)
    placed, counts = assign("t", validation, test, splits, training=training)
    rest = [row for row in placed if row.split != "gradient"]
    assert rest == assign("t", validation, test, Splits())[0]
    assert {row.origin for row in placed if row.split == "gradient"} == {"training"}
    assert counts.gradient == -(-counts.search // 2)
    assert counts.over_limit == 3000 - counts.gradient


def test_a_limit_says_how_many_training_documents_are_taken() -> None:
    splits = Splits(gradient=0.3)
    training = documents(3000, start=10_000)
    placed, counts = assign("t", None, documents(100), splits, Limits(gradient=2000), training)
    assert counts.gradient == 2000
    assert splits_of(placed, "gradient") == set(sorted(f"t:{content_hash(row)}" for row in training)[:2000])


def test_a_training_document_that_is_scored_anywhere_is_left_out() -> None:
    splits = Splits(gradient=0.3)
    shared = [*documents(30), *documents(20, start=5000)]
    training = [{"question": f"q{index}".upper(), "answer": index % 4} for index in (*range(30), *range(5000, 5020))]
    placed, counts = assign(
        "t", documents(200), documents(50, start=5000), splits, training=[*training, *documents(40, start=9000)]
    )
    assert counts.leaked == len(shared) == 50
    assert {row.position for row in placed if row.split == "gradient"} == set(range(50, 90))


def test_no_gradient_example_is_demanded_and_a_search_example_is() -> None:
    placed, counts = assign("t", None, documents(40), Splits())
    check_every_split("t", placed, counts)
    with pytest.raises(EvaluatorError, match=r"`t` has none for `search` \(gradient 0, search 0, "):
        check_every_split("t", [row for row in placed if row.split != "search"], assign("t", None, [], Splits())[1])


def test_the_limit_of_the_gradient_split_holds_for_documents_of_any_evaluator() -> None:
    dealt = deal("t", documents(400), Splits(gradient=0.5), Limits(gradient=7))
    assert sum(example.split == "gradient" for example in dealt.examples) == dealt.counts.gradient == 7
