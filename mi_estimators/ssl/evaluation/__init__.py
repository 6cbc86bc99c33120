"""How well labels can be read from fixed features."""

from __future__ import annotations

from mi_estimators.ssl.evaluation.knn import knn_accuracy

__all__ = ["knn_accuracy"]
