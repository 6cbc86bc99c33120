"""Information-theoretic estimators for PyTorch: mutual information, entropy, and the losses built on them.

Everything is in nats unless a function says otherwise. See :mod:`mi_estimators.losses` for drop-in training losses,
:mod:`mi_estimators.bounds` for bounds as functions of critic scores, :mod:`mi_estimators.synthetic` for tasks whose
mutual information is known, :mod:`mi_estimators.ssl` for reference trainers (extra ``[train]``).
"""

from __future__ import annotations

import importlib
from types import ModuleType

from mi_estimators._version import __version__

_LAZY = ("ssl",)  # needs the extra [train]: imported at first use


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["__version__"]
