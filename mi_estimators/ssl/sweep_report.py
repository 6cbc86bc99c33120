"""What a sweep shows: the table of robustness of arXiv 2307.10907, and entropy and reconstruction over training."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_estimators import _extras
from mi_estimators._files import replacing, write_text
from mi_estimators.console import markdown_table, rich_table
from mi_estimators.ssl.sweep import line_of

if TYPE_CHECKING:
    from rich.table import Table

Result = dict[str, Any]
_TERMS = ("entropy", "reconstruction", "infonce")
_STYLES = ("-", "--", ":", "-.")


def robustness(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A line for each method and objective: accuracy at the base, and what is lost where one thing differs from it.

    Args:
        results: of :func:`~mi_estimators.ssl.sweep.run_sweep`.

    Returns:
        For each line ``line``, ``runs`` and ``failed`` (trainings that did not stay finite), ``accuracy`` with its
        ``deviation`` over seeds, ``above_pixels``, the held-out ``entropy`` at the end, and ``drops``: by setting, the
        accuracy of the base less that there, mean over the seeds that both have, with its standard error. A training
        that failed has no accuracy, and its seed is left out.
    """
    lines: dict[str, list[Result]] = {}
    for result in results:
        lines.setdefault(line_of(result["method"], result["objective"]), []).append(result)
    return [_summary(line, of_line) for line, of_line in lines.items()]


def _summary(line: str, of_line: Sequence[Result]) -> dict[str, Any]:
    runs: dict[str, dict[int, Result]] = {}
    base = (of_line[0]["batch_size"], of_line[0]["momentum"])
    for result in of_line:
        if result["probe"] is not None:
            runs.setdefault(_setting(result, base), {})[result["seed"]] = result
    at_base = runs.pop("base", {})
    accuracies = [result["probe"]["after"] for result in at_base.values()]
    drops = {}
    for setting, there in runs.items():
        lost = [
            at_base[seed]["probe"]["after"] - result["probe"]["after"]
            for seed, result in there.items()
            if seed in at_base
        ]
        drops[setting] = (_mean(lost), _standard_error(lost))
    return {
        "line": line,
        "runs": len(of_line),
        "failed": sum(result["error"] is not None for result in of_line),
        "accuracy": _mean(accuracies),
        "deviation": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "above_pixels": _mean([result["probe"]["after"] - result["probe"]["pixels"] for result in at_base.values()]),
        "entropy": _mean([result["history"][-1]["entropy"] for result in at_base.values()]),
        "drops": drops,
    }


def _setting(result: Result, base: tuple[int, float | None]) -> str:
    """What differs from the base, which is a line's first run."""
    if result["batch_size"] != base[0]:
        return f"K = {result['batch_size']}"
    return "base" if result["momentum"] == base[1] else f"m = {result['momentum']:g}"


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _standard_error(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _cells(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and texts of the table, in per cent of the test images."""
    lines = robustness(results)
    settings = list(dict.fromkeys(setting for line in lines for setting in line["drops"]))
    header = ["run", "accuracy", "above pixels", "entropy", *(f"drop at {setting}" for setting in settings), "failed"]

    def points(value: float | None, error: float | None = None, sign: str = "") -> str:
        text = "" if value is None else f"{100 * value:{sign}.1f}"
        return text if error is None else f"{text} ± {100 * error:.1f}"

    def lost(drop: tuple[float | None, float | None] | None) -> str:
        return "" if drop is None else points(drop[0], drop[1], "+")

    rows = [
        [
            line["line"],
            points(line["accuracy"], line["deviation"]),
            points(line["above_pixels"], sign="+"),
            "" if line["entropy"] is None else f"{line['entropy']:.2f}",
            *(lost(line["drops"].get(setting)) for setting in settings),
            f"{line['failed']} of {line['runs']}",
        ]
        for line in lines
    ]
    return header, rows


def sweep_as_rich(results: Sequence[Result]) -> Table:
    """The table for a terminal."""
    header, rows = _cells(results)
    return rich_table("accuracy of the linear probe in %, and what is lost", header, rows, left=(0,))


def save_sweep(results: Sequence[Result], out: str | Path) -> list[Path]:
    """Write the table (``robustness.md``, ``robustness.csv``), and where Matplotlib is installed ``training.png``."""
    folder = Path(out)
    header, rows = _cells(results)
    write_text(folder / "robustness.md", markdown_table(header, rows))
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows([header, *rows])
    write_text(folder / "robustness.csv", table.getvalue())
    paths = [folder / "robustness.md", folder / "robustness.csv"]
    try:
        _extras.require("matplotlib.figure", "plots")
    except ImportError:
        return paths
    with replacing(folder / "training.png") as partial:
        training_plot(results).savefig(partial, format="png", dpi=120)
    return [*paths, folder / "training.png"]


def training_plot(results: Sequence[Result]) -> Any:
    """Entropy, reconstruction and InfoNCE on held-out images against images seen, mean over seeds.

    A column a method; a colour an objective; a style of line a setting, the base being drawn through.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    figure_module = _extras.require("matplotlib.figure", "plots")
    methods = list(dict.fromkeys(result["method"] for result in results))
    figure = figure_module.Figure(figsize=(3.2 * len(methods) + 0.6, 2.3 * len(_TERMS) + 0.6), layout="constrained")
    axes = figure.subplots(len(_TERMS), len(methods), squeeze=False, sharex=True)  # scales differ by method
    for column, method in enumerate(methods):
        curves: dict[tuple[str, str], list[Result]] = {}
        of_method = [result for result in results if result["method"] == method]
        base = (of_method[0]["batch_size"], of_method[0]["momentum"])
        for result in of_method:
            curves.setdefault((result["objective"] or "native", _setting(result, base)), []).append(result)
        settings = list(dict.fromkeys(setting for _, setting in curves))
        for (objective, setting), runs in curves.items():
            style = _STYLES[settings.index(setting) % len(_STYLES)]
            for row, term in enumerate(_TERMS):
                axes[row, column].plot(
                    *_curve(runs, term), style, color="C1" if objective == "er" else "C0", linewidth=1.2,
                    label=f"{objective}, {setting}",
                )  # fmt: skip
        axes[0, column].set_title(method, fontsize=9)
        axes[0, column].legend(fontsize=6)
        axes[-1, column].set_xlabel("images seen, thousands")
    for row, term in enumerate(_TERMS):
        axes[row, 0].set_ylabel(f"{term}, nats")
        for axis in axes[row]:
            axis.grid(True, linewidth=0.3)
    return figure


def _curve(runs: Sequence[Result], term: str) -> tuple[list[float], list[float]]:
    """Thousands of images seen, and the mean of a term over the runs that came so far."""
    values: dict[int, list[float]] = {}
    for run in runs:
        for row in run["history"]:
            values.setdefault(row["step"], []).append(row[term])
    seen = [step * runs[0]["batch_size"] / 1000 for step in values]
    return seen, [statistics.fmean(of_step) for of_step in values.values()]
