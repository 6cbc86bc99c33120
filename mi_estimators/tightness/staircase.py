"""The staircase: bounds trained on a correlated Gaussian whose mutual information rises in steps.

Every training step draws a fresh batch of i.i.d. pairs, and the bound is read before the weights move: each value is an
estimate on data that its critic has not seen, so a lower bound lies below the truth but for the noise of a batch. The
critic is carried from one level to the next.

Source: Poole et al. 2019 (arXiv 1905.06922), sec. 3; Song and Ermon 2020 (arXiv 1910.06222), sec. 6.1.
"""

from __future__ import annotations

import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mi_estimators import _checks, _extras
from mi_estimators._files import replacing, write_json
from mi_estimators._version import __version__
from mi_estimators.bounds import BOUNDS
from mi_estimators.console import rich_table
from mi_estimators.synthetic import correlated_gaussian
from mi_estimators.tightness.config import TightnessConfig
from mi_estimators.tightness.staircase_plot import plot
from mi_estimators.tightness.training import Trained, counting, train

if TYPE_CHECKING:
    from rich.table import Table


def smooth(values: Sequence[float | None], span: int) -> list[float | None]:
    """Exponentially weighted mean over the past: weights (1 - a)^age with a = 2 / (span + 1), normalised.

    Missing values (None) are passed over: the mean of the others stands. None until the first value.

    Args:
        values: the series.
        span: number of steps, >= 1.
    """
    decay = 1 - 2 / (span + 1)
    total = weight = 0.0
    smoothed: list[float | None] = []
    for value in values:
        total, weight = decay * total, decay * weight
        if value is not None:
            total, weight = total + value, weight + 1
        smoothed.append(total / weight if weight else None)
    return smoothed


