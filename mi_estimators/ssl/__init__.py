"""Reference trainers for multi-view self-supervised learning (extra ``[train]``).

A method (:data:`METHODS`) is one flat file that turns a pair of views into a loss. One loop (:func:`train`) owns the
rest: data, augmentation, checkpoints, resume, held-out bounds, linear probes and logs::

    from mi_estimators.ssl import TrainConfig, train
    results = train(TrainConfig(method="mi-max", out="runs/halves", options={"bound": "nwj"}))
    results["probe"]    # {"pixels": ..., "before": ..., "after": ...}
"""

from __future__ import annotations

from mi_estimators.image_sets import DATASETS
from mi_estimators.ssl.config import TrainConfig
from mi_estimators.ssl.loop import resume, train
from mi_estimators.ssl.method import Method, Preset, Setting
from mi_estimators.ssl.methods import METHODS
from mi_estimators.ssl.stopping import Interrupted
from mi_estimators.ssl.sweep import SweepConfig, run_sweep

__all__ = [
    "DATASETS",
    "METHODS",
    "Interrupted",
    "Method",
    "Preset",
    "Setting",
    "SweepConfig",
    "TrainConfig",
    "resume",
    "run_sweep",
    "train",
]
