"""DINO with centering, without, and with the entropy in its place: which of them gives every image the same output.

    python -m benchmarks.studies.collapse --minutes 30
    python -m benchmarks.studies.collapse --data fashion-mnist --data-dir DIR --minutes 30

After Caron et al. (2021), fig. 7, and Rodriguez-Galvez et al. (2023), fig. 2. Networks as in those papers, in the
small: an encoder with batch norm, as residual networks have it, and a head without. The teacher's momentum starts at
0.9, on Fashion-MNIST at 0.5: its memory is then 10 or 2 of some hundred steps, where the papers' 0.996 is 250 of
100,000. All else is the trainer's default.
Every cell (line, seed) is one training and one file under runs/collapse; once all cells of an image set are there the
command writes benchmarks/results/collapse-DATA.json and a plot beside it.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.files import write_json
from benchmarks.provenance import provenance
from benchmarks.studies import cells
from benchmarks.studies.cells import Cell
from mi_estimators.ssl.encoders import Encoder

LINES: dict[str, dict[str, Any]] = {
    "native": {},
    "native, no centering": {"centering": "none"},
    "er": {"objective": "er"},
    "native, no centering, norm in the head": {"centering": "none", "head_norm": "batch"},
}
MOMENTUM = {"digits": 0.9, "fashion-mnist": 0.5}
"""Of the teacher at the first step, by image set."""
EVALUATED = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
"""After which parts of the training, beside before the first step."""
KEPT = ("entropy", "entropy_floor", "infonce", "rankme", "knn")
COLLAPSED = 0.1
"""Nats above the floor below which the entropy counts as fallen to it, as in the trainer's warning."""
TOLD_APART = 0.1
"""Nats of the held-out InfoNCE from which on the predictions count as telling images apart."""


class NormedMLP(Encoder):
    """The MLP encoder with batch norm after its hidden layers."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.dim = 100
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), 300, bias=False), nn.BatchNorm1d(300), nn.ReLU(),
            nn.Linear(300, 300, bias=False), nn.BatchNorm1d(300), nn.ReLU(),
            nn.Linear(300, self.dim),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def settings_of(data: str, data_dir: str | None, line: str, seed: int, steps: int) -> Any:
    """The trainer's settings of a line."""
    from mi_estimators.ssl import TrainConfig

    options = {"head_norm": "none", "momentum": MOMENTUM[data], **LINES[line]}
    return TrainConfig(
        "dino", out="unused", data=data, data_dir=data_dir, encoder="benchmarks.studies.collapse:NormedMLP",
        steps=steps, seed=seed, accelerator="cpu", options=options,
    ).resolved()  # fmt: skip


@torch.no_grad()
def prediction(trainer: Any) -> dict[str, float]:
    """Of the teacher's prediction for test images: its entropy, and its divergence from the student's; in nats."""
    method = trainer.method
    method.eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student, teacher = method.embed(trainer.view.held_out(trainer.data.test.pixels(slice(1024))))
    method.train()
    log_p, log_q = F.log_softmax(teacher.double(), dim=1), F.log_softmax(student.double(), dim=1)
    p = log_p.exp()
    return {
        "target_entropy": float(-(p * log_p).sum(dim=1).mean()),
        "divergence": float((p * (log_p - log_q)).sum(dim=1).mean()),
    }


def compute(data_dir: str | None, data: str, line: str, seed: int, steps: int) -> Cell:
    """One training. ``data_dir`` is no setting of a cell: where the files are changes nothing."""
    from mi_estimators.image_sets import load
    from mi_estimators.ssl.heldout import evaluate
    from mi_estimators.ssl.probe import probe_method
    from mi_estimators.ssl.trainer import Trainer

    start = time.perf_counter()
    config = settings_of(data, data_dir, line, seed, steps)
    trainer = Trainer(config, load(data, data_dir))

    def row(step: int) -> dict[str, float]:
        found = evaluate(
            trainer.method, trainer.data.train, trainer.data.test, trainer.view, trainer.candidates, config.seed
        )
        return {"step": step, **{name: found[name] for name in KEPT}, **prediction(trainer)}

    probe = {"before": probe_method(trainer.method, trainer.data, trainer.view)}
    history = [row(0)]
    evaluated = {max(1, round(part * steps)) for part in EVALUATED}
    for number in range(steps):
        trainer.step(number)
        if number + 1 in evaluated:
            history.append(row(number + 1))
    probe["after"] = probe_method(trainer.method, trainer.data, trainer.view)
    return {"probe": probe, "history": history, "seconds": time.perf_counter() - start}


