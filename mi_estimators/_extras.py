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
        ImportError: the module is missing, and the message gives the command that installs it; or it is there and
            cannot be imported, for want of what it needs itself or because it does not fit what is installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module + ".").startswith(error.name + "."):
            raise ImportError(
                f"{module} is not installed; this part of mi_estimators needs the extra [{extra}]: "
                f'pip install "mi-estimators[{extra}]"'
            ) from error
        raise ImportError(_broken(module, error)) from error
    except (ImportError, RuntimeError, OSError) as error:  # of compiled libraries that were built for other versions
        raise ImportError(_broken(module, error)) from error


def _broken(module: str, error: Exception) -> str:
    return f"{module} is installed but cannot be imported: {type(error).__name__}: {error}"
