"""SimCLR+ER with bandwidths that choose themselves against fixed concentrations: the accuracy of a linear probe.

    python -m benchmarks.studies.er_study --data digits
    python -m benchmarks.studies.er_study --data mnist --data-dir /data --minutes 14

Every cell (image set, bandwidth, seed) is one run of ``mi-estimators train simclr --objective er`` and one file under
runs/er-study; the command goes on where it was, and once all its cells are there writes
benchmarks/results/er-<data>.json and a plot beside it. Everything but the bandwidth is the same in all cells.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.files import write_json
from benchmarks.provenance import ROOT, provenance
from benchmarks.studies import cells
from benchmarks.studies.cells import Cell

RULES = ("loo", "bgh")
KAPPAS = (1, 5, 10, 20, 50)
WITHIN = 0.01  # of the accuracy of the best fixed concentration
TERMS = ("train_entropy", "train_reconstruction", "entropy", "reconstruction", "er_bound", "infonce")


@dataclass(frozen=True)
class Plan:
    """What all cells of an image set have in common."""

    steps: int
    seeds: int
    batch_size: int = 256


PLANS = {"digits": Plan(steps=1500, seeds=5), "mnist": Plan(steps=2500, seeds=1)}


def compute(
    data_dir: str | None, data: str, bandwidth: str, seed: int, steps: int, batch_size: int, projection: int
) -> Cell:
    """One run of the trainer. ``data_dir`` is no setting of a cell: where the files are changes nothing."""
    from mi_estimators.ssl import TrainConfig, train

    options: dict[str, Any] = {"objective": "er", "projection": projection}
    options |= {"bandwidth": bandwidth} if bandwidth in RULES else {"kappa": float(bandwidth)}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bounds at their ends, which is not what is asked here
        results = train(
            TrainConfig(
                "simclr", out=folder, data=data, data_dir=data_dir, seed=seed, steps=steps, batch_size=batch_size,
                eval_every=max(1, steps // 5), checkpoint_every=steps, accelerator="cpu", options=options,
            )
        )  # fmt: skip
    last = results["heldout"]
    return {"probe": results["probe"], **{name: last[name] for name in TERMS if name in last}}


def wanted(data: str, seeds: int, steps: int, projection: int) -> dict[str, dict[str, Any]]:
    """The settings of all cells, by name; the seeds outermost, so that a run cut short has compared all bandwidths."""
    return {
        f"{data}-d{projection}-{steps}-{bandwidth}-s{seed}": {
            "data": data, "bandwidth": bandwidth, "seed": seed, "steps": steps,
            "batch_size": PLANS[data].batch_size, "projection": projection,
        }
        for seed in range(seeds)
        for bandwidth in (*RULES, *(str(kappa) for kappa in KAPPAS))
    }  # fmt: skip


def summary(found: Sequence[Cell]) -> dict[str, Any]:
    """Accuracies by bandwidth, mean over seeds; ``met``: a rule is at most WITHIN below the best fixed one."""
    accuracy: dict[str, list[float]] = {}
    for cell in found:
        accuracy.setdefault(cell["settings"]["bandwidth"], []).append(cell["probe"]["after"])
    means = {name: statistics.fmean(values) for name, values in accuracy.items()}
    fixed = [name for name in means if name not in RULES]
    best = max(fixed, key=lambda name: means[name], default=None)
    rules = [] if best is None else [name for name in RULES if name in means]
    return {
        "accuracy": accuracy,
        "mean": means,
        "baselines": {
            name: statistics.fmean([cell["probe"][name] for cell in found]) for name in ("pixels", "before")
        },
        "best_fixed": best,
        "difference": {name: means[name] - means[best] for name in rules},
        "met": {name: bool(means[name] >= means[best] - WITHIN) for name in rules},
    }  # fmt: skip


def plot(result: dict[str, Any], path: Path, title: str) -> None:
    """Accuracy against the fixed concentration, with the rule's accuracy as a line across."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    names = sorted((name for name in result["mean"] if name not in RULES), key=float)
    kappas = [float(name) for name in names]
    for name, kappa in zip(names, kappas, strict=True):
        values = result["accuracy"][name]
        axis.plot([kappa] * len(values), values, "o", color="C0", alpha=0.4, markersize=4)
    axis.plot(kappas, [result["mean"][name] for name in names], "C0o-", label="fixed concentration")
    for name, color in zip(RULES, ("C3", "C2"), strict=True):
        if name in result["mean"]:
            values = result["accuracy"][name]
            axis.axhline(result["mean"][name], color=color, label=f'bandwidth="{name}"')
            axis.axhspan(min(values), max(values), color=color, alpha=0.15)
    for name, style in (("pixels", "--"), ("before", ":")):
        text = {"pixels": "raw pixels", "before": "before training"}[name]
        axis.axhline(result["baselines"][name], color="0.4", linestyle=style, linewidth=1, label=text)
    axis.set(xscale="log", xlabel="κ", ylabel="accuracy of the linear probe", title=title)
    axis.set_xticks(kappas, names)
    axis.minorticks_off()
    axis.grid(True, linewidth=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.er_study", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", choices=PLANS, default="digits", help="image set")
    parser.add_argument("--data-dir", help="folder of the official IDX files, where the set needs one")
    parser.add_argument("--seeds", type=int, help="runs a bandwidth")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run")
    parser.add_argument("--projection", type=int, default=8, help="dimension of the sphere's ambient space")
    cells.add_arguments(parser, "er-study", None, torch.get_num_threads())
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    plan = PLANS[arguments.data]
    settings = wanted(
        arguments.data, arguments.seeds or plan.seeds, arguments.steps or plan.steps, arguments.projection
    )
    compute_here = functools.partial(compute, arguments.data_dir)
    found = cells.run(arguments.folder, settings, compute_here, arguments.minutes)
    if not found:
        return 0
    result = summary(found)
    print(f"{len(found)} of {len(settings)} runs on {arguments.data}, projection {arguments.projection}")
    for name, mean in result["mean"].items():
        print(f"  {name:>5}: {mean:.4f}  ({', '.join(f'{value:.4f}' for value in result['accuracy'][name])})")
    print(f"  pixels {result['baselines']['pixels']:.4f}, before training {result['baselines']['before']:.4f}; "
          f"less the best fixed: {result['difference']}, met: {result['met']}")  # fmt: skip
    if len(found) < len(settings):
        return 0
    name = f"er-{arguments.data}-d{arguments.projection}.json"
    out = arguments.out or ROOT / "benchmarks" / "results" / name
    document = {
        "study": "er",
        **provenance(arguments.threads, ("scikit-learn", "kornia", "numpy")),
        "within": WITHIN,
        "plan": next(iter(settings.values())),
        **result,
        "cells": found,
    }
    write_json(out, document)
    title = f"SimCLR+ER on {arguments.data}, sphere in {arguments.projection} dimensions"
    plot(result, out.with_suffix(".png"), title)
    print(f"results: {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