def wanted(data: str, seeds: int, steps: int) -> dict[str, dict[str, Any]]:
    """The settings of all cells by name, the seeds outermost."""
    return {
        f"{data}-{line.replace(', ', '-').replace(' ', '-')}-{steps}-s{seed}": {
            "data": data, "line": line, "seed": seed, "steps": steps
        }
        for seed in range(seeds)
        for line in LINES
    }  # fmt: skip


def summary(found: Sequence[Cell]) -> dict[str, Any]:
    """By line: the ends of its trainings, mean over the seeds; and whether what was to be shown was, with each seed."""
    rows = []
    for line in cells.unique(found, "line"):
        of_line = [cell for cell in found if cell["settings"]["line"] == line]
        last = [cell["history"][-1] for cell in of_line]
        above = [end["entropy"] - end["entropy_floor"] for end in last]
        rows.append(
            {
                "line": line,
                "seeds": len(of_line),
                "collapsed": sum(not value >= COLLAPSED for value in above),
                "told_apart": sum(end["infonce"] >= TOLD_APART for end in last),
                **{name: statistics.fmean(end[name] for end in last) for name in last[0] if name != "step"},
                "knn_before": statistics.fmean(cell["history"][0]["knn"] for cell in of_line),
                "probe": {
                    name: statistics.fmean(cell["probe"][name] for cell in of_line) for name in ("before", "after")
                },
            }
        )
    of = {row["line"]: row for row in rows}
    without = of["native, no centering"]
    met = {"without centering every seed collapses": without["collapsed"] == without["seeds"]}
    for line, text in (("native", "with centering"), ("er", "with the entropy and no centering")):
        met[f"{text} none does"] = of[line]["collapsed"] == 0
        met[f"{text} every seed tells images apart"] = of[line]["told_apart"] == of[line]["seeds"]
    return {"rows": rows, "met": met}


def plot(found: Sequence[Cell], path: Path) -> None:
    """Entropies over training: of the mean prediction, and of the prediction for an image; a line a seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = {"entropy": "entropy of the mean prediction", "target_entropy": "entropy of the teacher's prediction",
             "divergence": "KL of teacher and student"}  # fmt: skip
    figure, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 3.2), layout="constrained")
    for place, line in enumerate(cells.unique(found, "line")):
        of_line = [cell["history"] for cell in found if cell["settings"]["line"] == line]
        for axis, name in zip(axes, names, strict=True):
            for number, history in enumerate(of_line):
                label = None if number else line
                axis.plot(
                    [row["step"] for row in history], [row[name] for row in history], color=f"C{place}",
                    linewidth=1.2, alpha=0.8, label=label,
                )  # fmt: skip
    for axis, text in zip(axes, names.values(), strict=True):
        axis.set(title=text, xlabel="step", ylabel="nats")
        axis.title.set_size(9)
        axis.grid(True, linewidth=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(LINES), fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.collapse", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", choices=tuple(MOMENTUM), default="digits", help="image set")
    parser.add_argument("--data-dir", help="folder of the official files, where the set needs one")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each line")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of a run")
    cells.add_arguments(parser, "collapse", None)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    settings = wanted(arguments.data, arguments.seeds, arguments.steps)
    found = cells.run(arguments.folder, settings, functools.partial(compute, arguments.data_dir), arguments.minutes)
    if len(found) < len(settings):
        return 0
    result = summary(found)
    document = {
        "study": "collapse",
        **provenance(arguments.threads, ("scikit-learn", "kornia", "lightning-fabric", "numpy")),
        "plan": {"data": arguments.data, "steps": arguments.steps},
        **result,
        "cells": found,
    }
    out = arguments.out or cells.ROOT / "benchmarks" / "results" / f"collapse-{arguments.data}.json"
    write_json(out, document)
    plot(found, out.with_suffix(".png"))
    print(f"{result['met']}\nresults: {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
