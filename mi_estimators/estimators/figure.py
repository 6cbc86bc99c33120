"""A picture of an estimate: its training, its interval and cap, and the values on resampled or independent data."""

from __future__ import annotations

import math
from typing import Any

from mi_estimators import _extras
from mi_estimators.estimators.result import MIEstimate

_CAP = {"color": "tab:red", "linestyle": "--", "linewidth": 1.1}


def plot(estimate: MIEstimate) -> Any:
    """Draw an estimate: a panel for the training curve, one for the values under independence, one for those of the
    resamples or seeds, each where there are any, with the value, its interval and the cap in all.

    Args:
        estimate: what :func:`mi_estimators.estimate_mi` returned.

    Returns:
        A ``matplotlib.figure.Figure``, made without pyplot: no global state, no display.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    figure_module = _extras.require("matplotlib.figure", "plots")
    spread = estimate.resamples or (estimate.seed_values if len(estimate.seed_values) > 1 else ())
    panels = [
        name for name, shown in (("curve", estimate.curve), ("null", estimate.null), ("spread", spread)) if shown
    ] or ["value"]
    figure = figure_module.Figure(figsize=(1.0 + 4.2 * len(panels), 3.8), layout="constrained")
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        if panel == "curve":
            _curve(axis, estimate)
        elif panel == "null":
            _values(axis, estimate, estimate.null, f"under independence, p = {estimate.p_value:.3g}")
        else:
            _values(axis, estimate, spread, "resamples" if estimate.resamples else "seeds" if spread else "estimate")
    figure.suptitle(str(estimate), fontsize=9)
    shown: dict[str, Any] = {}
    for axis in figure.axes:
        shown.update(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _curve(axis: Any, estimate: MIEstimate) -> None:
    """The validation values over training."""
    steps = [step for step, _ in estimate.curve]
    values = [value if math.isfinite(value) else math.nan for _, value in estimate.curve]
    axis.plot(steps, values, color="tab:blue", label="validation")
    axis.set_xlabel("training step")
    axis.set_ylabel(f"mutual information ({estimate.base})")
    axis.set_title("training" + (", first seed" if len(estimate.seed_values) > 1 else ""))
    _marks(axis.axhline, axis.axhspan, estimate)
    if estimate.cap is not None:
        # A cap far above everything would leave the rest a flat line.
        near = estimate.cap <= 2 * estimate.value
        label = f"cap {estimate.cap:.2f}" + ("" if near else ", beyond the axis")
        (axis.axhline(estimate.cap, **_CAP, label=label) if near else axis.plot([], [], **_CAP, label=label))
    axis.grid(alpha=0.25)


def _values(axis: Any, estimate: MIEstimate, values: tuple[float, ...], title: str) -> None:
    """Values on other data or of other seeds, as bars, or single where they are few."""
    kept = [value for value in values if math.isfinite(value)]
    if len(kept) < 10:
        axis.plot(kept, [0.5] * len(kept), "o", color="tab:gray")
        axis.set_ylim(0, 1)
    else:
        axis.hist(kept, bins="auto", color="tab:gray", alpha=0.7)
    lost = f" ({len(values) - len(kept)} not finite)" if len(kept) < len(values) else ""
    axis.set_title(f"{title}{lost}")
    axis.set_yticks([])
    axis.set_xlabel(f"mutual information ({estimate.base})")
    _marks(axis.axvline, axis.axvspan, estimate)
    axis.grid(alpha=0.25)


def _marks(line: Any, span: Any, estimate: MIEstimate) -> None:
    """The estimate and its interval, as a line and a band across an axis."""
    if math.isfinite(estimate.value):
        line(estimate.value, color="black", linewidth=1.4, label="estimate")
    if estimate.interval is not None and all(map(math.isfinite, estimate.interval)):
        span(*estimate.interval, color="tab:orange", alpha=0.25, label=f"{100 * estimate.level:g} % interval")
