"""Log lines of this process: readable ones, or a JSON object each where `MERGEOPT_LOG=json` asks for them.

Whoever has something to say uses `logging`, or `say` for how things go; so do the libraries. Here is decided how a line
looks: with the UTC time, its level, whose job it is about, and no secret. A command that a person runs prints the bare
text instead, unless JSON is asked for.
"""

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from optimizer.errors import InputError

VARIABLE = "MERGEOPT_LOG"
FORMS = ("text", "json")
IDS = ("job", "job_id", "attempt", "trial")
_SHORTEST = 8  # characters of a secret that is looked for wherever it stands; `true` in a variable is none
_OURS = ("mergeopt", "optimizer", "merging", "search_spaces", "evaluators")
_SECRET_VARIABLE = re.compile(r"(TOKEN|PASSWORD|SECRET|KEY)S?$", re.IGNORECASE)
_IN_URL = re.compile(r"(?i:(\b[a-z][a-z0-9+.-]*://[^\s:/@\"']*)):(?!PASSWORD@HOST\b)[^\s\"']+@")  # not our example
_IN_QUERY = re.compile(r"\b(\w*(?:password|secret|token))=[^\s&\"']+", re.IGNORECASE)

_said = logging.getLogger("mergeopt")
_secrets: list[str] = []
_everywhere: dict[str, Any] = {}
_set_up = False


class _Stderr(logging.StreamHandler[Any]):
    """Standard error as it is when the line is written: a live bar puts another in its place for a while."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """Where lines go now."""
        return sys.stderr


def wants_json() -> bool:
    """Whether lines are to be JSON. Raises `InputError` where `MERGEOPT_LOG` says neither that nor `text`."""
    wanted = os.environ.get(VARIABLE) or FORMS[0]
    if wanted not in FORMS:
        raise InputError(f"{VARIABLE} must be one of {', '.join(FORMS)}, but is {wanted!r}. Set it anew or unset it.")
    return wanted == "json"


def set_up(service: bool = False) -> None:
    """Take what this process and its libraries log; call it again where a library has come with ways of its own.

    A `service` is read from a file, so its lines have time and ids even where they are not JSON.
    """
    global _set_up
    as_json = wants_json()
    _set_up = as_json or service
    _find_secrets()
    if not _set_up:
        return
    formatter = _formatter(as_json)
    handler = _Stderr()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [one for one in root.handlers if type(one) not in (_Stderr, logging.StreamHandler)] + [handler]
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    for logger in logging.Logger.manager.loggerDict.values():  # Optuna, transformers and Ray print by themselves
        for one in getattr(logger, "handlers", ()):
            if isinstance(one, logging.StreamHandler) and not isinstance(one, logging.FileHandler):
                one.setFormatter(formatter)
    logging.captureWarnings(True)
    sys.excepthook = _last_words
    threading.excepthook = lambda told: _last_words(told.exc_type, told.exc_value, told.exc_traceback)


def say(text: str, **figures: Any) -> None:
    """A line on how things go. Where no log is set up it is printed bare; JSON lines hold the figures too."""
    if _set_up:
        _said.info(text, extra={"figures": figures})
    else:
        print(without_secrets(text), file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """Say why a command ends."""
    if _set_up:
        _said.error(text if wants_json() else f"mergeopt: {text}")
    else:
        print(f"mergeopt: {without_secrets(text)}", file=sys.stderr, flush=True)


@contextmanager
def about(**ids: Any) -> Iterator[None]:
    """Name these in every line of this thread while the block lasts."""
    if not _set_up:
        yield
        return
    import structlog

    with structlog.contextvars.bound_contextvars(**ids):
        yield


def all_about(**ids: Any) -> None:
    """Name these in every line of this process from now on, whatever thread it is from."""
    _everywhere.update(ids)


def hide_password(url: str) -> None:
    """Never let a line show the password of this URL, whatever a library puts around it."""
    try:
        password = urlsplit(url).password
    except ValueError:  # not a URL, so there is none
        return
    if password:
        _hide(password, unquote(password))


def text_of(line: str) -> str:
    """What a line of a log says, where it is JSON; else the line."""
    try:
        said = json.loads(line)
    except ValueError:
        return line
    return str(said["text"]) if isinstance(said, dict) and "text" in said else line


def without_secrets(text: str) -> str:
    """The text with `***` in place of passwords in URLs, of those hidden here and of secrets in the environment."""
    text = _IN_QUERY.sub(r"\1=***", _IN_URL.sub(r"\1:***@", text))
    for secret in _secrets:
        text = text.replace(secret, "***")
    return text


def _find_secrets() -> None:
    _hide(*(value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)))
    hide_password(os.environ.get("MERGEOPT_STORAGE", ""))


def _hide(*secrets: str) -> None:
    fresh = [secret for secret in secrets if len(secret) >= _SHORTEST and secret not in _secrets]
    _secrets.extend(fresh)
    _secrets.sort(key=len, reverse=True)  # one may begin with another


def _formatter(as_json: bool) -> logging.Formatter:
    import structlog

    renderer = structlog.processors.JSONRenderer(default=str, ensure_ascii=False) if as_json else _readable
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.contextvars.merge_contextvars],
        processors=[structlog.processors.format_exc_info, _line, _masked, renderer],
    )


def _line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What a line holds, in its order. What a library adds to its records beyond that stays out."""
    record: logging.LogRecord = event["_record"]
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    line = {"at": at, "level": record.levelname.lower(), "logger": record.name, "text": event["event"].rstrip()}
    known = {**_everywhere, **event, **{name: getattr(record, name) for name in IDS if hasattr(record, name)}}
    line |= {name: known[name] for name in IDS if name in known}
    line |= getattr(record, "figures", {})
    if "exception" in event:
        line["exception"] = event["exception"]
    return line


def _masked(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: _without(value) for name, value in line.items()}


def _without(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float) else without_secrets(str(value))


def _readable(_logger: Any, _method: str, line: Mapping[str, Any]) -> str:
    logger = "" if line["logger"] == _said.name else f"{line['logger']}: "
    ids = " ".join(f"{name}={line[name]}" for name in IDS if name in line)
    whose = f"  [{ids}]" if ids else ""
    text = "\n".join([f"{line['text']}{whose}", *filter(None, [line.get("exception")])])
    return f"{line['at']} {line['level']}: {logger}{text}".replace("\n", "\n    ")  # so that a line begins with a time


def _last_words(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit) or error is None:
        return
    _said.critical("ended by an error that nobody expected", exc_info=(kind, error, trace))
