"""The two ways a command ends badly, each with its exit code."""


class InputError(Exception):
    """The input is wrong (exit code 2). The message says the rule, the value met, and what to do next."""


class JobFailed(Exception):
    """The job could not be carried through (exit code 3). The message says why and how to go on."""
