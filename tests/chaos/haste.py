"""Make this process live faster than a service does: leases of seconds, looks by the tenth of one.

What is shortened are the times our modules state; nothing else of them is touched. A name that is gone is an error, so
that a storm never runs at the usual pace without anybody noticing.
"""

import time
from importlib import import_module

LEASE = 3.0
_TIMES = {
    "optimizer.lease": {"LEASE_SECONDS": LEASE, "RENEW_SECONDS": 0.4},
    "optimizer.run": {"LEASE_SECONDS": LEASE},
    "optimizer.coordinate": {"LEASE_SECONDS": LEASE, "PAUSES": (0.0, 0.1, 0.3, 0.5)},
    # A storm kills far faster than anything would: a job may well meet five kills in a row before its first outcome.
    "optimizer.serve": {"LEASE_SECONDS": LEASE, "LOOK_SECONDS": 0.1, "STOP_SECONDS": 2.0, "ATTEMPTS": 1000},
}


def hurry(skew: float = 0.0) -> None:
    """From now on. `skew` is how far this process's own wall clock is off: no decision of ours may rest on it."""
    for name, times in _TIMES.items():
        module = import_module(name)
        for constant, value in times.items():
            getattr(module, constant)
            setattr(module, constant, value)
    if skew:
        true = time.time
        time.time = lambda: true() + skew
