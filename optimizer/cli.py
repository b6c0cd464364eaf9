"""The command line: reads arguments, calls one function, prints what it returns.

The commands are in `optimizer.commands`. Everything heavy is imported inside them, so that `--help` answers at once.
"""

import signal
import sys
from collections.abc import Sequence

import typer

from optimizer import logs
from optimizer.commands import jobs, models, results, service
from optimizer.commands.options import FAILED, INTERRUPTED, WRONG_INPUT
from optimizer.errors import InputError, JobFailed

GROUPS = {
    "Jobs": jobs.COMMANDS,
    "Results": results.COMMANDS,
    "Models": models.COMMANDS,
    "Service": service.COMMANDS,
}

app = typer.Typer(
    name="mergeopt",
    help="Find the merge coefficients of fine-tuned models, per layer and per module, with an honest score.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
for title, commands in GROUPS.items():
    for command in commands:
        app.command(rich_help_panel=title)(command)
app.add_typer(service.db, name="db", rich_help_panel="Service")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code: 0 done, 2 wrong input, 3 the job failed, 130 interrupted."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: what is half done is put in order first
        signal.signal(number, signal.default_int_handler)
    try:
        logs.set_up()
        _refuse_other_bytes(sys.argv[1:] if arguments is None else arguments)
        app(args=arguments, prog_name="mergeopt", standalone_mode=True)
    except InputError as error:
        logs.complain(str(error))
        sys.exit(WRONG_INPUT)
    except JobFailed as error:
        logs.complain(str(error))
        sys.exit(FAILED)
    except KeyboardInterrupt:
        logs.complain("interrupted")
        sys.exit(INTERRUPTED)


def _refuse_other_bytes(arguments: Sequence[str]) -> None:
    """What is not UTF-8 reaches us as halves of pairs, which neither databases nor terminals take."""
    for number, argument in enumerate(arguments, start=1):
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise InputError(f"Arguments must be UTF-8, but number {number} is {argument!a}. Write or rename it so.")


if __name__ == "__main__":
    main()
