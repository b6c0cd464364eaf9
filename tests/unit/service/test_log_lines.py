"""Log lines: whose they are, how they look, and that none shows a secret."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from optimizer.errors import InputError
from optimizer.logs import VARIABLE, text_of, without_secrets

SET_UP = "import logging, threading; from optimizer import logs; logs.set_up(service=True)\n"
PASSWORD = "pass%40word-1"


def _said(code: str, form: str = "json", set_up: str = SET_UP, code_ends: int = 0, **environment: str) -> list[str]:
    """What a process that runs this code writes to standard error, line by line."""
    path = {"PYTHONPATH": ":".join(sys.path), VARIABLE: form}
    ran = subprocess.run(
        [sys.executable, "-c", set_up + code], env=os.environ | path | environment, capture_output=True, text=True
    )
    assert ran.returncode == code_ends, ran.stderr
    return ran.stderr.splitlines()


def _objects(lines: Sequence[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def test_every_json_line_names_job_attempt_and_trial_from_whatever_thread_and_library_it_comes() -> None:
    lines = _objects(
        _said(
            "logs.all_about(job='small', job_id=3, attempt=2)\n"
            "logs.say('begun', finished=4)\n"
            "log = logging.getLogger('somebody.elses')\n"
            "thread = threading.Thread(target=lambda: log.warning('lost %d', 7, extra={'trial': 7}))\n"
            "thread.start(); thread.join()\n"
            "with logs.about(trial=8): log.error('odd\\nlines')\n"
            "log.info('chatter')\n"
        )
    )
    whose = {"job": "small", "job_id": 3, "attempt": 2}
    assert all(line.items() >= whose.items() for line in lines)
    assert [(line["level"], line["text"], line.get("trial")) for line in lines] == [
        ("info", "begun", None),
        ("warning", "lost 7", 7),
        ("error", "odd\nlines", 8),
    ]
    assert lines[0]["finished"] == 4
    assert all(line["at"].endswith("+00:00") for line in lines)


def test_a_library_that_prints_by_itself_and_an_error_nobody_caught_are_lines_too() -> None:
    lines = _objects(
        _said(
            "import optuna; logs.set_up(service=True)\n"
            "optuna.logging.get_logger('optuna').warning('from optuna')\n"
            "import warnings; warnings.warn('from Python')\n"
            "def fail(): raise ValueError('at the end')\n"
            "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
            "fail()\n",
            code_ends=1,
        )
    )
    assert lines[0]["text"] == "from optuna"
    assert "from Python" in lines[1]["text"]
    assert [line["level"] for line in lines[2:]] == ["critical", "critical"]
    assert all("ValueError: at the end" in line["exception"] for line in lines[2:])


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_line_shows_a_password_or_a_token(form: str) -> None:
    url = f"postgresql://ada:{PASSWORD}@db:5432/jobs"
    lines = _said(
        f"logs.hide_password('{url}')\n"
        f"logs.say('at {url}, or {PASSWORD} and pass@word-1', where='{url}')\n"
        "import os; logging.getLogger('x').error('token %s', os.environ['HF_TOKEN'])\n"
        "logs.complain('sqlite:///a.db?password=hunter22')\n"
        f"raise RuntimeError('{url}')\n",
        form,
        code_ends=1,
        HF_TOKEN="hf_0123456789",
    )
    whole = "\n".join(lines)
    assert "postgresql://ada:***@db:5432/jobs" in whole
    for secret in (PASSWORD, "pass@word-1", "hf_0123456789", "hunter22"):
        assert secret not in whole


def test_readable_lines_begin_with_their_time_and_name_their_job() -> None:
    lines = _said("logs.all_about(job='small', attempt=2)\nlogs.say('one\\ntwo')\n", "text")
    assert lines[0].endswith("+00:00 info: one")
    assert lines[1] == "    two  [job=small attempt=2]"


def test_a_command_for_people_prints_the_bare_text_until_json_is_asked_for() -> None:
    code = "from optimizer import logs; logs.set_up()\nlogs.say('Checking the models')\n"
    assert _said(code, "text", set_up="") == ["Checking the models"]
    assert _objects(_said(code, "json", set_up=""))[0]["text"] == "Checking the models"


def test_a_form_that_does_not_exist_is_refused_with_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from optimizer.logs import wants_json

    monkeypatch.setenv(VARIABLE, "xml")
    with pytest.raises(InputError, match=r"MERGEOPT_LOG must be one of text, json, but is 'xml'"):
        wants_json()


def test_what_a_line_says_can_be_read_from_either_form() -> None:
    assert text_of('{"at": "now", "text": "Killed"}') == "Killed"
    assert text_of("Killed") == "Killed"
    assert text_of('{"other": 1}') == '{"other": 1}'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg://u:***@h/d"),
        ("at postgresql://u:a@b:c@h/d.", "at postgresql://u:***@h/d."),
        ("http://127.0.0.1:8265/x", "http://127.0.0.1:8265/x"),
        ("postgresql://USER:PASSWORD@HOST:5432/DATABASE", "postgresql://USER:PASSWORD@HOST:5432/DATABASE"),
        ("postgresql://USER:PASSWORD@host/d", "postgresql://USER:***@host/d"),
        ("sslpassword=x&host=y", "sslpassword=***&host=y"),
        ("5 tokens = 3 examples", "5 tokens = 3 examples"),
    ],
)
def test_secrets_are_found_by_where_they_stand(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_a_controller_loads_neither_torch_nor_optuna_nor_what_is_for_json_and_metrics_alone() -> None:
    code = "import sys, optimizer.serve; print(*sys.modules, sep='\\n', file=sys.stderr)"
    loaded = set(_said(code, "text", set_up=""))
    heavy = {"torch", "ray", "optuna", "lm_eval", "transformers", "pandas", "numpy", "structlog", "prometheus_client"}
    assert "optimizer.serve" in loaded
    assert not heavy & loaded
