"""Loads the compiled library where there is one, and reports what was built.

The operators of :mod:`mi_estimators.ops` are defined in Python with a torch reference; the compiled library only adds
faster kernels for the CPU and, where torch has CUDA, for NVIDIA GPUs. Nothing here is needed for a right answer.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.machinery
import os
import re
import warnings
from pathlib import Path

import torch

_PACKAGE = Path(__file__).parent
_CUDA_LIBRARY = _PACKAGE / "_cuda.so"
DISABLE_VARIABLE = "MI_ESTIMATORS_DISABLE_EXTENSION"

_build_info: dict[str, object] = {}
_cpu_kernels = False
_cuda_kernels = False
_reason = ""


def _warn(text: str) -> None:
    warnings.warn(f"mi_estimators: {text}; the torch reference is used instead", RuntimeWarning, stacklevel=3)


def _library() -> Path | None:
    """The file that importing the compiled module would load."""
    files = (_PACKAGE / f"_C{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((file for file in files if file.exists()), None)


def _changed_operators(library: Path) -> list[str]:
    """Operators that have other arguments here than those a library was built for.

    Read from the file, as loading it would register its kernels. A library that does not say is taken for a good one.
    """
    stamp = re.search(rb"mi_estimators schemas: ([^\0]+)", library.read_bytes())
    changed = []
    for text in stamp[1].decode().split("; ") if stamp else ():
        schema = torch._C.parse_schema(f"mi_estimators::{text}")
        name = schema.name.removeprefix("mi_estimators::")
        operator = getattr(torch.ops.mi_estimators, name, None)
        if operator is None or operator.default._schema != schema:
            changed.append(name)
    return changed


def _rebuild(changed: list[str]) -> str:
    return (
        f"was built for other arguments of {', '.join(changed)}: build it again (pip install --no-build-isolation -e .)"
    )


def load() -> None:
    """Load the compiled kernels, once, after the operators are defined; a library that does not load warns once."""
    global _cpu_kernels, _reason, _build_info
    if _cpu_kernels or _reason:
        return
    if os.environ.get(DISABLE_VARIABLE, "0") not in ("", "0"):
        _reason = f"switched off by {DISABLE_VARIABLE}"
        return
    library = _library()
    if library is None:
        _reason = "not built (no C++ compiler was found at installation)"
        return
    if changed := _changed_operators(library):
        _reason = f"the compiled library {_rebuild(changed)}"
        _warn(_reason)
        return
    try:
        _build_info = dict(importlib.import_module("mi_estimators._C").build_info())
    except Exception as error:  # any failure of a foreign binary ends in the reference path, never in a crash
        _reason = f"the compiled library does not load with torch {torch.__version__}: {error}"
        _warn(_reason)
        return
    _cpu_kernels = True
    if torch.version.cuda is not None and _CUDA_LIBRARY.exists():
        _load_cuda()


def _load_cuda() -> None:
    global _cuda_kernels
    archs = str(_build_info.get("cuda_archs", ""))
    gpus = _gpu_capabilities()
    if gpus and not any(_has_code_for(gpu, archs) for gpu in gpus):
        names = ", ".join(f"sm_{gpu}" for gpu in gpus)
        _warn(f"the CUDA library was built for {archs}, not for this machine's {names}")
        return
    if changed := _changed_operators(_CUDA_LIBRARY):
        _warn(f"the CUDA library {_rebuild(changed)}")
        return
    try:
        torch.ops.load_library(str(_CUDA_LIBRARY))
    except Exception as error:
        _warn(f"the CUDA library does not load with torch {torch.__version__} (CUDA {torch.version.cuda}): {error}")
        return
    _cuda_kernels = True


def _has_code_for(gpu: int, archs: str) -> bool:
    """Whether a library of these architectures ("80,90,120+PTX") runs on a GPU of compute capability ``gpu`` (90).

    Machine code serves its own major version from its minor version up, PTX everything newer, and code for an
    architecture like 90a that one alone.
    """
    for arch in filter(None, archs.split(",")):
        match = re.fullmatch(r"(\d+)([af]?)(\+PTX)?", arch)
        if match is None:
            return True  # not a name this code knows: let CUDA say
        number, exact = int(match[1]), match[2] == "a"
        if number == gpu or (not exact and number < gpu and (number // 10 == gpu // 10 or match[3])):
            return True
    return not archs


def _gpu_capabilities() -> list[int]:
    """Compute capabilities of the machine's GPUs (90 for 9.0) as the driver's NVML tells them; empty if it cannot.

    Asking CUDA itself would start it here, at import, and a process that has started CUDA cannot fork workers that use
    it.
    """
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() != 0:
            return []
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        found = []
        for index in range(count.value):
            handle, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
            if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
                continue
            if nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)) == 0:
                found.append(10 * major.value + minor.value)
        nvml.nvmlShutdown()
        return found
    except (OSError, AttributeError):
        return []


def info() -> dict[str, object]:
    """What is active: versions, kernels, compilers, SIMD levels, CUDA architectures.

    Returns:
        A JSON-able dictionary. ``cpu_kernels`` and ``cuda_kernels`` say whether the compiled kernels are in use;
        ``reason`` says why not.
    """
    from mi_estimators._version import __version__

    return {
        "mi_estimators": __version__,
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cpu_kernels": _cpu_kernels,
        "cuda_library": _CUDA_LIBRARY.exists(),
        "cuda_kernels": _cuda_kernels,
        "reason": _reason,
        **_build_info,
    }
