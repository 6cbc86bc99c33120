"""The plot of a staircase."""

from __future__ import annotations

import math
from typing import Any

from mi_estimators import _extras


def plot(result: dict[str, Any]) -> Any:
    """Draw the staircase of the first seed: a panel per bound with raw and smoothed values, truth and log(batch size).

    Args:
        result: what :func:`~mi_estimators.tightness.run` returned.

    Returns:
        A ``matplotlib.figure.Figure``, made without pyplot: no global state, no display.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    figure_module = _extras.require("matplotlib.figure", "plots")
    config = result["config"]
    levels, steps = config["levels"], config["steps_per_level"]
    curves = [curve for curve in result["curves"] if curve["seed"] == config["seed"]]
    columns = min(len(curves), 4)
    rows = math.ceil(len(curves) / columns)
    figure = figure_module.Figure(figsize=(max(6.0, 1.2 + 3.3 * columns), 1.3 + 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    top = max(1.35 * max(levels), 1.1 * result["cap"])
    edges = [index * steps for index in range(len(levels) + 1)]
    for axis, curve in zip(axes, curves, strict=False):
        raw = [math.nan if value is None else value for value in curve["values"]]
        smoothed = [math.nan if value is None else value for value in curve["smoothed"]]
        axis.plot(raw, color="tab:blue", alpha=0.25, linewidth=0.6, label="value on each fresh batch")
        axis.plot(smoothed, color="tab:blue", linewidth=1.8, label=f"smoothed (EWM, span {config['span']})")
        axis.stairs(levels, edges, baseline=None, color="black", linewidth=1.4, label="true mutual information")
        axis.axhline(
            result["cap"], color="tab:red", linestyle="--", linewidth=1.1, label=f"log({config['batch_size']})"
        )
        of_bound = [row for row in result["levels"] if (row["bound"], row["seed"]) == (curve["bound"], curve["seed"])]
        violations = sum(row["violations"] for row in of_bound)
        kind = "no bound" if of_bound[0]["kind"] == "neither" else f"{of_bound[0]['kind']} bound"
        axis.set_title(
            f"{curve['bound']}: {kind}\nsmoothed above truth in {100 * violations / len(raw):.0f} % of steps",
            fontsize=10,
        )
        axis.set_xlim(0, edges[-1])
        axis.set_ylim(min(-0.05 * top, 0), top)
        axis.set_xticks(edges)
        axis.set_xlabel("training step")
        axis.tick_params(axis="x", labelrotation=45)
        axis.grid(alpha=0.25)
    for axis in axes[len(curves) :]:
        axis.set_visible(False)
    figure.supylabel("mutual information (nats)")
    data = f"{'cubic ' if config['cubic'] else ''}Gaussian, d = {config['dim']}"
    figure.suptitle(f"{data}, {config['critic']} critic, batch {config['batch_size']}")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4 if columns > 2 else 2, frameon=False
    )
    return figure
