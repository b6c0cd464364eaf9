"""The command line: reads arguments, calls one function, prints what it returns.

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optimizer.errors import InputError, JobFailed

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from optimizer.jobs import Job
    from optimizer.results import Results
    from optimizer.spec import JobFile

DONE, WRONG_INPUT, FAILED, INTERRUPTED = 0, 2, 3, 130
DEFAULT_STORAGE = "sqlite:///mergeopt.db"
STORAGE_FILE = "MERGEOPT_STORAGE_FILE"

app = typer.Typer(
    name="mergeopt",
    help="Find the merge coefficients of fine-tuned models, per layer and per module, with an honest score.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)

JobPath = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file; docs/job-file.md explains every key.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="The job's name.")]


def _storage(context: typer.Context, value: str) -> str:
    """The database that was given, else the one in the file that `MERGEOPT_STORAGE_FILE` names."""
    source = getattr(context.get_parameter_source("storage"), "name", "DEFAULT")
    file = os.environ.get(STORAGE_FILE)
    if not file or source == "COMMANDLINE":
        return value
    if source == "ENVIRONMENT":
        raise InputError(f"Only one of MERGEOPT_STORAGE and {STORAGE_FILE} may be set; take one of them away.")
    try:
        url = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"{STORAGE_FILE} must name a file with the database's URL, but: {error}.") from None
    if not url:
        raise InputError(f"{STORAGE_FILE} must name a file with the database's URL, but {file} is empty.")
    return url


Storage = Annotated[
    str,
    typer.Option(
        "--storage",
        envvar="MERGEOPT_STORAGE",
        help=f"The job database: a SQLite file or a PostgreSQL URL. {STORAGE_FILE} may name a file with it.",
        callback=_storage,
        show_envvar=True,
        show_default=DEFAULT_STORAGE,
    ),
]
Address = Annotated[
    str | None, typer.Option("--address", help="A running Ray cluster. Without it a local one is started.")
]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="Where the job's files go. Default: mergeopt-jobs/<name>.")
]
Name = Annotated[str | None, typer.Option("--name", help="Submit under this name instead of the file's own.")]
Smoke = Annotated[
    bool, typer.Option("--smoke", help="Load what was written by transformers, and have it write a few words.")
]
PushToHub = Annotated[
    str | None,
    typer.Option("--push-to-hub", metavar="OWNER/MODEL", help="Upload it to the Hub; a new repository is private."),
]
Public = Annotated[bool, typer.Option("--public", help="With --push-to-hub: let everybody see it.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Tensors under way at a time. Default: one for each processor.")
]
Device = Annotated[str, typer.Option("--device", help="Where merges are computed: cpu, cuda, or auto.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def run(
    job_file: JobPath,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    folder: Folder = None,
    name: Name = None,
) -> None:
    """Submit a job and carry it out here. Ctrl-C stops it so that it can be resumed; running it again goes on."""
    from optimizer.progress import progress

    spec = _read(job_file, name)
    with _database(storage) as (database, url), progress() as shown:
        job = _submit(database, spec, folder, shown.say, local=address is None)
        if job.state == "done":
            shown.say(f"Job `{job.name}` is done already.")
        else:
            _carry_out(database, url, job.name, address, shown)
    _print_report(storage, job.name)


@app.command()
def submit(
    job_file: JobPath,
    storage: Storage = DEFAULT_STORAGE,
    folder: Folder = None,
    name: Name = None,
) -> None:
    """Check a job and put it in the queue. `mergeopt serve` carries it out."""
    from optimizer.progress import progress

    spec = _read(job_file, name)
    with _database(storage) as (database, _), progress() as shown:
        job = _submit(database, spec, folder, shown.say, local=False)
    print(job.name)


@app.command()
def serve(
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    once: Annotated[bool, typer.Option("--once", help="Stop when the queue is empty.")] = False,
) -> None:
    """Carry out queued jobs, one after another, until stopped."""
    from optimizer.progress import progress
    from optimizer.serve import serve as carry_on

    with _database(storage) as (database, url), progress() as shown:
        carry_on(database, url, address, shown, once)


@app.command()
def resume(job: JobName, storage: Storage = DEFAULT_STORAGE, address: Address = None) -> None:
    """Go on with a job that was interrupted, killed, failed or cancelled. Everything told so far stands."""
    from optimizer.jobs import requeue
    from optimizer.progress import progress

    with _database(storage) as (database, url), progress() as shown:
        name = requeue(database, job).name
        _carry_out(database, url, name, address, shown)
    _print_report(storage, name)


@app.command()
def cancel(job: JobName, storage: Storage = DEFAULT_STORAGE) -> None:
    """Cancel a job. One that is running stops within seconds; what it recorded stays."""
    from optimizer.jobs import request_cancel

    with _database(storage) as (database, _):
        found = request_cancel(database, job)
    print(f"{found.name}: {'asked to stop' if found.state == 'running' else found.state}")


@app.command()
def jobs(storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """List the jobs."""
    from optimizer.jobs import list_jobs
    from optimizer.show import job_row, jobs_table

    with _database(storage) as (database, _):
        found = list_jobs(database)
    if as_json:
        _print_json([job_row(job) for job in found])
    else:
        _print_rich(jobs_table(found))


@app.command()
def show(job: JobName, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Show a job: its state, settings, trials and whatever went wrong."""
    from optimizer.show import job_detail, job_panel

    with _database(storage) as (database, url):
        found, results = _job_and_results(database, url, job)
    if as_json:
        _print_json(job_detail(found, results))
    else:
        _print_rich(job_panel(found, results))


