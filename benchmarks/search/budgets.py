"""How much each contestant is given, and who comes first."""

from benchmarks.search.contestants import INCUMBENT, STRONG, everyone
from benchmarks.search.ours import CONTESTANTS as OURS

MOST = {name: 30_000 for name in everyone() if name in OURS or name.startswith(STRONG)}
"""EFE beyond which these gain nothing. The others take what is asked for, or end by themselves."""

FIRST = (INCUMBENT, STRONG, "auto", "auto without gradient", "CMA-ES, mean")


def budget_of(name: str, asked: int) -> int:
    return min(asked, MOST.get(name, asked))


def in_order() -> tuple[str, ...]:
    """All contestants, the most telling first: a benchmark that is stopped early has those."""
    return tuple(dict.fromkeys([*FIRST, *everyone()]))
