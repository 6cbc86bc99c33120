"""Information-theoretic estimators for PyTorch: mutual information, entropy, and the losses built on them.

Everything is in nats unless a function says otherwise. See :mod:`mi_estimators.losses` for drop-in training losses,
:mod:`mi_estimators.bounds` for bounds as functions of critic scores, :mod:`mi_estimators.synthetic` for tasks whose
mutual information is known, :mod:`mi_estimators.ssl` for reference trainers (extra ``[train]``).
"""

from __future__ import annotations

import importlib
from types import ModuleType

from mi_estimators import bounds, critics, densities, entropy, estimators, losses, ot, synthetic, variational
from mi_estimators._checks import value_checks
from mi_estimators._version import __version__
from mi_estimators.contrastive import info_nce, nt_xent, sup_con
from mi_estimators.entropy import kde_entropy, kde_log_density, select_bandwidth
from mi_estimators.er import ERBound, er_bound
from mi_estimators.estimators import estimate_mi
from mi_estimators.ops import BatchPlans, pairwise_lse, sinkhorn_batch, sinkhorn_knopp
from mi_estimators.ot import sinkhorn, sinkhorn_divergence

_LAZY = ("ssl",)  # needs the extra [train]: imported at first use


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BatchPlans",
    "ERBound",
    "__version__",
    "bounds",
    "critics",
    "densities",
    "entropy",
    "er_bound",
    "estimate_mi",
    "estimators",
    "info_nce",
    "kde_entropy",
    "kde_log_density",
    "losses",
    "nt_xent",
    "ot",
    "pairwise_lse",
    "select_bandwidth",
    "sinkhorn",
    "sinkhorn_batch",
    "sinkhorn_divergence",
    "sinkhorn_knopp",
    "sup_con",
    "synthetic",
    "value_checks",
    "variational",
]
