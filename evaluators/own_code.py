"""Find a user's own Python function: `package.module:function`, or `path/to/file.py:function`."""

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field

from evaluators.protocol import EvaluatorError

Reference = Annotated[str, Field(pattern=r"^[^:]+:[A-Za-z_]\w*$")]
"""A function by its file or module and its name."""


def function_at(reference: str) -> Callable[..., Any]:
    """The function, its file or module imported once per process. Raises `EvaluatorError` where there is none.

    What stands beside the file can be imported by it, where no installed module has that name.
    """
    place, _, name = reference.rpartition(":")
    try:
        module = _file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise EvaluatorError(
            f"{reference}: cannot be imported: {_cause(error, place)} Give `file.py:function` relative to "
            "the job file, or a module that is installed where the workers run."
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        functions = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise EvaluatorError(
            f"{reference}: there is no function `{name}` in {place}; it has: {', '.join(functions) or 'none'}."
        )
    function: Callable[..., Any] = found
    return function


def located_function(reference: str, place: Callable[[str], str]) -> str:
    """The reference with the path of its file, where it has one, made absolute."""
    path, _, name = reference.rpartition(":")
    return f"{place(path)}:{name}" if path.endswith(".py") else reference


def cause_in(error: BaseException, function: Callable[..., Any]) -> str:
    """What went wrong in a user's function, as a sentence: the error, and the last line of their file it came by."""
    return _cause(error, getattr(sys.modules.get(function.__module__), "__file__", None) or "")


def _cause(error: BaseException, file: str) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    at = f" ({Path(file).name}, line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
    said = str(error).strip().rstrip(".")
    return f"{type(error).__name__}{f': {said}' if said else ''}{at}."


def _file(path: Path) -> ModuleType:
    """A file of the user's as a module under a name of its own, so that two files of one name do not meet."""
    name = f"mergeopt_own_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    beside = str(path.parent)
    if beside not in sys.path:
        sys.path.append(beside)  # last, so that a file of the user's hides no library
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
