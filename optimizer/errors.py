"""The two ways a command ends badly, each with its exit code, and what a library said of it."""


class InputError(Exception):
    """The input is wrong (exit code 2). The message says the rule, the value met, and what to do next."""


class JobFailed(Exception):
    """The job could not be carried through (exit code 3). The message says why and how to go on."""


def first_line(error: Exception) -> str:
    """What a library said, without the advice that follows, and without a stop at its end."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .:")
