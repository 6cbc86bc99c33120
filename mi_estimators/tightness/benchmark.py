"""The benchmark: every cell of the grid, a file each, on one machine or a cluster, resumable."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mi_estimators._files import read_json, write_json
from mi_estimators._parallel import check_jobs, results_of
from mi_estimators._version import __version__
from mi_estimators.tightness.cells import Cell, cells, run_cell
from mi_estimators.tightness.profiles import BenchmarkConfig

_SETTINGS = "settings.json"


def run_benchmark(
    config: BenchmarkConfig,
    out: str | Path,
    *,
    jobs: int = 1,
    backend: str = "loky",
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Run every cell that the folder does not hold yet, and return all.

    A cell is written as soon as it is done, by this process alone, whole or not at all. So a run that was killed goes
    on where it stopped, and a larger grid (more seeds, estimators, tasks) runs only what is new. Every cell runs on one
    thread; its value depends neither on the number of jobs nor on where it ran.

    Args:
        config: the settings.
        out: folder of the results; created if missing.
        jobs: cells at the same time; -1 for as many as there are cores.
        backend: where they run: ``"loky"`` in processes of this machine; ``"dask"`` and ``"ray"`` take the cluster
            that their package is connected to (Dask's configuration or ``DASK_SCHEDULER_ADDRESS``, and
            ``RAY_ADDRESS``, may name one), with all its workers, or start ``jobs`` workers here.
        progress: called with the number of cells done and the total.

    Returns:
        What :func:`~mi_estimators.tightness.cells.run_cell` returned, in the order of the grid.

    Raises:
        ValueError: the folder holds cells made with other settings, or other files; nothing there is changed.
        NotADirectoryError: ``out`` is a file.
        ImportError: the backend's package is missing.
    """
    check_jobs(jobs, backend)
    folder = _claim(Path(out), config)
    grid = cells(config)
    done = {cell: found for cell in grid if (found := _stored(folder, cell)) is not None}
    if progress is not None:
        progress(len(done), len(grid))
    missing = [cell for cell in grid if cell not in done]
    run = partial(_run_named, settings=config.of_a_cell, data_dir=config.data_dir)
    for cell, result in results_of(run, missing, jobs=jobs, backend=backend):
        write_json(folder / f"{cell.name}.json", result)
        done[cell] = result
        if progress is not None:
            progress(len(done), len(grid))
    return [done[cell] for cell in grid]


def _claim(out: Path, config: BenchmarkConfig) -> Path:
    """The folder of the cells, if it is free or made with the same settings."""
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"out: {out} is not a folder")
    path = out / _SETTINGS
    if path.exists():
        stored = read_json(path)
        there, here = stored.get("of_a_cell"), config.of_a_cell
        if not isinstance(there, dict) or there != here:
            changed = [
                f"{key}: {there.get(key)} there, {value} here"
                for key, value in here.items()
                if isinstance(there, dict) and there.get(key) != value
            ]
            raise ValueError(
                f"out: {out} holds results made with other settings ({'; '.join(changed) or 'of another version'}); "
                "choose another folder, or the settings of that one"
            )
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"out: {out} holds other files and no results of the benchmark; choose another folder")
    folder = out / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    grid = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    write_json(path, {"of_a_cell": config.of_a_cell, "grid": grid, "environment": environment()}, indent=1)
    return folder


def environment() -> dict[str, str | int]:
    """What the numbers belong to."""
    return {
        "mi_estimators": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _stored(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The result of a cell from its file."""
    path = folder / f"{cell.name}.json"
    if not path.exists():
        return None
    result = read_json(path)
    if {key: result.get(key) for key in asdict(cell)} != asdict(cell):
        raise ValueError(f"out: {path} is the result of another cell")
    return dict(result)


def _run_named(cell: Cell, settings: dict[str, Any], data_dir: str | None) -> tuple[Cell, dict[str, Any]]:
    return cell, run_cell(cell, settings, data_dir)
