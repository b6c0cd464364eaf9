"""Whether the holder of a lease still lives."""

import os
import subprocess
import sys

from optimizer.owners import is_gone, new_owner


def _owner_with_pid(pid: int) -> str:
    host, _, unique = new_owner().split(":")
    return f"{host}:{pid}:{unique}"


def test_a_living_process_keeps_its_lease() -> None:
    assert not is_gone(new_owner())


def test_a_dead_process_of_this_machine_is_known_to_be_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = _owner_with_pid(process.pid)
    assert not is_gone(owner)
    process.kill()
    process.wait()
    assert is_gone(owner)


def test_a_killed_process_that_nobody_collected_is_dead_too() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    # Waits until it has ended, without collecting it.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(_owner_with_pid(process.pid))
    process.wait()


def test_a_process_of_another_machine_or_an_unreadable_owner_counts_as_alive() -> None:
    assert not is_gone("another-host:1:abc")
    assert not is_gone("somebody")
    assert not is_gone(None)


def test_two_claims_of_one_process_have_different_owners() -> None:
    assert new_owner() != new_owner()
