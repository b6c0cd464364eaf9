"""The table of engines: what proposes candidates, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from optimizer.errors import InputError

if TYPE_CHECKING:  # optuna takes a second to import, and the command line needs only the names
    import optuna

    from optimizer.engines.protocol import Build, Engine, Parameters


@dataclass(frozen=True)
class EngineEntry:
    """An engine's home, a module with a function `build`, imported when the engine is first made."""

    name: str
    module: str
    several_objectives: bool
    generations: bool = False
    settings: bool = True

    def check_batch(self) -> None:
        """Raise `InputError` where the engine has no generations to share a batch of examples."""
        if not self.generations:
            able = ", ".join(entry.name for entry in ENGINES.values() if entry.generations)
            raise InputError(
                f"`search.batch` scores each generation on examples of its own, but the engine {self.name!r} compares "
                f"all its trials with each other; leave `batch` out, or choose: {able}."
            )

    def check_settings(self) -> None:
        """Raise `InputError` where the engine searches coefficients alone, not methods, settings and layers."""
        if not self.settings:
            able = ", ".join(entry.name for entry in ENGINES.values() if entry.settings)
            raise InputError(
                f"the job searches over methods, settings or layers, but the engine {self.name!r} knows coefficients "
                f"alone; leave `engine` out, or choose: {able}."
            )

    def check(self, objectives: int) -> None:
        """Raise `InputError` where the engine cannot take that many objectives."""
        if objectives > 1 and not self.several_objectives:
            able = ", ".join(entry.name for entry in ENGINES.values() if entry.several_objectives)
            raise InputError(
                f"the engine {self.name!r} takes one objective, but there are {objectives}; "
                f"give all tasks one objective, or choose an engine for several: {able}."
            )

    def __call__(
        self,
        study: "optuna.Study",
        distributions: "Parameters",
        seed: int,
        workers: int,
        start: Mapping[str, Any] | None = None,
    ) -> "Engine":
        """The engine over this study; see `optimizer.engines.protocol.Build` for the arguments."""
        self.check(len(study.directions))
        build = cast("Build", import_module(self.module).build)
        return build(study, distributions, seed, workers, start)


ENGINES: dict[str, EngineEntry] = {
    entry.name: entry
    for entry in (
        EngineEntry("cma-es", "optimizer.engines.cma_es", several_objectives=False, generations=True, settings=False),
        EngineEntry("tpe", "optimizer.engines.tpe", several_objectives=True),
        EngineEntry("gp", "optimizer.engines.gp", several_objectives=False, generations=True, settings=False),
        EngineEntry("random", "optimizer.engines.random_search", several_objectives=True),
        EngineEntry("nsga2", "optimizer.engines.nsga2", several_objectives=True),
        EngineEntry("nsga3", "optimizer.engines.nsga3", several_objectives=True),
    )
}
