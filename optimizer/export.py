"""Write a merged model to a folder: a trial of a job, or a recipe on its own."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine

from merging.card import ScoreRow, model_card
from merging.compatibility import check_tokenizers
from merging.folder import write_checkpoint
from merging.mergekit.export import to_mergekit
from merging.recipe import Recipe
from merging.source_notes import source_notes
from merging.sources import Sources
from optimizer.coordinator import recipe_of
from optimizer.errors import InputError, JobFailed
from optimizer.events import log_event
from optimizer.headline import headline
from optimizer.jobs import Job, next_step
from optimizer.plan import Plan
from optimizer.results import Results, Standing
from optimizer.spec import JobFile
from optimizer.study import all_trials, open_storage, open_study

Say = Callable[[str], None]


def export_trial(
    database: Engine,
    url: str,
    job: Job,
    results: Results,
    folder: Path,
    number: int | None,
    say: Say,
    threads: int | None = None,
    device: str = "cpu",
) -> int:
    """Materialize a trial of a job once more, into `folder`; without `number` the job's winner. Returns its number.

    The recipe is the one that was scored, so the weights are too, bit by bit. Raises `InputError` where the trial or
    the folder is wrong or the job has yet to choose a winner, `JobFailed` where it ended without one or the disk is
    full.
    """
    number = _chosen(job, results, number)
    recipe = _trial_recipe(url, job, number)
    title = f"{job.name}: {_label(results, number)}"
    scores, text = _scores(results, number), _honestly(results, number)
    write_recipe(recipe, folder, say, scores, text, title, threads, device)
    log_event(database, job.id, "exported", {"trial": number, "digest": recipe.digest()})
    return number


def trial_as_mergekit(url: str, job: Job, results: Results, number: int | None) -> tuple[int, str]:
    """A trial's number and its recipe as a merge config of mergekit; without `number` the job's winner.

    Raises `InputError` where mergekit cannot say it, with the reason, and as `export_trial` does.
    """
    number = _chosen(job, results, number)
    return number, recipe_as_mergekit(_trial_recipe(url, job, number))


def recipe_as_mergekit(recipe: Recipe) -> str:
    """Raises `InputError` where mergekit cannot say it, with the reason."""
    try:
        return to_mergekit(recipe, Sources(recipe))
    except ValueError as error:
        raise InputError(str(error)) from error


def _chosen(job: Job, results: Results, number: int | None) -> int:
    found = results.winner if number is None else number
    if found is not None:
        return found
    message = (
        f"job `{job.name}` is {job.state} and has no winner yet; name one of its trials with --trial (`mergeopt show "
        f"{job.name}`). {next_step(job.name, job.state)}"
    )
    raise JobFailed(message) if job.state in ("done", "failed", "cancelled") else InputError(message)


def write_recipe(
    recipe: Recipe,
    folder: Path,
    say: Say,
    scores: list[ScoreRow] | None = None,
    text: str = "",
    title: str = "Merged model",
    threads: int | None = None,
    device: str = "cpu",
) -> None:
    """Materialize the recipe into `folder` with its card: the whole folder, or none of it.

    `threads` and `device` are those of `merging.stream`; no bit depends on `threads`.
    """
    refuse_target(folder)
    try:
        sources = Sources(recipe)
        for note in source_notes(sources):
            say(note)
        if "embeddings" not in recipe.unmerged:
            base, experts = sources.chosen(recipe)
            models = [*([base] if base is not None else []), *experts.values()]
            check_tokenizers(models[0], models[1:])
        sources.verify()
        recipe = sources.fingerprinted(recipe)
        card = model_card(recipe, sources, scores or [], text, title)
        write_checkpoint(recipe, sources, folder, card, on_progress=tenths(say), threads=threads, device=device)
    except ValueError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise JobFailed(f"{folder}: could not be written ({error}); nothing of it was left behind.") from error


def refuse_target(folder: Path) -> None:
    """Raise `InputError` where the target exists, or cannot have the name it is to have."""
    try:
        there = folder.exists() or folder.is_symlink()
    except OSError as error:
        raise InputError(f"{str(folder)[:200]}: no folder can be called so ({error.strerror}).") from error
    if there:
        raise InputError(f"{folder}: the target must not exist, but does; choose another name or remove it.")


def tenths(say: Say) -> Callable[[int, int], None]:
    """Say how far the writing is, ten times in all."""

    def progress(done: int, tensors: int) -> None:
        if done * 10 // tensors != (done - 1) * 10 // tensors:
            say(f"Writing tensors: {done} of {tensors}")

    return progress


def _trial_recipe(url: str, job: Job, number: int) -> Recipe:
    spec, plan = JobFile.model_validate(job.spec), Plan.model_validate(job.plan)
    trials = all_trials(open_study(open_storage(url), job.name, spec.objectives()))
    if not 0 <= number < len(trials):
        raise InputError(f"job `{job.name}` has trials 0 to {len(trials) - 1}, but --trial is {number}.")
    trial = trials[number]
    if not trial.params and "recipe" not in trial.user_attrs:
        raise InputError(f"trial {number} was never started, so it has no recipe; choose one that has a score.")
    recipe = recipe_of(trial, plan.space(spec))
    for name in plan.made:
        if name in recipe.experts and not Path(recipe.experts[name].path).is_dir():
            raise InputError(
                f"trial {number} mixes in the virtual expert `{name}`, but {recipe.experts[name].path} is gone; put it "
                "back, or run the job again under another name."
            )
    return recipe


def _label(results: Results, number: int) -> str:
    return next((trial.label for trial in results.trials if trial.number == number), f"trial {number}")


def _scores(results: Results, number: int) -> list[ScoreRow]:
    """The exported trial on the test split, with the base and the parents for comparison, if it was scored there."""
    if not any(standing.trial == number for standing in results.test):
        return []
    shown = [one for one in results.test if one.trial == number or one.kind in ("base", "parent", "baseline")]
    return [row for standing in shown for row in _rows(standing)]


def _rows(standing: Standing) -> list[ScoreRow]:
    return [
        (f"{standing.label}, {objective}", estimate.mean, estimate.low, estimate.high)
        for objective, estimate in standing.objectives.items()
    ]


def _honestly(results: Results, number: int) -> str:
    """What the scores are scores of."""
    if number == results.winner and results.test:
        return "\n".join(f"- {sentence}" for sentence in headline(results))
    return f"Trial {number} of job `{results.job}` has no score on a test split."
