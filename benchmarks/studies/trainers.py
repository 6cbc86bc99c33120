"""Every method of the trainers on the digits, native and ER: what its representation gains over pixels and no training.

    python -m benchmarks.studies.trainers --minutes 30
    python -m benchmarks.studies.trainers --only byol dino --seeds 1

Every cell (method, objective, seed) is one run of ``mi-estimators train`` with the method's own defaults and one file
under runs/trainers; the command goes on where it was, also beside another of its kind on other methods, and once all
cells are there writes benchmarks/results/trainers-digits.json and a plot beside it. One more line shows what DINO does
without what keeps it from collapsing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.files import write_json
from benchmarks.provenance import provenance
from benchmarks.studies import cells, tables
from benchmarks.studies.cells import Cell
from mi_estimators.console import markdown_table

TERMS = ("test_loss", "entropy", "reconstruction", "er_bound", "infonce", "cap")
UNCENTRED = "dino-uncentred"


def variants() -> dict[str, tuple[str, dict[str, Any]]]:
    """Line of the table -> method and options."""
    from mi_estimators.ssl import METHODS

    lines: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in METHODS:
        for objective in ("native", "er") if name != "mi-max" else ("native",):
            lines[f"{name}-{objective}"] = (name, {"objective": objective} if name != "mi-max" else {})
    return {**lines, UNCENTRED: ("dino", {"objective": "native", "centering": "none"})}


def compute(line: str, seed: int, steps: int | None) -> Cell:
    """One run of the trainer."""
    from mi_estimators.ssl import TrainConfig, train

    method, options = variants()[line]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bounds at their ends, which is not what is asked here
        results = train(
            TrainConfig(
                method, out=folder, seed=seed, steps=steps, eval_every=500, checkpoint_every=10_000,
                accelerator="cpu", options=options,
            )
        )  # fmt: skip
    last = results["heldout"]
    return {
        "probe": results["probe"],
        **{name: last[name] for name in TERMS},
        "steps_done": last["step"],
        "seconds": time.perf_counter() - start,
    }


def wanted(lines: Sequence[str], seeds: int, steps: int | None) -> dict[str, dict[str, Any]]:
    """The settings of all cells by name, the seeds outermost."""
    return {
        f"{line}{'' if steps is None else f'-{steps}'}-s{seed}": {"line": line, "seed": seed, "steps": steps}
        for seed in range(seeds)
        for line in lines
    }


def summary(found: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """By line: accuracies after training, what they are above pixels and above no training, mean bounds."""
    rows = {}
    for line in cells.unique(found, "line"):
        of_line = [cell for cell in found if cell["settings"]["line"] == line]
        after = [cell["probe"]["after"] for cell in of_line]
        gain = {
            name: statistics.fmean([cell["probe"]["after"] - cell["probe"][name] for cell in of_line])
            for name in ("pixels", "before")
        }
        rows[line] = {
            "after": after,
            "mean": statistics.fmean(after),
            "spread": statistics.stdev(after) if len(after) > 1 else None,
            "gain": gain,
            "met": all(bool(value > 0) for value in gain.values()),
            "seconds": statistics.fmean([cell["seconds"] for cell in of_line]),
            **{name: statistics.fmean([cell[name] for cell in of_line]) for name in TERMS},
        }
    return rows


def plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Gain over pixels of each line, a point for each seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 0.28 * len(rows) + 1.2), layout="constrained")
    for place, (name, row) in enumerate(rows.items()):
        colour = "C1" if name.endswith("-er") else "C3" if name == UNCENTRED else "C0"
        pixels = row["mean"] - row["gain"]["pixels"]
        axis.plot([value - pixels for value in row["after"]], [place] * len(row["after"]), "o", color=colour, alpha=0.4)
        axis.plot(row["gain"]["pixels"], place, "|", color=colour, markersize=16, markeredgewidth=2)
    axis.axvline(0, color="0.3", linewidth=1)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.invert_yaxis()
    axis.set(
        xlabel="accuracy of the linear probe above that of the same view's pixels", title="Digits, default settings"
    )
    axis.grid(True, axis="x", linewidth=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.trainers", description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", help="methods to run; all by default")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each line")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run; each method's own by default")
    cells.add_arguments(parser, "trainers", "trainers-digits.json")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    every = variants()
    chosen = [line for line, (method, _) in every.items() if not arguments.only or method in arguments.only]
    if not chosen:
        parser.error(f"--only: want some of {sorted({method for method, _ in every.values()})}, got {arguments.only}")
    settings = wanted(chosen, arguments.seeds, arguments.steps)
    found = cells.run(arguments.folder, settings, compute, arguments.minutes)
    if not found:
        return 0
    rows = summary(found)
    print(markdown_table(*tables.trainers({"rows": rows, "cells": found}, "")))
    if len(found) < len(settings) or arguments.only:
        return 0
    document = {
        "study": "trainers",
        **provenance(arguments.threads, ("scikit-learn", "kornia", "lightning-fabric", "numpy")),
        "rows": rows,
        "cells": found,
    }
    write_json(arguments.out, document)
    plot(rows, arguments.out.with_suffix(".png"))
    print(f"results: {arguments.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
