"""Rows hold every sequence once, and a token sees exactly what it would see alone."""

import random

import pytest
import torch

from evaluators.lm.batches import gather
from evaluators.lm.forest import Row, plant
from evaluators.lm.masks import additive, step_visibility, tree_visibility

ALONE = 0.0
FREELY = 1e9


def sequences(seed: int, count: int = 40) -> list[tuple[int, ...]]:
    """Few words and shared beginnings, so that all kinds of branches come up."""
    rng = random.Random(seed)
    starts = [tuple(rng.randrange(3) for _ in range(rng.randint(1, 8))) for _ in range(6)]
    return [rng.choice(starts) + tuple(rng.randrange(3) for _ in range(rng.randint(1, 5))) for _ in range(count)]


@pytest.mark.parametrize("crossover", [ALONE, 50.0, FREELY])
@pytest.mark.parametrize("seed", range(5))
def test_every_sequence_reads_along_its_path_as_it_was_given(seed: int, crossover: float) -> None:
    given = sequences(seed)
    found: dict[int, tuple[int, ...]] = {}
    for row in plant(given, crossover, limit=60):
        for index, path in row.paths.items():
            assert [row.depths[place] for place in path] == list(range(len(path)))
            found[index] = tuple(row.tokens[place] for place in path)
    assert [found[index] for index in range(len(given))] == given


@pytest.mark.parametrize("seed", range(5))
def test_a_token_sees_itself_and_what_leads_to_it_and_nothing_else(seed: int) -> None:
    (batch,) = gather(plant(sequences(seed), FREELY, limit=10_000), budget=100_000)
    seen = tree_visibility(batch.depths, batch.ends)[:, 0]
    for number, row in enumerate(batch.rows):
        for path in row.paths.values():
            for depth, place in enumerate(path):
                assert seen[number, place].nonzero().flatten().tolist() == path[: depth + 1]
        for padding in range(len(row.tokens), batch.length):
            assert seen[number, padding].nonzero().flatten().tolist() == [padding]


def test_a_beginning_shared_by_all_stands_once() -> None:
    given = [(1, 2, 3, 4, last) for last in range(5, 10)]
    (row,) = plant(given, FREELY, limit=100)
    assert len(row.tokens) == 4 + 5


def test_sequences_that_go_on_where_another_ended_share_a_row_even_where_rows_cannot_branch() -> None:
    rows = plant([(1, 2), (1, 2, 3), (1, 2, 4)], ALONE, limit=100)
    assert [row.tokens for row in rows] == [[1, 2, 3], [1, 2, 4]]
    assert [sorted(row.paths) for row in rows] == [[0, 1], [2]]


def test_a_row_grows_only_while_that_is_cheaper_than_a_new_one() -> None:
    given = [(1, *(number for _ in range(30))) for number in range(2, 30)]
    assert len(plant(given, crossover=100.0, limit=10_000)) == len(given)  # one shared token saves less than it costs
    assert len(plant([(*range(60), last) for last in range(100, 140)], crossover=100.0, limit=10_000)) < 5


def test_no_row_outgrows_the_limit_unless_one_sequence_does() -> None:
    given = [(1, 2, 3, last) for last in range(20)]
    assert max(len(row.tokens) for row in plant(given, FREELY, limit=10)) <= 10
    assert [len(row.tokens) for row in plant([tuple(range(30))], FREELY, limit=10)] == [30]


def test_batches_stay_within_their_budget_of_tokens_and_of_reads() -> None:
    rows = plant([tuple(range(start, start + length)) for start, length in enumerate(range(1, 40))], ALONE, 1000)
    batches = gather(rows, budget=80)
    assert all(batch.tokens.numel() <= 80 for batch in batches)
    assert sum(len(batch.rows) for batch in batches) == len(rows)
    assert all(len(batch.rows) <= 2 for batch in gather(rows, 10_000, reads=lambda _: 5, most_reads=10))
    assert all(batch.length % 8 == 0 for batch in gather(rows, 10_000, multiple=8))


def test_rows_of_different_lengths_are_not_padded_to_the_longest() -> None:
    rows = plant([tuple(range(start, start + 20 + 4 * start)) for start in range(100)], ALONE, 1000)
    batches = gather(rows, budget=100_000)
    padded, used = sum(batch.tokens.numel() for batch in batches), sum(batch.used for batch in batches)
    assert padded < 1.1 * used


def test_a_window_hides_what_lies_too_far_back() -> None:
    row = Row()
    row.add(0, (1, 2, 3, 4, 5), 0)
    (batch,) = gather([row.close()], 100)
    seen = tree_visibility(batch.depths, batch.ends, window=2)[0, 0]
    assert seen.sum(dim=1).tolist() == [1, 2, 2, 2, 2]
    assert step_visibility(torch.tensor([4]), 6, window=2)[0, 0, 0].tolist() == [False, False, False, True, True, False]


def test_what_is_not_seen_is_added_the_lowest_number_of_the_dtype() -> None:
    mask = additive(torch.tensor([True, False]), torch.bfloat16)
    assert mask.tolist() == [0.0, torch.finfo(torch.bfloat16).min]