def _rows(member: Trained, smoothed: list[float | None], config: TightnessConfig) -> list[dict[str, Any]]:
    """The lines of the result for one estimator: one a level."""
    bound = BOUNDS[member.bound]
    rows = []
    for index, (level, wall) in enumerate(zip(config.levels, member.seconds, strict=True)):
        part = slice(index * config.steps_per_level, (index + 1) * config.steps_per_level)
        values = member.values[part]
        tail = [value for value in values[-max(1, len(values) // 4) :] if value is not None]
        rows.append(
            {
                "bound": bound.name,
                "seed": member.seed,
                "kind": bound.kind,
                "true_mi": level,
                "mean": statistics.fmean(tail) if tail else None,
                "std": statistics.stdev(tail) if len(tail) > 1 else None,
                "cap": None if bound.cap is None else bound.cap(config.batch_size),
                "violations": sum(value is not None and value > level for value in smoothed[part]),
                "non_finite": sum(value is None for value in values),
                "steps": len(values),
                "seconds": wall,
            }
        )
    return rows


def run(config: TightnessConfig, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Train every bound up the staircase.

    Args:
        config: the settings.
        progress: called after every step with the number of steps done and the total.

    Returns:
        A dictionary ready for JSON, everything in nats:

        - ``config``: the settings; ``cap``: log(batch_size); ``environment``: versions and machine; ``seconds``.
        - ``curves``: for each bound and seed the ``values`` of every step (None where not finite) and their
          ``smoothed`` form, their exponentially weighted mean.
        - ``levels``: for each bound, seed and level the true mutual information ``true_mi``, ``mean`` and ``std`` over
          the last quarter of the steps, the bound's own ``cap`` or None, ``violations``: the number of steps at which
          the smoothed value exceeds the truth (which a lower bound should not; an upper bound should), ``non_finite``:
          the number of steps whose value overflowed, or came after the critic had diverged, ``steps`` and
          ``seconds``.

    Raises:
        ValueError: a device that cannot be used.
    """
    _checks.usable_device("device", config.device)
    tasks = [correlated_gaussian(config.dim, level, cubic=config.cubic) for level in config.levels]
    total = len(config.bounds) * config.seeds * len(tasks) * config.steps_per_level
    start = time.perf_counter()
    curves: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for member in train(config, tasks, counting(total, progress)):
        smoothed = smooth(member.values, config.span)
        curves.append({"bound": member.bound, "seed": member.seed, "values": member.values, "smoothed": smoothed})
        rows += _rows(member, smoothed, config)
    settings = asdict(config)
    return {
        "config": {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()},
        "cap": config.cap,
        "levels": rows,
        "curves": curves,
        "environment": {
            "mi_estimators": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "threads": config.threads or torch.get_num_threads(),
        },
        "seconds": time.perf_counter() - start,
    }


def save(result: dict[str, Any], directory: str | Path) -> list[Path]:
    """Write ``results.json`` and, where Matplotlib is installed, ``staircase.png``.

    Each file appears whole or not at all. Without Matplotlib (extra ``[plots]``) a warning says so.

    Args:
        result: what :func:`run` returned.
        directory: created if missing.

    Returns:
        The paths written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    written = [directory / "results.json"]
    write_json(written[0], result)
    try:
        _extras.require("matplotlib.figure", "plots")
    except ImportError as error:
        warnings.warn(f"no plot: {error}", stacklevel=2)
        return written
    written.append(directory / "staircase.png")
    with replacing(written[1]) as partial:
        plot(result).savefig(partial, format="png", dpi=110)
    return written


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Over the seeds of a result, a line for each bound and level.

    Args:
        result: what :func:`run` returned.

    Returns:
        Dictionaries with ``bound``, ``kind``, ``true_mi``, ``cap``, ``mean`` over the seeds that have one, or None,
        ``std`` (of a batch's value around it, over the last quarter of the steps, the mean over seeds), ``violations``,
        ``non_finite``, ``steps`` and ``seconds`` (their sums).
    """
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in result["levels"]:
        groups.setdefault((row["bound"], row["true_mi"]), []).append(row)
    lines = []
    for rows in groups.values():
        line = {key: rows[0][key] for key in ("bound", "kind", "true_mi", "cap")}
        for key in ("mean", "std"):
            known = [row[key] for row in rows if row[key] is not None]
            line[key] = statistics.fmean(known) if known else None
        for key in ("violations", "non_finite", "steps", "seconds"):
            line[key] = sum(row[key] for row in rows)
        lines.append(line)
    return lines


def table(result: dict[str, Any]) -> Table:
    """A Rich table: one line per bound, one column per level, the mean over the last quarter of its steps.

    A star marks a mean above the truth. The last columns count violations, the steps whose smoothed value exceeds it,
    and seconds of one thread.

    Args:
        result: what :func:`run` returned.

    Raises:
        ImportError: Rich is not installed.
    """
    config = result["config"]
    title = f"Estimate in nats at each level: mean ± std over the last quarter of {config['steps_per_level']} steps"
    header = ("bound \\ truth", *(f"{level:.2f}" for level in config["levels"]), "cap", "violations", "s")
    lines, out = summary(result), []
    for name in config["bounds"]:
        rows = [row for row in lines if row["bound"] == name]
        cells = [_cell(row) for row in rows]
        cap = "none" if rows[0]["cap"] is None else f"{rows[0]['cap']:.2f}"
        violations = sum(row["violations"] for row in rows)
        steps = sum(row["steps"] for row in rows)
        out.append((name, *cells, cap, f"{violations} / {steps}", f"{sum(row['seconds'] for row in rows):.0f}"))
    return rich_table(title, header, out, left=(0,), no_wrap=True)


def _cell(row: dict[str, Any]) -> str:
    if row["mean"] is None:
        return "overflow"
    spread = "" if row["std"] is None else f" ± {row['std']:.2f}"
    return f"{row['mean']:.2f}{spread}{'*' if row['mean'] > row['true_mi'] else ' '}"
