"""Grids of independent cells: a file each, in a folder that knows its settings, resumable after any kill."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from mi_estimators._files import read_json, write_json
from mi_estimators._parallel import check_jobs, results_of
from mi_estimators._version import __version__

_SETTINGS = "settings.json"


class Named(Protocol):
    """A cell: a frozen dataclass whose name can be that of a file."""

    @property
    def name(self) -> str: ...


Cell = TypeVar("Cell", bound=Named)
Result = dict[str, Any]


def run_cells(
    cells: Sequence[Cell],
    function: Callable[[Cell], Result],
    out: Path,
    *,
    of_a_cell: Mapping[str, Any],
    grid: Mapping[str, Any],
    jobs: int = 1,
    backend: str = "loky",
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Run every cell that the folder does not hold yet, and return the results of all, in the order of the cells.

    A cell is written as soon as it is done, by this process alone, whole or not at all. So a run that was killed goes
    on where it stopped, and a larger grid runs only what is new.

    Args:
        cells: the grid.
        function: computes a cell; its result, ready for JSON, holds the cell's fields.
        out: the folder; created if missing.
        of_a_cell: what every cell's result depends on beside the cell; a folder made with other values is refused.
        grid: what else is worth keeping of the settings.
        jobs: cells at the same time; -1 for as many as there are cores.
        backend: where they run: see :func:`mi_estimators._parallel.results_of`.
        progress: called with the number of cells done and the total.

    Raises:
        ValueError: the folder holds cells made with other settings, or other files; nothing there is changed.
        NotADirectoryError: ``out`` is a file.
        ImportError: the backend's package is missing.
    """
    check_jobs(jobs, backend)
    folder = _claim(out, dict(of_a_cell), dict(grid))
    done = {cell: found for cell in cells if (found := _stored(folder, cell)) is not None}
    if progress is not None:
        progress(len(done), len(cells))
    missing = [cell for cell in cells if cell not in done]
    for cell, result in results_of(partial(_with_cell, function), missing, jobs=jobs, backend=backend):
        write_json(folder / f"{cell.name}.json", result)
        done[cell] = result
        if progress is not None:
            progress(len(done), len(cells))
    return [done[cell] for cell in cells]


def environment() -> dict[str, str | int]:
    """What the numbers belong to."""
    return {
        "mi_estimators": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _with_cell(function: Callable[[Cell], Result], cell: Cell) -> tuple[Cell, Result]:
    return cell, function(cell)


def _claim(out: Path, of_a_cell: dict[str, Any], grid: dict[str, Any]) -> Path:
    """The folder of the cells, if it is free or made with the same settings."""
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"out: {out} is not a folder")
    path = out / _SETTINGS
    if path.exists():
        there = read_json(path).get("of_a_cell")
        if not isinstance(there, dict) or there != of_a_cell:
            changed = [
                f"{key}: {there.get(key)} there, {value} here"
                for key, value in of_a_cell.items()
                if isinstance(there, dict) and there.get(key) != value
            ]
            raise ValueError(
                f"out: {out} holds results made with other settings ({'; '.join(changed) or 'of another version'}); "
                "choose another folder, or the settings of that one"
            )
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"out: {out} holds other files and no results of this command; choose another folder")
    folder = out / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in grid.items()}
    write_json(path, {"of_a_cell": of_a_cell, "grid": plain, "environment": environment()}, indent=1)
    return folder


def _stored(folder: Path, cell: Named) -> Result | None:
    """The result of a cell from its file."""
    path = folder / f"{cell.name}.json"
    if not path.exists():
        return None
    result = read_json(path)
    fields = asdict(cell)  # type: ignore[call-overload]
    if {key: result.get(key) for key in fields} != fields:
        raise ValueError(f"out: {path} is the result of another cell")
    return dict(result)
