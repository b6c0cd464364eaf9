"""Which landscapes each level has, and how one is opened by its name."""

from benchmarks.search.landscape import Landscape

LEVELS = {"L0": ("quadratic-0", "quadratic-1"), "L1": ("strings", "choices")}


def open_landscape(name: str) -> Landscape:
    """`quadratic-SEED`, or a zoo's name. Raises `KeyError` for a zoo that is not known."""
    kind, _, seed = name.rpartition("-")
    if kind == "quadratic":
        from benchmarks.search.synthetic import quadratic

        return quadratic(int(seed))
    from benchmarks.search.zoo import open_zoo  # models need torch, quadratics do not

    return open_zoo(name)
