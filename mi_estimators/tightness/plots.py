"""Plots of a benchmark. Figures are made without pyplot: no global state, no display."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from mi_estimators import _extras
from mi_estimators.tightness.leaderboard import Line, main_n, ranking

_KIND_COLOURS = {"lower": "tab:blue", "upper": "tab:orange", "neither": "0.55"}
_MARKERS = "osD^v<>Ph*Xp"


def _figure(width: float, height: float) -> Any:
    return _extras.require("matplotlib.figure", "plots").Figure(figsize=(width, height), layout="constrained")


def _styles(variants: Sequence[str]) -> dict[str, dict[str, Any]]:
    colours = _extras.require("matplotlib", "plots").colormaps["tab20"].colors
    return {
        variant: {"color": colours[index % 20], "marker": _MARKERS[index % len(_MARKERS)]}
        for index, variant in enumerate(variants)
    }


def estimates(found: Sequence[Line]) -> Any:
    """A panel per estimator: mean and spread over seeds of every task against its true mutual information."""
    n = main_n(found)
    ranks = ranking(found, n)
    columns = min(4, len(ranks))
    rows = math.ceil(len(ranks) / columns)
    figure = _figure(2.7 * columns + 0.4, 2.5 * rows + 0.5)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    top = 1.15 * max(line.truth for line in found if line.n == n) + 0.2
    for axis, rank in zip(axes, ranks, strict=False):
        own = [line for line in found if line.n == n and line.variant == rank.variant and line.mean is not None]
        axis.plot([0, top], [0, top], color="black", linewidth=0.9)
        axis.errorbar(
            [line.truth for line in own],
            [line.mean for line in own],
            [line.spread or 0 for line in own],
            fmt="o",
            markersize=3.5,
            linewidth=1,
            color=_KIND_COLOURS[rank.kind],
        )
        axis.set_title(f"{rank.variant}: close on {rank.close} of {rank.tasks}", fontsize=9)
        axis.set_xscale("symlog", linthresh=0.5)
        axis.set_yscale("symlog", linthresh=0.5)
        axis.set_xlim(0, top)
        axis.set_ylim(-0.3, 1.5 * top)
        ticks = [tick for tick in (0, 0.5, 1, 2, 5, 10, 20) if tick <= top]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    for axis in axes[len(ranks) :]:
        axis.set_visible(False)
    figure.supxlabel("true mutual information (nats)")
    figure.supylabel("estimate (nats)")
    figure.suptitle(f"Estimates against the truth, n = {n}")
    return figure


def bias_and_variance(found: Sequence[Line]) -> Any:
    """Bias, and the standard deviation over seeds, of every estimator against the true mutual information."""
    n = main_n(found)
    styles = _styles([rank.variant for rank in ranking(found, n)])
    figure = _figure(10.5, 4.3)
    left, right = figure.subplots(1, 2, sharex=True)
    for variant, style in styles.items():
        own = sorted(
            (line for line in found if line.n == n and line.variant == variant and line.mean is not None),
            key=lambda line: line.truth,
        )
        truths = [line.truth for line in own]
        bias = [line.mean - line.truth for line in own if line.mean is not None]
        spread = [math.nan if line.spread is None else line.spread for line in own]
        # No lines: tasks of one and the same information stand above each other.
        left.plot(truths, bias, linestyle="none", markersize=5, label=variant, **style)
        right.plot(truths, spread, linestyle="none", markersize=5, **style)
    left.axhline(0, color="black", linewidth=0.9)
    left.set_ylabel("bias (nats)")
    left.set_yscale("symlog", linthresh=0.1)
    right.set_ylabel("standard deviation over seeds (nats)")
    if any((line.spread or 0) > 0 for line in found if line.n == n):  # not with one seed
        right.set_yscale("log")
    for axis in (left, right):
        axis.set_xscale("symlog", linthresh=0.5)
        ticks = [tick for tick in (0, 0.5, 1, 2, 5, 10, 20) if tick <= 1.2 * max(line.truth for line in found)]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel("true mutual information (nats)")
        axis.grid(alpha=0.25)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    figure.suptitle(f"Bias and variance, n = {n}")
    return figure


def violations(found: Sequence[Line]) -> Any:
    """The share of an estimator's estimates that lie on the wrong side of the truth by three standard errors."""
    ranks = [rank for rank in reversed(ranking(found)) if rank.estimates]
    figure = _figure(6.5, 1.1 + 0.3 * len(ranks))
    axis = figure.subplots()
    rates = [100 * rank.violations / rank.estimates for rank in ranks]
    bars = axis.barh(
        [rank.variant for rank in ranks], rates, color=[_KIND_COLOURS[rank.kind] for rank in ranks], height=0.7
    )
    axis.bar_label(bars, [f"{rank.violations} / {rank.estimates}" for rank in ranks], fontsize=8, padding=3)
    axis.set_xlim(0, max(10, 1.2 * max(rates, default=0)))
    axis.set_xlabel("violations (% of estimates)\nblue: lower bounds, orange: upper bounds, grey: neither")
    axis.grid(axis="x", alpha=0.25)
    axis.set_axisbelow(True)
    return figure


