"""The table of merge methods; importing it needs no torch."""

from merging.methods.arcee_fusion import ARCEE_FUSION
from merging.methods.breadcrumbs import BREADCRUMBS, BREADCRUMBS_TIES
from merging.methods.cabs import CABS
from merging.methods.consensus import CONSENSUS
from merging.methods.dare import DARE_LINEAR, DARE_TIES
from merging.methods.della import DELLA, DELLA_LINEAR
from merging.methods.fisher import FISHER
from merging.methods.iso_cts import ISO_CTS
from merging.methods.isotropic import ISO_C
from merging.methods.karcher import KARCHER, MULTISLERP
from merging.methods.largest import EMR, MAGMAX
from merging.methods.linear import LINEAR
from merging.methods.lines import LINES
from merging.methods.localize import LOCALIZE_AND_STITCH
from merging.methods.method import At, Method
from merging.methods.model_stock import MODEL_STOCK
from merging.methods.nearswap import NEARSWAP
from merging.methods.norm_shares import METAGPT, NAN
from merging.methods.nuslerp import NUSLERP, NUSLERP_ROWS
from merging.methods.pcb import PCB
from merging.methods.ram import RAM, RAM_PLUS
from merging.methods.regmean import REGMEAN
from merging.methods.sce import SCE
from merging.methods.shared_basis import DRM, KNOTS
from merging.methods.slerp import SLERP
from merging.methods.task_arithmetic import TASK_ARITHMETIC
from merging.methods.ties import TIES
from merging.methods.tsv import TSV
from merging.methods.wudi import WUDI

__all__ = ["METHODS", "At", "Method"]

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        LINEAR,
        SLERP,
        TASK_ARITHMETIC,
        TIES,
        DARE_LINEAR,
        DARE_TIES,
        BREADCRUMBS,
        DELLA,
        ISO_C,
        NUSLERP,
        NUSLERP_ROWS,
        KARCHER,
        MULTISLERP,
        MODEL_STOCK,
        METAGPT,
        NAN,
        LINES,
        ISO_CTS,
        TSV,
        KNOTS,
        DRM,
        WUDI,
        REGMEAN,
        FISHER,
        BREADCRUMBS_TIES,
        DELLA_LINEAR,
        SCE,
        PCB,
        CABS,
        CONSENSUS,
        EMR,
        MAGMAX,
        RAM,
        RAM_PLUS,
        LOCALIZE_AND_STITCH,
        ARCEE_FUSION,
        NEARSWAP,
    )
}
