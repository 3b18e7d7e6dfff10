"""Hypergradients of the learned loss: which vector stands for (dL_pri/dw) H^-1, and how its products are computed.

The hypergradient of every implicit scheme is -d/dphi sum_t s_t c_t(l; phi) with s_t = <x, dl_t/dw>, because phi enters
dL_aux/dw only through c_t = dM/dl_t. A *scheme* (Table 8) chooses x; a *way* computes the T numbers s.
"""

from models.meltr.hypergradient.aid_cg import aid_cg
from models.meltr.hypergradient.aid_fp import aid_fp
from models.meltr.hypergradient.aid_fp_lite import aid_fp_lite
from models.meltr.hypergradient.double_backward import double_backward
from models.meltr.hypergradient.finite_difference import finite_difference, one_sided_difference
from models.meltr.hypergradient.forward_mode import forward_mode
from models.meltr.hypergradient.itd import itd
from models.meltr.hypergradient.per_task import per_task
from models.meltr.hypergradient.problem import Problem, Scheme, Way, hypergradient
from models.meltr.hypergradient.stocbio import stocbio

WAYS: dict[str, Way] = {
    "double_backward": double_backward,
    "forward_mode": forward_mode,
    "finite_difference": finite_difference,
    "one_sided_difference": one_sided_difference,
    "per_task": per_task,
}
SCHEMES: dict[str, Scheme] = {
    "aid_fp_lite": aid_fp_lite,
    "itd": itd,
    "stocbio": stocbio,
    "aid_cg": aid_cg,
    "aid_fp": aid_fp,
}

__all__ = ["SCHEMES", "WAYS", "Problem", "Scheme", "Way", "hypergradient"]
