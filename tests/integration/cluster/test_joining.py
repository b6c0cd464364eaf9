"""How a process joins a cluster or starts one: what it says, what it refuses, what it leaves free for others."""

import os
import subprocess
import sys
from pathlib import Path

JOIN = "from optimizer.cluster.joining import join_ray\n"
CLOSED = "127.0.0.1:9"
TRIES = "RAY_gcs_server_port_wait_time_s"


def _ran(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = {"PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", JOIN + code], env=os.environ | path | environment, capture_output=True, text=True
    )


def test_a_token_that_is_missing_is_named_with_what_to_check(tmp_path: Path) -> None:
    code = (
        "from optimizer.errors import InputError\n"
        f"try: join_ray({CLOSED!r})\n"
        "except InputError as error: print(error)\n"
    )
    ended = _ran(code, RAY_AUTH_MODE="token", HOME=str(tmp_path))
    assert f"Ray cannot be reached or started on {CLOSED}" in ended.stdout
    assert "no authentication token was found" in ended.stdout
    assert "Check --address and Ray's token" in ended.stdout
    assert f"Connecting to Ray at {CLOSED}" in ended.stderr


def test_a_cluster_that_does_not_answer_is_given_up_after_a_few_tries_and_a_local_one_keeps_its_time() -> None:
    code = (
        "import inspect, os, ray._private.node\n"
        f"assert {TRIES!r} in inspect.getsource(ray._private.node)\n"  # else Ray heeds another one by now
        f"ray.init = lambda **_: print(os.environ.get({TRIES!r}))\n"
        "join_ray('head:6379'); join_ray(None)\n"
    )
    assert _ran(code).stdout.split() == ["3", "None"]
    assert _ran(code, RAY_gcs_server_port_wait_time_s="7").stdout.split() == ["7", "7"]


def test_every_local_ray_has_an_agent_with_a_port_of_its_own() -> None:
    code = (
        "import psutil\n"
        "join_ray(None, include_dashboard=False, num_cpus=1)\n"
        "for one in psutil.Process().children(recursive=True):\n"
        "    print(*one.cmdline())\n"
    )
    agents = [line for line in _ran(code).stdout.splitlines() if "agent.py" in line]
    assert agents
    assert all("--listen-port=0 " in line for line in agents)
