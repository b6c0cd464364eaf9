"""Say in plain sentences what a job found, and how sure that is."""

from optimizer.normalised import mean_share, normalised
from optimizer.results import Objective, Results, Standing, best_standing, completed, ranked
from optimizer.statistics import Difference, Estimate

TESTS = (
    "Differences are of the same examples. p: McNemar's mid-p test for a single task of 0/1 scores, random sign flips "
    "otherwise; intervals by the bootstrap (BCa)."
)


def headline(results: Results) -> list[str]:
    """The sentences a report opens with: the winner against parents and baselines, optimism, cost, caveats."""
    sentences = _state(results)
    scored = any(completed(results, objective) for objective in results.objectives)
    if results.test:
        sentences += [text for objective in results.objectives for text in _on_test(results, objective)]
        sentences += _bounds(results.test, "test")
        sentences += _normalised(results)
        sentences += _optimism(results)
    elif scored:
        sentences += _without_test(results)
    else:
        sentences.append("No trial has a score yet.")
    return [*sentences, *_front(results), _scored(results), _cost(results), _openings(results)]


def score(value: float) -> str:
    """A score in the report's usual precision."""
    return f"{value:.4f}"


def signed(value: float) -> str:
    """A difference of scores, always with its sign; a zero is never negative."""
    return f"{value:+z.4f}"


def p_value(p: float) -> str:
    """Three decimals; what is smaller is named as such."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def plural(count: int, noun: str) -> str:
    """`1 trial`, `1,200 trials`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _state(results: Results) -> list[str]:
    if results.error:
        return [f"The job is {results.state}: {results.error}"]
    if results.state != "done":
        return [f"The job is {results.state}; what follows is what is known so far."]
    return []


def _on_test(results: Results, objective: Objective) -> list[str]:
    winner = best_standing(results.test, ("winner",), objective)
    if winner is None:
        return [f"{_opening(results, objective)} winner has no score on the test split."]
    found = winner.objectives[objective.name]
    sentences = [
        f"{_opening(results, objective)} winner, {winner.label}, scores {score(found.mean)} on {found.n:,} "
        f"test examples the search never saw ({_interval(found)})."
    ]
    if winner.origin == "baseline":
        sentences.append("The winner is itself a baseline: no searched candidate was preferred to it.")
    parent = best_standing(results.test, ("base", "parent"), objective)
    baseline = best_standing(results.test, ("baseline",), objective)
    if parent is not None:
        sentences.append(_against("best parent", parent, objective))
    if baseline is not None:
        sentences.append(_against("best baseline", baseline, objective))
    others = [s for s in results.test if s is not parent and s is not baseline]
    return sentences + _also_alike(others, objective)


def _against(role: str, other: Standing, objective: Objective) -> str:
    name = f"the {role}, {other.label} ({score(other.objectives[objective.name].mean)})"
    difference = (other.difference or {}).get(objective.name)
    if difference is None:
        return f"It was not compared example by example with {name}."
    detail = (
        f"paired difference {signed(difference.mean)}, 95 % interval {signed(difference.low)} to "
        f"{signed(difference.high)}, {p_value(difference.p)}" + (f" ({difference.test})" if difference.test else "")
    )
    if not difference.distinguishable:
        return f"It is not distinguishable from {name}: {detail}."
    ahead = (difference.mean > 0) == objective.higher_is_better
    return f"It is {'better' if ahead else 'worse'} than {name}: {detail}."


def _also_alike(others: list[Standing], objective: Objective) -> list[str]:
    """Names the models, other than the best parent and baseline, that the winner cannot be told from."""
    alike = []
    for other in others:
        difference = (other.difference or {}).get(objective.name)
        if difference is not None and not difference.distinguishable:
            alike.append(other.label)
    return [f"Nor can it be distinguished from {', '.join(alike)}."] if alike else []


def _bounds(standings: tuple[Standing, ...], split: str) -> list[str]:
    """One sentence for each of the job's bounds: whether the winner keeps it."""
    winner = next((standing for standing in standings if standing.kind == "winner"), None)
    sentences = []
    if winner is not None and not winner.feasible:
        sentences.append(f"The winner does not keep every bound of the job on the {split} split.")
    for kept in winner.kept if winner is not None else ():
        value = score(kept.measured.mean) if " from " not in kept.bound else signed(kept.measured.mean)
        sentences.append(
            f"Bound on {kept.task}, {kept.bound}: {kept.verdict} on the {split} split, where it is {value} "
            f"({_interval(kept.measured)})."
        )
    return sentences


