"""Optional dependencies: import one, or say which extra brings it."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: dotted name, e.g. ``"matplotlib.pyplot"``.
        extra: the extra of this package that installs it, e.g. ``"plots"``.

    Raises:
        ImportError: the module is missing; the message gives the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is not installed; this part of mi_estimators needs the extra [{extra}]: "
            f'pip install "mi-estimators[{extra}]"'
        ) from error
