"""Bounds and estimators against tasks whose mutual information is known."""

from mi_estimators.tightness.config import PRESETS, TightnessConfig
from mi_estimators.tightness.staircase import run, save, smooth, summary, table
from mi_estimators.tightness.staircase_plot import plot

__all__ = ["PRESETS", "TightnessConfig", "plot", "run", "save", "smooth", "summary", "table"]
