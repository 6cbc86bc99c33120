"""Cells of a study: one file each, so that a run may stop after its minutes and another goes on."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.files import write_json
from benchmarks.provenance import ROOT

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


def add_arguments(parser: argparse.ArgumentParser, name: str, out: str | None, threads: int = 1) -> None:
    """The options of every study: threads, minutes, the folder of its cells, and its JSON among the results."""
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--minutes", type=float, help="begin no cell after that many; the next call goes on")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / name, help="where the cells are")
    default = None if out is None else ROOT / "benchmarks" / "results" / out
    parser.add_argument("--out", type=Path, default=default, help="the JSON; a plot is written beside it")


def unique(cells: Sequence[Cell], key: str) -> list[Any]:
    """The values of a setting, in the order of the cells."""
    return list(dict.fromkeys(cell["settings"][key] for cell in cells))
