"""Halves of MNIST (arXiv 1907.13625): bounds, critics and encoders, and the probe of the top half's representation.

    python -m benchmarks.studies.halves --data-dir DIR --minutes 30

Every cell is one run of ``mi-estimators train mi-max --data mnist`` and one file under runs/halves; the command goes on
where it was, and once all cells are there writes benchmarks/results/halves-mnist.json. First each bound with each
critic on the MLP encoder, as in the paper's experiment 4; then encoders at the same bound, as in its experiment 5.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.files import write_json
from benchmarks.provenance import provenance
from benchmarks.studies import cells
from benchmarks.studies.cells import Cell

CRITICS = ("bilinear", "separable", "concatenated")
TARGETS = (2.0, 4.0)
STEPS = 5000
PARTS = ("critics", "encoders")


def compute(data_dir: str, encoder: str, bound: str, critic: str, target: float, seed: int, steps: int) -> Cell:
    """One run of the trainer. ``data_dir`` is no setting of a cell: where the files are changes nothing."""
    from mi_estimators.ssl import TrainConfig, train

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bounds at their ends, which is not what is asked here
        results = train(
            TrainConfig(
                "mi-max", out=folder, data="mnist", data_dir=data_dir, encoder=encoder, seed=seed, steps=steps,
                eval_every=max(1, steps // 5), checkpoint_every=steps, accelerator="cpu",
                options={"bound": bound, "critic": critic, "target": target},
            )
        )  # fmt: skip
    last = results["heldout"]
    return {
        "probe": results["probe"],
        **{name: last[name] for name in ("infonce", bound, "cap")},
        "seconds": time.perf_counter() - start,
    }


def wanted(steps: int, parts: Sequence[str] = PARTS, seeds: int = 1) -> dict[str, dict[str, Any]]:
    """The settings of all cells by name, the seeds outermost."""
    lines: list[tuple[str, str, str, float]] = []
    if "critics" in parts:
        lines += [("mlp", bound, critic, 0.0) for bound in ("infonce", "nwj") for critic in CRITICS]
    if "encoders" in parts:
        lines += [(encoder, "infonce", "bilinear", target) for encoder in ("mlp", "convnet") for target in TARGETS]
    return {
        f"{encoder}-{bound}-{critic}-t{target:g}-{steps}-s{seed}": {
            "encoder": encoder, "bound": bound, "critic": critic, "target": target, "seed": seed, "steps": steps
        }
        for seed in range(seeds)
        for encoder, bound, critic, target in lines
    }  # fmt: skip


def summary(found: Sequence[Cell]) -> dict[str, Any]:
    """Mean accuracies and bounds by line, and whether the paper's orders hold."""
    rows: list[dict[str, Any]] = []
    for settings in {tuple(sorted((k, v) for k, v in cell["settings"].items() if k != "seed")): None for cell in found}:
        of_line = dict(settings)
        members = [cell for cell in found if all(cell["settings"][key] == value for key, value in settings)]
        after = [cell["probe"]["after"] for cell in members]
        rows.append(
            {
                **of_line, "accuracy": statistics.fmean(after), "each": after,
                "infonce": statistics.fmean([cell["infonce"] for cell in members]),
                "value": statistics.fmean([cell[str(of_line["bound"])] for cell in members]),
                "seconds": statistics.fmean([cell["seconds"] for cell in members]),
            }
        )  # fmt: skip

    def accuracy(**of: Any) -> float:
        return next(row["accuracy"] for row in rows if all(row[key] == value for key, value in of.items()))

    met: dict[str, bool] = {}
    if any(not row["target"] for row in rows):
        orders = [
            [accuracy(encoder="mlp", bound=bound, critic=critic, target=0.0) for critic in CRITICS]
            for bound in ("infonce", "nwj")
        ]
        met["bilinear at least .86"] = all(values[0] >= 0.86 for values in orders)
        met["bilinear >= separable > MLP critic"] = all(b >= s > m for b, s, m in orders)
    if any(row["target"] for row in rows):
        met["ConvNet above MLP at the same bound"] = all(
            accuracy(encoder="convnet", target=target) > accuracy(encoder="mlp", target=target) for target in TARGETS
        )
    return {
        "rows": rows,
        "pixels": statistics.fmean([cell["probe"]["pixels"] for cell in found]),
        "before": statistics.fmean([cell["probe"]["before"] for cell in found if cell["settings"]["encoder"] == "mlp"]),
        "met": met,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.halves", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-dir", required=True, help="folder of the official IDX files")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="experiments")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each line")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of a run")
    cells.add_arguments(parser, "halves", "halves-mnist.json")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    settings = wanted(arguments.steps, arguments.parts, arguments.seeds)
    found = cells.run(arguments.folder, settings, functools.partial(compute, arguments.data_dir), arguments.minutes)
    if len(found) < len(settings):
        return 0
    result = summary(found)
    for row in result["rows"]:
        target = f" held at {row['target']:g}" if row["target"] else ""
        print(
            f"{row['encoder']} {row['bound']} {row['critic']}{target}: {row['accuracy']:.4f}, {row['value']:.2f} nats"
        )
    print(f"pixels {result['pixels']:.4f}, MLP before training {result['before']:.4f}; {result['met']}")
    document = {
        "study": "halves",
        **provenance(arguments.threads, ("scikit-learn", "lightning-fabric", "numpy")),
        **result,
        "cells": found,
    }
    write_json(arguments.out, document)
    print(f"results: {arguments.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