def _optimism(results: Results) -> list[str]:
    if results.optimism is None:
        return []
    if results.optimism <= 0:
        return [f"Optimism {signed(results.optimism)}: its search score was not above its test score."]
    return [
        f"Optimism {signed(results.optimism)}: its search-split score was that much better than its test "
        "score, as the best of many noisy scores is. Quote the test score."
    ]


def _without_test(results: Results) -> list[str]:
    sentences = []
    splits = "search-split scores"
    for objective in results.objectives:
        winner = best_standing(results.select, ("winner",), objective)
        if winner is not None:
            found = winner.objectives[objective.name]
            splits = "scores on the search and select splits"
            sentences.append(
                f"{_opening(results, objective)} winner, {winner.label}, scores {score(found.mean)} on "
                f"{found.n:,} examples of the select split ({_interval(found)})."
            )
        elif completed(results, objective):
            sentences.append(_best_so_far(results, objective))
    sentences += _bounds(results.select, "select")
    sentences.append(
        f"There is no test result yet: these are {splits}, of examples the choice was made on, and therefore "
        "optimistic."
    )
    return sentences


def _best_so_far(results: Results, objective: Objective) -> str:
    rows = ranked(results, objective)
    chosen = next((row for row in rows if row.number == results.winner), None)
    named = "winner" if chosen else "best trial so far"
    best = chosen or rows[0]
    value = score(best.values[objective.name])
    text = f"{_opening(results, objective)} {named}, {best.label}, has a search-split score of {value}"
    baseline = next((row for row in rows if row.origin == "baseline" and row is not best), None)
    if baseline is None:
        return f"{text}."
    return f"{text}; the best baseline, {baseline.label}, has {score(baseline.values[objective.name])}."


def _opening(results: Results, objective: Objective) -> str:
    return f"On {objective.name}, the" if len(results.objectives) > 1 else "The"


def _interval(estimate: Estimate | Difference) -> str:
    return f"95 % interval {score(estimate.low)} to {score(estimate.high)}"


def _normalised(results: Results) -> list[str]:
    rows = normalised(results)
    if not rows:
        return []
    if len(rows) == 1:
        return [f"Normalised score {rows[0].share:.3f}: its test score is that share of {rows[0].parent}'s."]
    worst = min(rows, key=lambda row: row.share)
    return [
        f"Normalised score {mean_share(rows):.3f}: the mean over {len(rows)} tasks of its test score as a share of the "
        f"best parent's on the task; lowest on {worst.task}, {worst.share:.3f} of {worst.parent}."
    ]


def _front(results: Results) -> list[str]:
    front = results.front
    if front is None:
        return []
    above = ", ".join(f"{name} {score(value)}" for name, value in front.reference.items())
    text = (
        f"The front on the search split has {plural(len(front.trials), 'trial')}: no other is as good on every "
        f"objective and better on one. It covers a hypervolume of {front.hypervolume:.4g} above {above}."
    )
    if front.knee is None:
        return [text]
    label = next((row.label for row in results.trials if row.number == front.knee), f"trial {front.knee}")
    return [text, f"The front's knee is {label}; write it with: mergeopt export {results.job} DIR --trial {front.knee}"]


def _cost(results: Results) -> str:
    seconds = f"{results.seconds:,.0f} s of wall-clock time"
    if not results.efe:
        return f"Cost: {seconds}."
    parts = ", ".join(f"{split} {spent:,}" for split, spent in results.efe.items())
    return f"Cost: {sum(results.efe.values()):,} EFE ({parts}; test (not charged) {results.tested:,}) and {seconds}."


def _scored(results: Results) -> str:
    failed = sum(trial.state == "failed" for trial in results.trials)
    scored = sum(trial.state == "complete" for trial in results.trials)
    text = f"{plural(results.examples_scored, 'example')} scored over {plural(scored, 'trial')}"
    if failed:
        text += f"; {plural(failed, 'trial')} failed and {'has' if failed == 1 else 'have'} no score"
    return f"{text}."


def _openings(results: Results) -> str:
    if results.test_openings == 0:
        return "The test split has not been opened."
    if results.test_openings == 1:
        return "The test split was opened once."
    return (
        f"The test split was opened {results.test_openings} times: every opening after the first makes its "
        "intervals too narrow."
    )
