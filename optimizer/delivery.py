"""What is done with a folder once it is written: loaded to see that it works, pushed to the Hub."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optimizer.errors import InputError


@dataclass(frozen=True)
class Delivery:
    """`smoke` loads the model as its users will (`load` says how), `push` names a Hub repository."""

    smoke: bool = False
    push: str | None = None
    public: bool = False
    load: str = "causal-lm"

    def check(self) -> None:
        """Refuse before any work. Raises `InputError` where options do not go together, or the Hub will not have it."""
        if self.public and self.push is None:
            raise InputError("--public says who sees what is pushed, but nothing is; add --push-to-hub OWNER/MODEL.")
        if self.push is not None:
            from optimizer.hub import check_push

            check_push(self.push)

    def carry_out(self, folder: Path, say: Callable[[str], None]) -> list[str]:
        """A line for each thing that was done. Raises `JobFailed` where one fails; the folder stays."""
        said = []
        if self.smoke:
            from optimizer.smoke import smoke

            say("Loading what was written")
            said.append(f"smoke: {smoke(folder, self.load)}")
        if self.push is not None:
            from optimizer.hub import push

            said.append(f"pushed: {push(folder, self.push, self.public, say)}")
        return said
