"""Contrastive losses without the matrix of similarities: InfoNCE, NT-Xent and the supervised contrastive loss."""

from __future__ import annotations

from mi_estimators.contrastive.checks import REDUCTIONS, check_settings, check_temperature, check_views
from mi_estimators.contrastive.pairs import info_nce, nt_xent
from mi_estimators.contrastive.supervised import sup_con

__all__ = ["REDUCTIONS", "check_settings", "check_temperature", "check_views", "info_nce", "nt_xent", "sup_con"]
