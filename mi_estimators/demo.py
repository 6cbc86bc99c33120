"""The demonstration behind ``mi-estimators demo`` and ``make demo``: bounds against known information, then trainers.

Everything runs on the CPU in a few minutes, on data that come with scikit-learn or are drawn.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mi_estimators import tightness
from mi_estimators._extras import require
from mi_estimators._files import replacing, write_json
from mi_estimators._parallel import single_threaded
from mi_estimators.console import print_table, progress_bar
from mi_estimators.ssl import TrainConfig, train

RUNS: dict[str, dict[str, Any]] = {
    "simclr": {"method": "simclr"},
    "simclr-er": {"method": "simclr", "options": {"objective": "er"}},
    "mi-max": {"method": "mi-max"},
}
"""The three trainings, by the name of their folder."""

_TITLES = {"simclr": "SimCLR (NT-Xent)", "simclr-er": "SimCLR (ER)", "mi-max": "MI maximisation (halves)"}


def demo(
    out: Path, *, seed: int = 0, changes: Mapping[str, Any] | None = None, steps_per_level: int = 300
) -> dict[str, Any]:
    """Run the tightness staircase and the three trainers on the digits; print tables, write plots and JSON.

    Writes ``tightness/`` (results and staircase), a folder for each training, ``training.png``, ``probes.png`` and
    ``results.json`` into ``out``; those of an earlier demo are replaced.

    Args:
        out: the folder.
        seed: seed of everything random.
        changes: settings of :class:`~mi_estimators.ssl.TrainConfig` that replace the presets, for a shorter demo.
        steps_per_level: steps at each level of the staircase.

    Returns:
        What ``results.json`` holds: ``tightness`` (a row per bound and level), ``training`` (by run: ``probe``
        accuracies and the last row of ``heldout`` bounds, in nats) and ``seconds``.

    Raises:
        ImportError: an extra is missing: ``[train]`` or ``[plots]``.
        NotADirectoryError: ``out`` is a file.
    """
    require("matplotlib.figure", "plots")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"out: {out} is not a folder")
    start = time.perf_counter()
    # Gone first, so that a demo that is stopped leaves no result of another.
    for name in ("results.json", "training.png", "probes.png"):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "tightness", ignore_errors=True)

    staircase = _staircase(out / "tightness", seed, steps_per_level)
    results = {}
    with single_threaded():  # networks this small gain nothing from a second, and lose much where cores are shared
        for name, settings in RUNS.items():
            merged = {"eval_every": 100, **settings, **(changes or {})}
            config = TrainConfig(out=str(out / name), seed=seed, accelerator="cpu", **merged)
            with progress_bar(name) as report:
                results[name] = train(config, overwrite=True, progress=report)
    print_table(_table(staircase, results))

    _save(_training_figure(results), out / "training.png")
    _save(_probe_figure(results), out / "probes.png")
    summary = {
        "tightness": staircase["levels"],
        "training": {name: {key: result[key] for key in ("probe", "heldout")} for name, result in results.items()},
        "seconds": time.perf_counter() - start,
    }
    write_json(out / "results.json", summary, indent=2)
    plots = (out / "tightness" / "staircase.png", out / "training.png", out / "probes.png")
    print(*plots, out / "results.json", sep="\n")
    return summary


def _staircase(folder: Path, seed: int, steps: int) -> dict[str, Any]:
    config = tightness.TightnessConfig.preset("short", seed=seed, steps_per_level=steps)
    with progress_bar("tightness") as report:
        result = tightness.run(config, progress=report)
    tightness.save(result, folder)
    return result


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=150)


def _table(staircase: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> Any:
    """Bounds against the true information, then what the trainings reached; at most 80 columns wide.

    Of each bound the mean over the last quarter of each level; of each training the probe's test accuracy and the
    held-out bounds.
    """
    levels = staircase["config"]["levels"]
    table = require("rich.table", "train").Table(
        title="Bounds on Gaussians of information I, and trainings on the digits (nats)",
        title_justify="left",
        show_header=False,
    )
    columns = max(len(levels) + 2, 7)
    for column in range(columns):
        table.add_column(justify="right" if column else "left")
    table.add_row(
        "bound", *(f"I = {level:g}" for level in levels), *[""] * (columns - len(levels) - 2), "cap", style="bold"
    )
    for name in staircase["config"]["bounds"]:
        rows = [row for row in staircase["levels"] if row["bound"] == name]
        means = ["overflow" if row["mean"] is None else f"{row['mean']:.2f}" for row in rows]
        cap = "none" if rows[0]["cap"] is None else f"{rows[0]['cap']:.2f}"
        table.add_row(name, *means, *[""] * (columns - len(means) - 2), cap)
    table.add_section()
    heads = ("probe accuracy:", "pixels", "before", "after", "ER", "InfoNCE")
    table.add_row(*heads, *[""] * (columns - len(heads) - 1), "log K", style="bold")
    for name, result in results.items():
        probe, row = result["probe"], result["heldout"]
        accuracies = [f"{probe[key]:.3f}" for key in ("pixels", "before", "after")]
        bounds = [f"{row[key]:.2f}" for key in ("er_bound", "infonce")]
        table.add_row(name, *accuracies, *bounds, *[""] * (columns - 7), f"{row['cap']:.2f}")
    return table


def _training_figure(results: Mapping[str, Mapping[str, Any]]) -> Any:
    """Held-out bounds over training, above their two ER terms; a column for each training."""
    figure = require("matplotlib.figure", "plots").Figure(figsize=(4.0 * len(results), 6.0), layout="constrained")
    axes = figure.subplots(2, len(results), sharex="col", sharey="row", squeeze=False)
    for column, (name, result) in enumerate(results.items()):
        rows = result["history"]
        steps = [row["step"] for row in rows]
        top, bottom = axes[:, column]
        top.plot(steps, [row["infonce"] for row in rows], color="tab:blue", linewidth=1.8, label="InfoNCE")
        top.plot(steps, [row["er_bound"] for row in rows], color="tab:orange", linewidth=1.8, label="ER")
        top.axhline(rows[-1]["cap"], color="tab:red", linestyle="--", linewidth=1.1, label="log K")
        top.set_title(_TITLES[name])
        start = rows[0]["entropy"], rows[0]["reconstruction"]
        for key, colour, offset in (("entropy", "tab:green", start[0]), ("reconstruction", "tab:purple", start[1])):
            bottom.plot(steps, [row[key] - offset for row in rows], color=colour, linewidth=1.8, label=key)
        bottom.axhline(0.0, color="black", linewidth=0.8)
        bottom.set_xlabel("training step")
        for axis in (top, bottom):
            axis.grid(alpha=0.25)
            axis.set_xlim(0, steps[-1])
    axes[0, 0].set_ylabel("held-out bound (nats)")
    axes[1, 0].set_ylabel("change since step 0 (nats)")
    axes[0, 0].legend(frameon=False)
    axes[1, 0].legend(frameon=False)
    return figure


def _probe_figure(results: Mapping[str, Mapping[str, Any]]) -> Any:
    """Probe accuracy of pixels, of the untrained and of the trained representation."""
    figure = require("matplotlib.figure", "plots").Figure(figsize=(7.5, 4.0), layout="constrained")
    axis = figure.subplots()
    series = (
        ("pixels", "raw pixels", "0.7"),
        ("before", "before training", "tab:cyan"),
        ("after", "after training", "tab:blue"),
    )
    lowest = min(min(result["probe"].values()) for result in results.values())
    for index, (key, label, colour) in enumerate(series):
        values = [result["probe"][key] for result in results.values()]
        places = [place + 0.27 * (index - 1) for place in range(len(values))]
        bars = axis.bar(places, values, 0.25, label=label, color=colour)
        axis.bar_label(bars, fmt="%.3f", fontsize=8, padding=2)
    axis.set_xticks(range(len(results)), [_TITLES[name] for name in results])
    # Accuracies lie close together: the axis starts a little below the lowest, and says so.
    floor = max(0.0, round(lowest - 0.1, 1))
    axis.set_ylim(floor, 1.02)
    axis.set_ylabel(f"linear probe, test accuracy (axis from {floor:g})")
    axis.grid(axis="y", alpha=0.25)
    axis.set_axisbelow(True)
    axis.set_title("Digits: the whole image for SimCLR, its top half for MI maximisation")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure
