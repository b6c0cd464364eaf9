"""Realistic results of jobs that never ran, computed from simulated outcomes per example."""

import math
from dataclasses import replace
from functools import cache
from statistics import NormalDist

import numpy as np

from optimizer.front import front_of
from optimizer.results import Objective, Results, Standing, TaskInfo, TrialRow
from optimizer.statistics import ById, differences_by_task, interval, paired_difference

EXPERTS = ("reverse", "rotate", "dedupe")
TASKS = {"tiny_reverse": 2.0, "tiny_rotate": 1.0, "tiny_dedupe": 1.0}
MODULES = ("attention", "mlp", "norms")
HOSTILE = "<script>alert('x')</script><img src=\"http://evil.example/x.png\">"


def outcomes(quality: dict[str, float], n: int, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """0/1 scores by example id; a shared difficulty makes models right and wrong on the same examples."""
    hardness = np.random.default_rng(7)
    found = {}
    for task, q in quality.items():
        hard = hardness.normal(size=n)
        right = rng.normal(size=n) * 0.3 - hard + math.sqrt(1.09) * _quantile(q) > 0
        found[task] = {f"{task}:{i:04d}": float(value) for i, value in enumerate(right)}
    return found


def _quantile(q: float) -> float:
    return NormalDist().inv_cdf(q)


def standing(
    label: str, kind: str, mine: ById, winner: ById | None, origin: str = "baseline", trial: int | None = None
) -> Standing:
    rng = np.random.default_rng(11)
    plain = {task: list(scores.values()) for task, scores in mine.items()}
    return Standing(
        trial=trial,
        label=label,
        origin=origin,  # type: ignore[arg-type]
        kind=kind,  # type: ignore[arg-type]
        objectives={"score": interval(plain, TASKS, rng)},
        tasks={task: interval({task: values}, {task: 1.0}, rng) for task, values in plain.items()},
        difference=None if winner is None else {"score": paired_difference(winner, mine, TASKS, rng, 1000)},
        task_difference=None if winner is None else differences_by_task(winner, mine, rng, 1000),
    )


def models() -> dict[str, tuple[str, dict[str, float]]]:
    """Label -> kind and true accuracy per task."""
    return {
        "base": ("base", {"tiny_reverse": 0.45, "tiny_rotate": 0.5, "tiny_dedupe": 0.55}),
        "parent reverse": ("parent", {"tiny_reverse": 0.985, "tiny_rotate": 0.35, "tiny_dedupe": 0.5}),
        "parent rotate": ("parent", {"tiny_reverse": 0.3, "tiny_rotate": 0.98, "tiny_dedupe": 0.45}),
        "parent dedupe": ("parent", {"tiny_reverse": 0.35, "tiny_rotate": 0.4, "tiny_dedupe": 0.99}),
        "uniform average": ("baseline", {"tiny_reverse": 0.8, "tiny_rotate": 0.77, "tiny_dedupe": 0.83}),
        "task arithmetic 0.4": ("baseline", {"tiny_reverse": 0.86, "tiny_rotate": 0.84, "tiny_dedupe": 0.87}),
        "trial 57": ("winner", {"tiny_reverse": 0.91, "tiny_rotate": 0.86, "tiny_dedupe": 0.9}),
    }


@cache
def standings_on_test(n: int = 300) -> tuple[Standing, ...]:
    rng = np.random.default_rng(5)
    scored = {label: outcomes(quality, n, rng) for label, (_, quality) in models().items()}
    best = scored["trial 57"]
    found = []
    for label, (kind, _) in models().items():
        if kind == "winner":
            found.append(standing(label, kind, best, None, "search", 57))
        else:
            found.append(standing(label, kind, scored[label], best))
    return tuple(found)


@cache
def trials(count: int = 120, smooth: bool = True) -> tuple[TrialRow, ...]:
    """Baselines first, then a search that improves; two trials fail, the last is still running."""
    rng = np.random.default_rng(3)
    rows = [
        _row(i, "baseline", label, quality, rng, smooth)
        for i, (label, (kind, quality)) in enumerate(models().items())
        if kind != "winner"
    ]
    for number in range(len(rows), count):
        level = 0.89 - 0.25 * math.exp(-number / 25) + 0.03 * rng.standard_normal()
        quality = {task: float(np.clip(level + 0.02 * rng.standard_normal(), 0, 1)) for task in TASKS}
        row = _row(number, "search", f"trial {number}", quality, rng, smooth)
        if number in (20, 75):
            row = replace(row, state="failed", values={}, tasks={}, error="layer.3.mlp: q_proj has a NaN")
        rows.append(row)
    rows.append(
        replace(rows[-1], number=count, label=f"trial {count}", state="running", values={}, tasks={}, examples=0)
    )
    return tuple(rows)


def _row(
    number: int, origin: str, label: str, quality: dict[str, float], rng: np.random.Generator, smooth: bool
) -> TrialRow:
    tasks = {t: {"metric": q, "smooth": q * 0.9} if smooth else {"metric": q} for t, q in quality.items()}
    value = sum(TASKS[t] * q for t, q in quality.items()) / sum(TASKS.values())
    return TrialRow(
        number=number,
        origin=origin,  # type: ignore[arg-type]
        label=label,
        state="complete",
        values={"score": value},
        tasks=tasks,
        parameters={f"{e}.{k}": float(rng.uniform()) for e in EXPERTS for k in ("scale", "depth")},
        digest=f"{number:016x}",
        examples=540 if origin == "baseline" else 192,
        seconds=1.5,
        standard_error=0.0123,
        started="2026-03-01T10:00:00+00:00",
        finished=f"2026-03-01T10:{number // 60:02d}:{number % 60:02d}+00:00",
    )


def coefficients(layers: int = 8, experts: tuple[str, ...] = EXPERTS, low: float = 0.0) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(1)
    groups = [f"layer.{i}.{m}" for i in range(layers) for m in MODULES] + ["norms", "embeddings", "head"]
    return {g: {e: float(rng.uniform(low, 1.0)) for e in experts} for g in groups}


def full(**changes: object) -> Results:
    """A finished job with a test result."""
    rows = trials()
    found = Results(
        job="demo",
        state="done",
        engine="cma-es",
        method="task_arithmetic",
        space="layerwise, 1 layer per group, 24 parameters in [0, 1]",
        seed=0,
        objectives=(Objective("score"),),
        tasks=tuple(TaskInfo(task, "exact_match", weight) for task, weight in TASKS.items()),
        splits={"search": 540, "select": 180, "test": 900},
        trials=rows,
        select=tuple(replace(s, kind="finalist") if s.kind == "baseline" else s for s in standings_on_test(60)[-3:]),
        test=standings_on_test(),
        winner=57,
        optimism=0.0132,
        test_openings=1,
        coefficients=coefficients(),
        budget={"trials": 120},
        examples_scored=sum(row.examples for row in rows),
        seconds=412.0,
        versions={"mergeopt": "0.1.0", "torch": "2.9.0", "optuna": "5.0.0"},
        created="2026-03-01T10:12:00+00:00",
        base="models/base",
        experts=EXPERTS,
        efe={"gradient": 3072, "search": 25128, "select": 540},
        tested=6300,
        notes=("Depth was not opened: the gate found no gain.",),
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def unfinished() -> Results:
    """A job still running: no select, no test, no winner."""
    return full(
        state="running",
        trials=trials(40),
        select=(),
        test=(),
        winner=None,
        optimism=None,
        test_openings=0,
        coefficients={},
    )


def single_trial() -> Results:
    return full(state="done", trials=trials()[:1], select=(), test=(), winner=0, optimism=None, test_openings=0)


def no_trials() -> Results:
    return full(
        state="queued",
        trials=(),
        select=(),
        test=(),
        winner=None,
        optimism=None,
        test_openings=0,
        coefficients={},
        examples_scored=0,
    )


def only_failures() -> Results:
    rows = tuple(replace(row, state="failed", values={}, tasks={}, error="out of memory") for row in trials()[:3])
    return full(
        state="failed",
        error="three trials failed in a row",
        trials=rows,
        select=(),
        test=(),
        winner=None,
        optimism=None,
        coefficients={},
    )


def two_objectives() -> Results:
    """The same models judged on skill (higher is better) and on perplexity (lower is better)."""
    rng = np.random.default_rng(9)
    rows = tuple(
        replace(
            row,
            values={
                "skill": row.values["score"],
                "perplexity": 12 - 6 * row.values["score"] + rng.normal(0, 0.4),
            },
        )
        if row.values
        else row
        for row in trials()
    )
    standings = []
    for s in standings_on_test():
        e = s.objectives["score"]
        objectives = {
            "skill": e,
            "perplexity": replace(e, mean=12 - 6 * e.mean, low=12 - 6 * e.high, high=12 - 6 * e.low),
        }
        d = s.difference["score"] if s.difference else None
        difference = d and {
            "skill": d,
            "perplexity": replace(d, mean=-6 * d.mean, low=-6 * d.high, high=-6 * d.low),
        }
        standings.append(replace(s, objectives=objectives, difference=difference))
    info = tuple(TaskInfo(task, "exact_match", weight, objective="skill") for task, weight in TASKS.items())
    objectives_ = (Objective("skill"), Objective("perplexity", False))
    return full(
        objectives=objectives_,
        front=front_of(rows, objectives_),
        tasks=info,
        trials=rows,
        test=tuple(standings),
        select=(),
    )


def hostile() -> Results:
    """Names and labels that try to get out of their place."""
    h = HOSTILE
    base = full()
    rename = {task: f"{task}{h}" for task in TASKS}

    def tasks(d: dict) -> dict:  # type: ignore[type-arg]
        return {rename.get(k, k): v for k, v in d.items()}

    rows = tuple(
        replace(
            r,
            label=r.label + h,
            tasks=tasks(r.tasks),
            error=h if r.error else None,
            parameters={h: 0.5},
            digest=h,
        )
        for r in base.trials
    )
    found = [
        replace(
            s,
            label=s.label + h,
            tasks=tasks(s.tasks),
            task_difference=s.task_difference and tasks(s.task_difference),
        )
        for s in base.test
    ]
    objective = f"score{h}"
    rows = tuple(replace(r, values={objective: r.values["score"]} if r.values else {}) for r in rows)
    found = [
        replace(
            s,
            objectives={objective: s.objectives["score"]},
            difference=s.difference and {objective: s.difference["score"]},
        )
        for s in found
    ]
    return replace(
        base,
        job=h, state="done", engine=h, method=h, space=h, base=h, experts=(h,), signal=h, error=h,
        objectives=(Objective(objective),),
        tasks=tuple(replace(t, name=rename[t.name], metric=h, objective=objective) for t in base.tasks),
        splits={h: 1}, trials=rows, test=tuple(found), select=(),
        coefficients={f"layer.0.{h}": {h: 0.5}, h: {h: 0.1}},
        budget={h: 1}, versions={h: h}, created=h, efe={h: 1}, notes=(h,),
    )  # fmt: skip