@app.command()
def report(
    job: JobName,
    storage: Storage = DEFAULT_STORAGE,
    html: Annotated[Path | None, typer.Option("--html", help="Where to write the HTML report.")] = None,
    as_json: Json = False,
) -> None:
    """Report on a job: a table here, and a self-contained HTML file."""
    from optimizer import report_html
    from optimizer.results import to_json

    with _database(storage) as (database, url):
        found, results = _job_and_results(database, url, job)
    path = html or Path(found.folder) / "report.html"
    report_html.write(results, path)
    if as_json:
        _print_json({**to_json(results), "html": str(path)})
    else:
        _print_results(results)
        print(f"\nHTML report: {path}")


@app.command()
def ledger(job: JobName, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Show a job's examples by split and task, and how often, by what and when each split was looked at."""
    from optimizer.jobs import get_job
    from optimizer.ledger import job_ledger, ledger_json, ledger_tables

    with _database(storage) as (database, _):
        found = job_ledger(database, get_job(database, job))
    if as_json:
        _print_json(ledger_json(found))
    else:
        _print_rich(ledger_tables(found))


@app.command()
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
    from optimizer.delivery import Delivery
    from optimizer.export import export_trial, trial_as_mergekit
    from optimizer.progress import progress

    if folder is None and mergekit is None:
        raise InputError("`mergeopt export` needs a folder to write, DIR, or --mergekit FILE.")
    with _database(storage) as (database, url), progress() as shown:
        found, results = _job_and_results(database, url, job)
        delivery = Delivery(smoke, push_to_hub, public, load=found.spec["models"]["load"])
        delivery.check()
        if mergekit is not None:
            number, text = trial_as_mergekit(url, found, results, trial)
            _write_new(mergekit, text)
        if folder is None:
            print(f"trial {number} of {found.name}: {mergekit}")
            return
        number = export_trial(database, url, found, results, folder, trial, shown.say, threads, device)
        said = delivery.carry_out(folder, shown.say)
    print("\n".join([f"trial {number} of {found.name}: {folder}", *said]))


@app.command()
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
        _write_new(output, text)
        print(output)


@app.command()
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
            _print_json(plan)
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


@app.command()
def merge_adapters(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe; docs/adapters.md explains it.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write; it must not exist.")],
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Cut the result to this rank.")] = None,
) -> None:
    """Merge LoRA or IA3 adapters into one adapter. An export's recipe over adapters makes it one as well."""
    from optimizer.adapters import merge_adapter_recipe

    print("\n".join([str(folder), *merge_adapter_recipe(recipe, folder, rank)]))


@app.command()
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
    _write_new(output, text)
    print(output)


@app.command()
def tokens(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Model folders or Hub ids, the base first.")],
    as_json: Json = False,
) -> None:
    """Compare the tokens of models: which have which, at which rows. For models that are to be merged."""
    from merging.tokenizers.report import report_lines
    from optimizer.tokens import compare_tokens

    report = compare_tokens(models)
    if as_json:
        _print_json(report)
    else:
        print("\n".join(report_lines(report)))


@app.command()
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


@app.command()
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
        _print_json(scores_json(scored))
    else:
        _print_rich(scores_table(scored))


@app.command()
def dashboard(
    storage: Storage = DEFAULT_STORAGE,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8080,
    writable: Annotated[bool, typer.Option("--writable", help="Allow changes: notes, deletions.")] = False,
) -> None:
    """Open Optuna Dashboard on the job database, for this machine only (127.0.0.1)."""
    from optimizer.dashboard import HOST, make_dashboard

    with _database(storage) as (_, url):
        server = make_dashboard(url, port, writable)
    print(f"Optuna Dashboard: http://{HOST}:{server.server_port}/  (Ctrl-C stops it)", flush=True)
    with server:
        server.serve_forever()


@app.command()
def doctor(
    job_file: Annotated[Path | None, typer.Argument(metavar="[JOB.yaml]", help="Check this job file too.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Check versions, devices, database, Ray, memory and disk, and a job file against them."""
    from dataclasses import asdict

    from optimizer.doctor import checks_table, examine

    checks = examine(storage, address, job_file, folder or Path("mergeopt-jobs"))
    if as_json:
        _print_json([asdict(check) for check in checks])
    else:
        _print_rich(checks_table(checks))
    if not all(check.ok for check in checks):
        raise typer.Exit(WRONG_INPUT)


@contextmanager
def _database(storage: str) -> Iterator[tuple["Engine", str]]:
    """The job database, and its URL with everything in it, for Optuna."""
    from optimizer.database import open_database

    database = open_database(storage)
    try:
        yield database, database.url.render_as_string(hide_password=False)
    finally:
        database.dispose()


def _read(job_file: Path, name: str | None) -> "JobFile":
    """Before the database is opened, which may make its file."""
    from optimizer.spec import read_job_file

    return read_job_file(job_file, name)


def _submit(database: "Engine", spec: "JobFile", folder: Path | None, say: Any, *, local: bool) -> "Job":
    from optimizer.submit import submit as take_in

    where = (folder or Path("mergeopt-jobs") / spec.name).resolve()
    return take_in(database, spec, where, say, local).job


def _carry_out(database: "Engine", url: str, name: str, address: str | None, shown: Any) -> None:
    from optimizer.run import claim_and_run
    from optimizer.scorer import Interrupted

    try:
        claim_and_run(database, url, name, address, shown)
    except Interrupted as stopped:
        if stopped.reason == "cancel":
            raise JobFailed(f"job `{name}` was cancelled; go on with: mergeopt resume {name}") from None
        shown.say(f"Stopped. Go on with: mergeopt resume {name}")
        raise typer.Exit(INTERRUPTED) from None


def _job_and_results(database: "Engine", url: str, name: str) -> tuple["Job", "Results"]:
    from optimizer.jobs import get_job
    from optimizer.run import results_so_far

    found = get_job(database, name)
    return found, results_so_far(database, url, found)


def _print_report(storage: str, name: str) -> None:
    with _database(storage) as (database, url):
        found, results = _job_and_results(database, url, name)
    _print_results(results)
    print(f"\nHTML report: {Path(found.folder) / 'report.html'}")
    print(f"Export the winner: mergeopt export {found.name} DIR")


def _print_results(results: "Results") -> None:
    from optimizer.report_text import show as show_results

    show_results(results)


def _write_new(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise InputError(f"{file}: must not exist, but does; choose another name or remove it.") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error}).") from error


def _print_rich(content: Any) -> None:
    from rich.console import Console

    Console().print(content)


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, default=str))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code: 0 done, 2 wrong input, 3 the job failed, 130 interrupted."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: what is half done is put in order first
        signal.signal(number, signal.default_int_handler)
    try:
        app(args=arguments, prog_name="mergeopt", standalone_mode=True)
    except InputError as error:
        _complain(error)
        sys.exit(WRONG_INPUT)
    except JobFailed as error:
        _complain(error)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        print("mergeopt: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _complain(error: Exception) -> None:
    print(f"mergeopt: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
