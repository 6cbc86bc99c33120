"""The benchmark: every cell of the grid, on one machine or a cluster, resumable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mi_estimators._cells import run_cells
from mi_estimators.tightness.cells import cells, run_cell
from mi_estimators.tightness.profiles import BenchmarkConfig


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
    return run_cells(
        cells(config),
        partial(run_cell, settings=config.of_a_cell, data_dir=config.data_dir),
        Path(out),
        of_a_cell=config.of_a_cell,
        grid=asdict(config),
        jobs=jobs,
        backend=backend,
        progress=progress,
    )
