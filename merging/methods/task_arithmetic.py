"""The base plus a weighted sum of task vectors."""

from merging.methods.arithmetic import add_up, task_vectors
from merging.methods.method import Method, NoStructure, always
from merging.methods.weighted_sum import from_base

TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    summary="Base plus the weighted sum of the experts' differences from it.",
    paper="Editing Models with Task Arithmetic, arXiv 2212.04089",
    needs_base=True,
    linear=True,
    structure=NoStructure,
    directions=task_vectors,
    combine=add_up,
    elementwise=always,
    weighted_sum=from_base,
)
