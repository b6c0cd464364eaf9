"""The table of merge methods; importing it needs no torch."""

from merging.methods.breadcrumbs import BREADCRUMBS
from merging.methods.dare import DARE_LINEAR, DARE_TIES
from merging.methods.della import DELLA
from merging.methods.isotropic import ISO_C
from merging.methods.linear import LINEAR
from merging.methods.method import At, Method
from merging.methods.slerp import SLERP
from merging.methods.task_arithmetic import TASK_ARITHMETIC
from merging.methods.ties import TIES

__all__ = ["METHODS", "At", "Method"]

METHODS: dict[str, Method] = {
    method.name: method
    for method in (LINEAR, SLERP, TASK_ARITHMETIC, TIES, DARE_LINEAR, DARE_TIES, BREADCRUMBS, DELLA, ISO_C)
}
