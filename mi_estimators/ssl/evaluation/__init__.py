"""How well labels can be read from fixed features; :mod:`mi_estimators.ssl.evaluation.run` does so for a run."""

from __future__ import annotations

from mi_estimators.ssl.evaluation.classifiers import PROBES, k_shot, linear_probe, mlp_probe, sgd_probe
from mi_estimators.ssl.evaluation.knn import knn_accuracy

__all__ = ["PROBES", "k_shot", "knn_accuracy", "linear_probe", "mlp_probe", "sgd_probe"]