def convergence(found: Sequence[Line]) -> Any:
    """A panel for each task measured at several numbers of pairs: distance from the truth against their number."""
    sizes: dict[str, set[int]] = {}
    for line in found:
        sizes.setdefault(line.task, set()).add(line.n)
    tasks = [task for task, several in sizes.items() if len(several) > 1]
    if not tasks:
        return None
    styles = _styles([rank.variant for rank in ranking(found)])
    columns = min(2, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure = _figure(4.2 * columns + 1.6, 3.1 * rows + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, task in zip(axes, tasks, strict=False):
        for variant, style in styles.items():
            own = sorted((line for line in found if (line.task, line.variant) == (task, variant)), key=lambda li: li.n)
            axis.plot(
                [line.n for line in own],
                [math.nan if line.mean is None else max(line.error_size, 1e-4) for line in own],
                linewidth=1,
                markersize=4,
                label=variant if task == tasks[0] else None,
                **style,
            )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(task, fontsize=9)
        axis.set_xlabel("pairs")
        axis.set_ylabel("|mean - truth| (nats)")
        axis.grid(alpha=0.25)
    for axis in axes[len(tasks) :]:
        axis.set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure


def time_and_error(found: Sequence[Line]) -> Any:
    """Median distance from the truth against seconds for one estimate on one thread."""
    ranks = [rank for rank in ranking(found) if math.isfinite(rank.median_error)]
    figure = _figure(7.5, 4.6)
    axis = figure.subplots()
    for rank in ranks:
        point = rank.seconds, max(rank.median_error, 1e-4)
        axis.plot(*point, "o", color=_KIND_COLOURS[rank.kind], markersize=6)
        axis.annotate(rank.variant, point, textcoords="offset points", xytext=(6, 3), fontsize=8)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.margins(0.12)
    axis.set_xlabel("seconds for one estimate, one thread (mean over tasks)")
    axis.set_ylabel("median over tasks of |mean - truth| (nats)")
    axis.grid(alpha=0.25)
    figure.suptitle(f"Time against error, n = {main_n(found)}")
    return figure


PLOTS: dict[str, tuple[Callable[[Sequence[Line]], Any], str]] = {
    "estimates": (estimates, "Estimates against the truth, mean and standard deviation over seeds"),
    "bias_and_variance": (bias_and_variance, "Bias and variance against true mutual information"),
    "violations": (violations, "Violation rate"),
    "convergence": (convergence, "Convergence in the number of pairs"),
    "time_and_error": (time_and_error, "Time against error"),
}
"""Plots by the name of their file, with a title. A plot that has nothing to show is None."""
