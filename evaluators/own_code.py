"""Find a user's own Python function: `package.module:function`, or `path/to/file.py:function`."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from evaluators.protocol import EvaluatorError


def function_at(reference: str) -> Callable[..., Any]:
    """The function, its file or module imported once per process. Raises `EvaluatorError` where there is none."""
    place, _, name = reference.rpartition(":")
    try:
        module = _file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:  # the user's module may raise anything
        raise EvaluatorError(
            f"{reference}: cannot be imported: {type(error).__name__}: {error}. Give `file.py:function` relative to "
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


def _file(path: Path) -> ModuleType:
    """A file of the user's as a module under a name of its own, so that two files of one name do not meet."""
    name = f"mergeopt_own_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
