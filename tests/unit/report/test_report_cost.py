"""A report says where the time of the search went."""

from dataclasses import replace

import sample

from optimizer import report_html, report_text
from optimizer.cost import Cost, in_words, summed
from optimizer.results import Results, from_json, to_json

ONE = Cost({"materialize": 0.1, "forward": 1.0, "generation": 0.5, "metrics": 0.1, "other": 0.3}, {"forward": 900}, 1.2)


def costed() -> Results:
    results = sample.full()
    return replace(results, trials=tuple(replace(row, cost=ONE) for row in results.trials))


def test_the_stages_add_up_over_the_search() -> None:
    results = costed()
    assert results.cost is not None
    assert results.cost.seconds["forward"] == 1.0 * len(results.trials)
    assert results.cost.tokens["forward"] == 900 * len(results.trials)
    assert round(results.cost.above_floor, 6) == 0.4


def test_both_reports_show_the_stages_and_the_share_above_the_floor() -> None:
    for shown in (report_text.text(costed(), width=200), report_html.render(costed())):
        assert "Where the time went" in shown
        assert "40.0% went into everything else" in shown
        assert "generation" in shown


def test_a_search_from_before_costs_were_recorded_is_still_reported() -> None:
    assert sample.full().cost is None
    assert "Where the time went" not in report_text.text(sample.full())
    assert "Where the time went" not in report_html.render(sample.full())


def test_costs_survive_json() -> None:
    assert from_json(to_json(costed())) == costed()


def test_nothing_was_measured_is_not_a_share() -> None:
    assert summed([]) is None
    nothing = Cost({}, {}, 0.0)
    assert "0.0% went into everything else" in in_words(nothing)
