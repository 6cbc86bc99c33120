"""What the numbers of a run belong to: machine, versions, commit and date."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mi_estimators import _extension

ROOT = Path(__file__).resolve().parent.parent


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cpu_features() -> list[str]:
    """Features that a bar may ask for."""
    return ["amx"] if torch.cpu._is_amx_tile_supported() else []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def provenance(threads: int, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Everything beside the numbers. ``packages``: further ones whose versions matter; None for one that is missing."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if changed is None else bool(changed),
        "threads": threads,
        "machine": {
            "cpu": cpu_model(),
            "cores": cores,
            "memory_bytes": _memory_bytes(),
            "system": platform.platform(),
            "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "features": cpu_features(),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{package: _version(package) for package in packages},
        },
        "mi_estimators": _extension.info(),
    }
