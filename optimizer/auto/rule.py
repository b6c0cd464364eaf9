"""What `engine: auto` stands for: the strategy itself, or the engine for what it cannot do."""

AUTO = "auto"
MANY = 4  # objectives, from which on a front has too many corners for NSGA-II


def engine_for(objectives: int, bounded: bool, settings: bool = False) -> str:
    """The name of the engine that carries out a job with `engine: auto`.

    The strategy follows one objective. Several are searched by NSGA-II, four and more by NSGA-III; bounds on other
    tasks are kept by CMA-ES, which ranks what breaks them behind everything else. Methods and their `settings` are
    searched by TPE, which takes choices.
    """
    if objectives >= MANY:
        return "nsga3"
    if objectives > 1:
        return "nsga2"
    if settings:
        return "tpe"
    return "cma-es" if bounded else AUTO
