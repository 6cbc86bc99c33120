"""Cells of a study: one file each, so that a run may stop after its minutes and another goes on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.files import write_json

Cell = dict[str, Any]


def read(path: Path) -> Cell | None:
    """A finished cell; None where there is none, or one that another version of the study wrote."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None


def run(
    folder: Path, wanted: Mapping[str, Mapping[str, Any]], compute: Callable[..., Cell], minutes: float | None = None
) -> list[Cell]:
    """The cells of ``wanted`` (name to settings), those that are not in ``folder`` yet computed in order.

    A cell that fails, or is half done when the process ends, leaves no file. After ``minutes`` no cell is begun.
    """
    start, cells, left = time.monotonic(), [], 0
    for name, settings in wanted.items():
        path = folder / f"{name}.json"
        cell = read(path)
        if cell is None or cell["settings"] != dict(settings):
            if minutes is not None and time.monotonic() - start > 60 * minutes:
                left += 1
                continue
            begun = time.monotonic()
            cell = {"settings": dict(settings), **compute(**settings)}
            write_json(path, cell)
            print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        cells.append(cell)
    if left:
        print(f"{left} of {len(wanted)} cells left: run the same command again", file=sys.stderr)
    return cells


def unique(cells: Sequence[Cell], key: str) -> list[Any]:
    """The values of a setting, in the order of the cells."""
    return list(dict.fromkeys(cell["settings"][key] for cell in cells))
