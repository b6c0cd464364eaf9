"""Say in Markdown what a job is and what came of it, for its page in the dashboard."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from optimizer.headline import headline, p_value, score, signed
from optimizer.results import Objective, Results, Standing, TrialRow, ranked, sorted_standings

LONGEST = 24_000  # characters of the job file or the recipe; what is longer is cut, and the note says so
MOST_ROWS = 40
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~])")

Pictures = Mapping[str, str]  # a picture's name, and its address on the dashboard


def study_note(results: Results, spec: Mapping[str, Any], recipe: Mapping[str, Any] | None, pictures: Pictures) -> str:
    """The page of a job's study. `recipe` is the winner's, or that of the best trial so far."""
    best = best_row(results)
    parts = [
        f"# {plain(results.job)}",
        f"**State: {plain(results.state)}**, as of {plain(results.created)} (UTC). {_what_is_searched(results)}",
        _best(results, best),
        "## In short",
        "\n".join(f"- {plain(sentence)}" for sentence in headline(results)),
        *_scores(results),
        *_decisions(results),
        *[f"## {name}\n\n![{name}]({address})" for name, address in pictures.items()],
        "## What to do with it",
        _code("\n".join(_commands(results, best)), "sh"),
        *([f"## Recipe of {plain(best.label)}", _yaml(recipe)] if recipe is not None and best is not None else []),
        "## The job file",
        _yaml(spec),
        _READING,
    ]
    return "\n\n".join(parts) + "\n"


def trial_note(results: Results, row: TrialRow, picture: str | None) -> str:
    """The page of one finalist: what it is called, and how it did where the search did not look."""
    role = "the winner" if row.number == results.winner else "a finalist"
    parts = [f"# {plain(row.label)}", f"This trial is {role} of `{results.job}`."]
    for split, standings in (("test", results.test), ("select", results.select)):
        found = [one for one in standings if one.trial == row.number]
        parts += [f"On the {split} split: {_in_words(one, results)}." for one in found]
    parts.append(_code(f"mergeopt export {results.job} FOLDER --trial {row.number}", "sh"))
    parts += [f"![Coefficients]({picture})"] if picture is not None else []
    return "\n\n".join(parts) + "\n"


def best_row(results: Results) -> TrialRow | None:
    """The winner; before there is one, the best trial so far, bounds first; None where nothing has a score."""
    if results.winner is not None:
        return next((row for row in results.trials if row.number == results.winner), None)
    names = [objective.name for objective in results.objectives]
    scored = [row for row in results.trials if row.state == "complete" and all(name in row.values for name in names)]
    return max(scored, key=lambda row: (-row.beyond, row.examples, sum(row.values.values()), -row.number), default=None)


def best_in_words(results: Results) -> str | None:
    """One line on the best trial, for an attribute of the study."""
    row = best_row(results)
    if row is None:
        return None
    values = ", ".join(f"{name} {score(value)}" for name, value in row.values.items())
    named = row.label if row.label == f"trial {row.number}" else f"trial {row.number}, {row.label}"
    beyond = ", beyond a bound" if row.beyond > 0 else ""
    return f"{named}: {values} on the search split{beyond}"


def plain(words: str) -> str:
    """The words as Markdown that shows them as they are, on one line."""
    return _SPECIAL.sub(r"\\\1", "".join(c if c.isprintable() else " " for c in words))


def _what_is_searched(results: Results) -> str:
    models = ", ".join([*([results.base] if results.base else []), *results.experts])
    budget = ", ".join(f"{value:g} {name}" for name, value in results.budget.items())
    return (
        f"It looks for the coefficients of {plain(results.method)} over {plain(models)}: {plain(results.space)}; "
        f"engine {plain(results.engine)}, seed {results.seed}, budget {plain(budget)}."
    )


def _best(results: Results, best: TrialRow | None) -> str:
    if best is None:
        return "No trial has a score yet."
    name = "Winner" if results.winner is not None else "Best so far"
    said = plain(best_in_words(results) or "")
    if len(results.objectives) > 1:
        said += ". With several objectives no trial is best in all of them; this is the one that mergeopt goes by"
    if any(task.bound is not None for task in results.tasks):
        said += (
            ". Bounds go before scores; `mergeopt dashboard` marks this trial as best, other dashboards may mark one "
            "that breaks a bound"
        )
    return f"**{name}: {said}.**"


def _scores(results: Results) -> list[str]:
    standings, split = (results.test, "test") if results.test else (results.select, "select")
    if not standings:
        return _leaders(results)
    parts: list[str] = []
    for objective in results.objectives:
        aim = "" if objective.higher_is_better else ", lower is better"
        rows = [_standing_cells(one, objective) for one in sorted_standings(standings, objective)[:MOST_ROWS]]
        columns = ("model", "score", "95 % interval", "winner minus model", "95 % interval", "p")
        parts += [f"## {plain(objective.name)} on the {split} split{aim}", _table(columns, rows)]
    return [*parts, *_by_task(results, standings, split), *_bounds(standings, split)]


def _standing_cells(standing: Standing, objective: Objective) -> list[str]:
    found = standing.objectives.get(objective.name)
    label = plain(standing.label)
    cells = [f"**{label}**" if standing.kind == "winner" else label]
    cells += [score(found.mean), f"{found.low:.3f} to {found.high:.3f}"] if found else ["–", ""]
    difference = (standing.difference or {}).get(objective.name)
    if difference is None:
        return [*cells, "", "", ""]
    interval = f"{difference.low:+z.3f} to {difference.high:+z.3f}"
    return [*cells, signed(difference.mean), interval, plain(p_value(difference.p))]


def _by_task(results: Results, standings: Sequence[Standing], split: str) -> list[str]:
    tasks = results.tasks[:MOST_ROWS]
    models = sorted_standings(tuple(standings), results.objective)[:8]
    rows = []
    for task in tasks:
        aim = "" if task.higher_is_better else ", lower is better"
        found = [model.tasks.get(task.name) for model in models]
        cells = [f"{one.mean:.3f} ({one.low:.3f} to {one.high:.3f})" if one else "–" for one in found]
        rows.append([plain(f"{task.name} ({task.metric}{aim})"), *cells])
    columns = ["task", *(plain(model.label) for model in models)]
    return [f"## By task on the {split} split", _table(columns, rows)] if rows else []


def _bounds(standings: Sequence[Standing], split: str) -> list[str]:
    rows = [
        [plain(one.label), plain(f"{kept.task} {kept.bound}"), score(kept.measured.mean), kept.verdict]
        for one in standings
        for kept in one.kept
    ]
    return (
        [f"## Bounds on the {split} split", _table(("model", "bound", "measured", ""), rows[:MOST_ROWS])]
        if rows
        else []
    )


def _leaders(results: Results) -> list[str]:
    """The best trials of a search that goes on."""
    rows = ranked(results, results.objective)[:10]
    if not rows:
        return []
    names = [objective.name for objective in results.objectives]
    columns = ["trial", "model", *(plain(name) for name in names), "examples", "beyond bounds by"]
    cells = [
        [
            str(row.number),
            plain(row.label),
            *(score(row.values[name]) if name in row.values else "–" for name in names),
            f"{row.examples:,}",
            f"{row.beyond:.4g}" if row.beyond else "",
        ]
        for row in rows
    ]
    return ["## Best trials so far, on the search split (optimistic)", _table(columns, cells)]


def _decisions(results: Results) -> list[str]:
    if not results.notes:
        return []
    return ["## What the search decided", "\n".join(f"- {plain(note)}" for note in results.notes[-MOST_ROWS:])]


def _commands(results: Results, best: TrialRow | None) -> list[str]:
    job = results.job
    found = [f"mergeopt report {job} --html report.html   # everything, with plots to look into"]
    if results.winner is not None:
        return [f"mergeopt export {job} FOLDER   # the winner's weights", *found]
    if best is not None:
        found.append(f"mergeopt export {job} FOLDER --trial {best.number}   # the best so far")
    return [f"mergeopt show {job}", *found]


def _in_words(standing: Standing, results: Results) -> str:
    found = [(one.name, standing.objectives[one.name]) for one in results.objectives if one.name in standing.objectives]
    return ", ".join(f"{plain(name)} {score(one.mean)} ({one.low:.3f} to {one.high:.3f})" for name, one in found)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _yaml(content: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(content), sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    if len(text) > LONGEST:
        text = text[:LONGEST].rpartition("\n")[0] + "\n# ... and more; `mergeopt show --json` has all of it"
    return _code(text.rstrip(), "yaml")


def _code(text: str, language: str) -> str:
    """A block that nothing inside it can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


_READING = """\
## How to read this study

A trial's value is the mean of its objective's tasks on the *search* split: good for comparing trials, too good as a
score, because the best of many noisy ones is picked. The tables above are of examples that the search never saw.

| attribute of a trial | what it is |
| --- | --- |
| label, origin, kind | what people call it, and where it comes from: a baseline, the search, or the engine's answer |
| examples, seconds | how many examples it was scored on, and the worker seconds that took |
| *task*: *metric* | its mean on each task; History and the other plots can show it in place of the value |
| standard error of *objective* | how far the value may be off by which examples were drawn |
| tokens, model seconds | what its scoring cost, and what of it were the model's own passes |
| beyond *task*, feasible | how far it is beyond a bound, zero or less where it is kept; whether it keeps all |
| digest | the name of its weights: two trials with the same digest are the same merge |"""
