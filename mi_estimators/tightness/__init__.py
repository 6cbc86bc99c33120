"""Bounds and estimators against tasks whose mutual information is known.

Two instruments: a *staircase* trains bounds on Gaussians whose mutual information rises in steps (:func:`run`), and a
*benchmark* tries estimators on many tasks (:func:`run_benchmark`).
"""

from mi_estimators._cells import environment
from mi_estimators._files import write_json
from mi_estimators._parallel import BACKENDS
from mi_estimators.tightness.benchmark import run_benchmark
from mi_estimators.tightness.config import PRESETS, TightnessConfig
from mi_estimators.tightness.plots import PLOTS
from mi_estimators.tightness.profiles import PROFILES, BenchmarkConfig
from mi_estimators.tightness.report import ranking_as_rich, save_report
from mi_estimators.tightness.staircase import run, save, smooth, summary, table
from mi_estimators.tightness.staircase_plot import plot
from mi_estimators.tightness.studies import STUDIES, study_table

__all__ = [
    "BACKENDS",
    "PLOTS",
    "PRESETS",
    "PROFILES",
    "STUDIES",
    "BenchmarkConfig",
    "TightnessConfig",
    "environment",
    "plot",
    "ranking_as_rich",
    "run",
    "run_benchmark",
    "save",
    "save_report",
    "smooth",
    "study_table",
    "summary",
    "table",
    "write_json",
]
