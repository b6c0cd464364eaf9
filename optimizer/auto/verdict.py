"""How a search ends."""

from dataclasses import dataclass

from optimizer.auto.asks import Candidate


@dataclass(frozen=True, eq=False)
class Verdict:
    """The finalists in order of their numbers, and the one that goes to the test split; None where nothing was scored.

    `claimed` is the winner's score on the search split.
    """

    finalists: tuple[Candidate, ...]
    winner: Candidate | None
    claimed: float | None = None
