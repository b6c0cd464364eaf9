"""A report says of every bound whether it was kept, and how sure that is."""

from dataclasses import replace

import sample

from optimizer import report_html, report_text
from optimizer.headline import headline
from optimizer.results import Kept, Results, TaskInfo, from_json, ranked, to_json
from optimizer.statistics import Estimate


def _bounded(violation: float, surely: bool = True) -> Results:
    """The sample job with a bound on the share of answers cut short, which the winner misses by `violation`."""
    results = sample.full()
    kept = Kept("chat.truncated", "at most 0.05", Estimate(0.05 + violation, 0.01, 0.2, 300), violation, surely)
    return replace(
        results,
        tasks=(*results.tasks, TaskInfo("chat.truncated", "truncated", 1.0, False, None, "at most 0.05")),
        test=tuple(replace(standing, kept=(kept,)) for standing in results.test),
    )


def test_a_kept_bound_is_named_with_its_value_and_interval() -> None:
    text = " ".join(headline(_bounded(-0.02)))
    assert "Bound on chat.truncated, at most 0.05: kept on the test split, where it is 0.0300" in text
    assert "does not keep" not in text


def test_a_winner_that_breaks_a_bound_is_called_that() -> None:
    text = " ".join(headline(_bounded(0.07, surely=False)))
    assert "The winner does not keep every bound of the job on the test split." in text
    assert "broken, not surely" in text


def test_both_reports_list_every_model_s_bounds() -> None:
    results = _bounded(0.07)
    plain, page = report_text.text(results, width=160), report_html.render(results)
    assert plain.count("chat.truncated at most 0.05") == len(results.test)
    assert page.count(">at most 0.05<") == len(results.test)
    assert from_json(to_json(results)) == results


def test_a_job_without_bounds_says_nothing_of_them() -> None:
    results = sample.full()
    assert "ounds" not in report_text.text(results)
    assert "Bound on" not in " ".join(headline(results))


def test_trials_beyond_a_bound_rank_behind_those_that_keep_it() -> None:
    results = sample.full()
    best = ranked(results, results.objective)[0]
    rows = tuple(replace(row, beyond=0.1) if row.number == best.number else row for row in results.trials)
    assert ranked(replace(results, trials=rows), results.objective)[-1].number == best.number
