"""Commands about models: merging, exporting, scoring, without a search or after one."""

from pathlib import Path
from typing import Annotated

import typer

from optimizer.commands.options import (
    DEFAULT_STORAGE,
    Device,
    JobName,
    Json,
    Name,
    Public,
    PushToHub,
    Smoke,
    Storage,
    Threads,
)
from optimizer.commands.shared import database, job_and_results, print_json, print_rich, refuse_existing, write_new
from optimizer.errors import InputError


def merge(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG.yaml",
            help="A recipe (docs/job-file.md, last section), or a merge config of mergekit (docs/mergekit.md).",
        ),
    ],
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The folder to write; it must not exist.", show_default=False)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be merged how, and write nothing.")
    ] = False,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Leave out keys that mergekit's grammar does not have, and list them.")
    ] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Of random masks, for configs of mergekit.")] = None,
    threads: Threads = None,
    device: Device = "cpu",
    smoke: Smoke = False,
    push_to_hub: PushToHub = None,
    public: Public = False,
    as_json: Json = False,
) -> None:
    """Do one merge, without a search."""
    from optimizer.delivery import Delivery
    from optimizer.merge import MergeOptions, check_output, plan_lines, planned
    from optimizer.merge import merge as do_merge
    from optimizer.progress import progress

    check_output(dry_run, as_json, delivers=smoke or public or push_to_hub is not None)
    options = MergeOptions(lenient, seed, threads, device)
    if dry_run:
        plan = planned(config, options)
        if as_json:
            print_json(plan)
        else:
            print("\n".join(plan_lines(plan)))
        return
    if folder is None:
        raise InputError("`mergeopt merge` needs a folder to write, DIR; only --dry-run goes without.")
    delivery = Delivery(smoke, push_to_hub, public)
    delivery.check()
    with progress() as shown:
        do_merge(config, folder, options, shown.say)
        said = delivery.carry_out(folder, shown.say)
    print("\n".join([str(folder), *said]))


def export(
    job: JobName,
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The folder to write; it must not exist.", show_default=False)
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    trial: Annotated[int | None, typer.Option("--trial", help="This trial instead of the job's winner.")] = None,
    mergekit: Annotated[
        Path | None,
        typer.Option("--mergekit", metavar="FILE", help="Write a merge config of mergekit as well, or alone."),
    ] = None,
    threads: Threads = None,
    device: Device = "cpu",
    smoke: Smoke = False,
    push_to_hub: PushToHub = None,
    public: Public = False,
) -> None:
    """Write a trial's merged model as a Hugging Face folder: the very weights that were scored."""
    from optimizer.audit import note_alone
    from optimizer.delivery import Delivery
    from optimizer.export import export_trial, trial_as_mergekit
    from optimizer.progress import progress

    if folder is None and mergekit is None:
        raise InputError("`mergeopt export` needs a folder to write, DIR, or --mergekit FILE.")
    with database(storage) as (opened, url), progress() as shown:
        found, results = job_and_results(opened, url, job)
        delivery = Delivery(smoke, push_to_hub, public, load=found.spec["models"]["load"])
        delivery.check()
        if mergekit is not None:
            number, text = trial_as_mergekit(url, found, results, trial)
            refuse_existing(mergekit)
            if folder is None:
                write_new(mergekit, text)
                print(f"trial {number} of {found.name}: {mergekit}")
                return
        assert folder is not None
        number = export_trial(opened, url, found, results, folder, trial, shown.say, threads, device)
        written = {"trial": number, "folder": str(folder.resolve()), "pushed": push_to_hub}
        note_alone(opened, "exported", found.id, written)
        if mergekit is not None:
            write_new(mergekit, text)
        said = delivery.carry_out(folder, shown.say)
    print("\n".join([f"trial {number} of {found.name}: {folder}", *said]))


def merge_adapters(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe; docs/adapters.md explains it.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write; it must not exist.")],
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Cut the result to this rank.")] = None,
) -> None:
    """Merge LoRA or IA3 adapters into one adapter. An export's recipe over adapters makes it one as well."""
    from optimizer.adapters import merge_adapter_recipe

    print("\n".join([str(folder), *merge_adapter_recipe(recipe, folder, rank)]))


def calibrate(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="A recipe with the method regmean or fisher.")],
    texts: Annotated[
        list[str], typer.Option("--texts", metavar="EXPERT=FILE", help="An expert's texts; once for each expert.")
    ],
    running: Annotated[
        bool, typer.Option("--running", help="Behind the merge of the layers before, for RegMean++.")
    ] = False,
) -> None:
    """Collect the statistics that a recipe's method needs, from texts of the experts' own."""
    from optimizer.calibrate import calibrate as collect
    from optimizer.calibrate import files_by_expert
    from optimizer.progress import progress

    with progress() as shown:
        files = collect(recipe, files_by_expert(texts), shown.say, running=running)
    print("\n".join(str(file) for file in files))


def tokens(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Model folders or Hub ids, the base first.")],
    as_json: Json = False,
) -> None:
    """Compare the tokens of models: which have which, at which rows. For models that are to be merged."""
    from merging.tokenizers.report import report_lines
    from optimizer.tokens import compare_tokens

    report = compare_tokens(models)
    if as_json:
        print_json(report)
    else:
        print("\n".join(report_lines(report)))


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder or Hub id.")],
    job_file: Annotated[Path, typer.Option("--job", metavar="JOB.yaml", help="The job file whose tasks to use.")],
    split: Annotated[str, typer.Option("--split", help="gradient, search, select or test.")] = "test",
    as_json: Json = False,
) -> None:
    """Score any model on a job's examples, exactly as its trials are scored."""
    from optimizer.evaluate import evaluate_model, scores_json, scores_table

    scored = evaluate_model(model, job_file, split)
    if as_json:
        print_json(scores_json(scored))
    else:
        print_rich(scores_table(scored))


def import_evolve(
    genome: Annotated[Path, typer.Argument(metavar="GENOME.yml", help="A config of mergekit-evolve.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The job file to write; else it is printed.")
    ] = None,
    name: Name = None,
    max_fevals: Annotated[int, typer.Option("--max-fevals", min=1, help="Trials; mergekit-evolve's default.")] = 100,
    random_seed: Annotated[int, typer.Option("--random-seed", min=0, help="The search's seed.")] = 0,
    task_search_path: Annotated[
        list[str] | None, typer.Option("--task-search-path", help="A folder with task files; may be given again.")
    ] = None,
    lenient: Annotated[bool, typer.Option("--lenient", help="Leave out keys that are unknown, and list them.")] = False,
) -> None:
    """Turn a config of mergekit-evolve into a job file that asks for the same search."""
    from optimizer.import_evolve import import_evolve as job_of

    beside = output.parent if output else None
    text = job_of(genome, name, max_fevals, random_seed, task_search_path or (), beside, lenient)
    if output is None:
        print(text, end="")
        return
    write_new(output, text)
    print(output)


def recipe_to_mergekit(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.yaml", help="A recipe, or an export's mergeopt_recipe.json.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; else it is printed.")
    ] = None,
) -> None:
    """Write a recipe as a merge config of mergekit, or say why mergekit cannot do it."""
    from merging.recipe_file import read_recipe
    from optimizer.export import recipe_as_mergekit

    try:
        read = read_recipe(recipe)
    except ValueError as error:
        raise InputError(str(error)) from error
    text = recipe_as_mergekit(read)
    if output is None:
        print(text, end="")
    else:
        write_new(output, text)
        print(output)


COMMANDS = (merge, export, merge_adapters, calibrate, tokens, evaluate, import_evolve, recipe_to_mergekit)
