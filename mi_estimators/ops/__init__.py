"""Operators with compiled kernels: one file each, with schema, torch reference, fake, autograd and public function."""

from mi_estimators import _extension
from mi_estimators.ops.info_nce import fused_info_nce
from mi_estimators.ops.pair_layers import pair_relu, relu_dot
from mi_estimators.ops.pairwise_lse import pairwise_lse
from mi_estimators.ops.pairwise_lse_moments import pairwise_lse_moments
from mi_estimators.ops.plan_marginals import plan_marginals
from mi_estimators.ops.sinkhorn_batch import BatchPlans, sinkhorn_batch
from mi_estimators.ops.sinkhorn_iteration import sinkhorn_iteration
from mi_estimators.ops.sinkhorn_knopp import sinkhorn_knopp

_extension.load()  # after the schemas that it implements

__all__ = [
    "BatchPlans",
    "fused_info_nce",
    "pair_relu",
    "pairwise_lse",
    "pairwise_lse_moments",
    "plan_marginals",
    "relu_dot",
    "sinkhorn_batch",
    "sinkhorn_iteration",
    "sinkhorn_knopp",
]
