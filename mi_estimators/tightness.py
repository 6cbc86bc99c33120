"""The staircase: bounds trained on a correlated Gaussian whose mutual information rises in steps.

Every training step draws a fresh batch of i.i.d. pairs, and the bound is read before the weights move: each value is an
estimate on data that its critic has not seen, so a lower bound lies below the truth but for the noise of a batch. The
critic is carried from one level to the next.

Source: Poole et al. 2019 (arXiv 1905.06922), sec. 3; Song and Ermon 2020 (arXiv 1910.06222), sec. 6.1.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mi_estimators import _checks, _extras
from mi_estimators._version import __version__
from mi_estimators.bounds import BOUNDS, Bound
from mi_estimators.critics import CRITICS
from mi_estimators.estimators.neural import ascend
from mi_estimators.synthetic import Task, correlated_gaussian

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class TightnessConfig:
    """Settings of a staircase.

    Attributes:
        bounds: names in :data:`mi_estimators.bounds.BOUNDS`.
        critic: name in :data:`mi_estimators.critics.CRITICS`.
        dim: size of x and of y.
        batch_size: pairs per step.
        steps_per_level: training steps at each level.
        levels: true mutual information of each level, in nats, increasing.
        span: span in steps of the exponentially weighted mean that smooths the curves and counts violations.
        cubic: cube every coordinate of y, which leaves the mutual information as it is.
        learning_rate: of Adam.
        hidden: size of each of the critic's two hidden layers (separable and concatenated critics).
        embedding: size of the embeddings of a separable critic.
        seed: of data and initial weights. Every bound sees the same batches and starts from the same weights.
        threads: CPU threads; None leaves PyTorch's setting.
        device: where to train.
    """

    bounds: tuple[str, ...] = ("infonce", "nwj", "dv", "smile")
    critic: str = "concatenated"
    dim: int = 20
    batch_size: int = 64
    steps_per_level: int = 4000
    levels: tuple[float, ...] = (2.0, 4.0, 6.0, 8.0, 10.0)
    span: int = 200
    cubic: bool = False
    learning_rate: float = 5e-4
    hidden: int = 256
    embedding: int = 32
    seed: int = 0
    threads: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.bounds:
            raise ValueError("bounds: want at least one")
        for bound in self.bounds:
            _checks.choice("bounds", bound, BOUNDS)
        if len(set(self.bounds)) < len(self.bounds):
            raise ValueError(f"bounds: want each once, got {self.bounds}")
        _checks.choice("critic", self.critic, CRITICS)
        for name in ("dim", "batch_size", "steps_per_level", "span", "hidden", "embedding", "threads"):
            value = getattr(self, name)
            if name == "threads" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}: want an integer, got {value!r}")
            if value < 1:
                raise ValueError(f"{name}: want at least 1, got {value}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size: want at least 2, since one pair has no negatives; got {self.batch_size}")
        _checks.positive("learning_rate", self.learning_rate)
        if not self.levels:
            raise ValueError("levels: want at least one")
        for level in self.levels:
            _checks.positive("levels", level)
        if list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"levels: want increasing values, got {self.levels}")

    @classmethod
    def short(cls, **changes: Any) -> TightnessConfig:
        """A staircase of four bounds within a minute on one core: a smaller critic, fewer steps, a shorter smoothing.

        Args:
            **changes: fields to set otherwise.
        """
        return cls(**{"hidden": 64, "steps_per_level": 250, "learning_rate": 1e-3, "span": 50, "threads": 1, **changes})

    @property
    def cap(self) -> float:
        """log(batch_size): the largest value of InfoNCE, in nats."""
        return math.log(self.batch_size)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def _critic(config: TightnessConfig, generator: torch.Generator) -> torch.nn.Module:
    options: dict[str, Any] = {}
    if config.critic in ("separable", "concatenated"):
        options["hidden"] = (config.hidden, config.hidden)
    if config.critic == "separable":
        options["embedding"] = config.embedding
    return CRITICS[config.critic](config.dim, config.dim, generator=generator, **options).to(config.device)


def _train(
    bound: Bound, tasks: Sequence[Task], config: TightnessConfig, report: Callable[[], None]
) -> tuple[list[float | None], list[float]]:
    """Values at every step, None where not finite, and seconds per level."""
    critic = _critic(config, torch.Generator().manual_seed(config.seed))
    data = torch.Generator().manual_seed(config.seed + 1)
    parameters = list(critic.parameters())
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, fused=True) if parameters else None
    values: list[float | None] = []
    seconds: list[float] = []
    for task in tasks:
        start = time.perf_counter()
        for _ in range(config.steps_per_level):
            x, y = task.sample(config.batch_size, data, device=config.device)
            value, objective = bound.value_and_objective(critic(x, y))
            number = value.item()
            values.append(number if math.isfinite(number) else None)
            if optimizer is not None:
                ascend(objective, optimizer)
            report()
        seconds.append(time.perf_counter() - start)
    return values, seconds


def _row(
    bound: Bound, level: float, values: list[float | None], smoothed: list[float | None], cap: float | None, wall: float
) -> dict[str, Any]:
    """One line of the result: a bound at a level."""
    tail = values[-max(1, len(values) // 4) :]
    kept = torch.tensor([value for value in tail if value is not None], dtype=torch.float64)
    return {
        "bound": bound.name,
        "kind": bound.kind,
        "true_mi": level,
        "mean": kept.mean().item() if kept.numel() else None,
        "std": kept.std().item() if kept.numel() > 1 else None,
        "cap": cap,
        "violations": sum(value is not None and value > level for value in smoothed),
        "non_finite": sum(value is None for value in values),
        "steps": len(values),
        "seconds": wall,
    }


def run(config: TightnessConfig, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Train every bound up the staircase.

    Args:
        config: the settings.
        progress: called after every step with the number of steps done and the total.

    Returns:
        A dictionary ready for JSON, everything in nats:

        - ``config``: the settings; ``cap``: log(batch_size); ``environment``: versions and machine; ``seconds``.
        - ``curves``: for each bound the ``values`` of every step (None where not finite) and their ``smoothed`` form,
          their exponentially weighted mean.
        - ``levels``: for each bound and level the true mutual information ``true_mi``, ``mean`` and ``std`` over the
          last quarter of the steps, the bound's own ``cap`` or None, ``violations``: the number of steps at which the
          smoothed value exceeds the truth, ``non_finite``: the number of steps whose value overflowed, ``steps`` and
          ``seconds``.

    Raises:
        ValueError: the critic diverged to scores that are not finite.
    """
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:  # what torch raises for a device that is unknown, or not there
        raise ValueError(f"device: cannot use {config.device!r}: {error}") from error
    tasks = [correlated_gaussian(config.dim, level, cubic=config.cubic) for level in config.levels]
    total = len(config.bounds) * len(tasks) * config.steps_per_level
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    start = time.perf_counter()
    curves: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    with _threads(config.threads):
        for name in config.bounds:
            bound = BOUNDS[name]
            values, seconds = _train(bound, tasks, config, report)
            smoothed = smooth(values, config.span)
            curves[name] = {"values": values, "smoothed": smoothed}
            cap = None if bound.cap is None else bound.cap(config.batch_size)
            for index, (level, wall) in enumerate(zip(config.levels, seconds, strict=True)):
                part = slice(index * config.steps_per_level, (index + 1) * config.steps_per_level)
                rows.append(_row(bound, level, values[part], smoothed[part], cap, wall))
        threads = torch.get_num_threads()
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
            "threads": threads,
        },
        "seconds": time.perf_counter() - start,
    }


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place once written whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
    with _replacing(written[0]) as partial:
        partial.write_text(json.dumps(result, allow_nan=False) + "\n", encoding="utf-8")
    try:
        _extras.require("matplotlib.figure", "plots")
    except ImportError as error:
        warnings.warn(f"no plot: {error}", stacklevel=2)
        return written
    written.append(directory / "staircase.png")
    with _replacing(written[1]) as partial:
        plot(result).savefig(partial, format="png", dpi=150)
    return written


def plot(result: dict[str, Any]) -> Any:
    """Draw the staircase: one panel per bound with raw and smoothed values, the truth and log(batch size).

    Args:
        result: what :func:`run` returned.

    Returns:
        A ``matplotlib.figure.Figure``, made without pyplot: no global state, no display.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    figure_module = _extras.require("matplotlib.figure", "plots")
    config = result["config"]
    levels, steps, curves = config["levels"], config["steps_per_level"], result["curves"]
    columns = min(len(curves), 4)
    rows = math.ceil(len(curves) / columns)
    figure = figure_module.Figure(figsize=(max(6.0, 1.2 + 3.3 * columns), 1.3 + 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    top = max(1.35 * max(levels), 1.1 * result["cap"])
    edges = [index * steps for index in range(len(levels) + 1)]
    for axis, (name, curve) in zip(axes, curves.items(), strict=False):
        raw = [math.nan if value is None else value for value in curve["values"]]
        smoothed = [math.nan if value is None else value for value in curve["smoothed"]]
        axis.plot(raw, color="tab:blue", alpha=0.25, linewidth=0.6, label="value on each fresh batch")
        axis.plot(smoothed, color="tab:blue", linewidth=1.8, label=f"smoothed (EWM, span {config['span']})")
        axis.stairs(levels, edges, baseline=None, color="black", linewidth=1.4, label="true mutual information")
        axis.axhline(
            result["cap"], color="tab:red", linestyle="--", linewidth=1.1, label=f"log({config['batch_size']})"
        )
        of_bound = [row for row in result["levels"] if row["bound"] == name]
        violations = sum(row["violations"] for row in of_bound)
        kind = "no bound" if of_bound[0]["kind"] == "neither" else f"{of_bound[0]['kind']} bound"
        axis.set_title(
            f"{name}: {kind}\nsmoothed above truth in {100 * violations / len(raw):.0f} % of steps", fontsize=10
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


def table(result: dict[str, Any]) -> Table:
    """A Rich table: one line per bound, one column per level, the mean over the last quarter of its steps.

    A star marks a mean above the truth. The last column counts violations, the steps whose smoothed value exceeds it.

    Args:
        result: what :func:`run` returned.

    Raises:
        ImportError: Rich is not installed.
    """
    rich_table = _extras.require("rich.table", "train")
    config = result["config"]
    out: Table = rich_table.Table(
        title=f"Estimate in nats at each level: mean ± std over the last quarter of {config['steps_per_level']} steps"
    )
    out.add_column("bound \\ truth", no_wrap=True)
    for level in config["levels"]:
        out.add_column(f"{level:.2f}", justify="right", no_wrap=True)
    out.add_column("cap", justify="right", no_wrap=True)
    out.add_column("violations", justify="right", no_wrap=True)
    out.add_column("s", justify="right", no_wrap=True)
    for name in result["curves"]:
        rows = [row for row in result["levels"] if row["bound"] == name]
        cells = [_cell(row) for row in rows]
        cap = "none" if rows[0]["cap"] is None else f"{rows[0]['cap']:.2f}"
        violations = sum(row["violations"] for row in rows)
        steps = sum(row["steps"] for row in rows)
        out.add_row(name, *cells, cap, f"{violations} / {steps}", f"{sum(row['seconds'] for row in rows):.0f}")
    return out


def _cell(row: dict[str, Any]) -> str:
    if row["mean"] is None:
        return "overflow"
    spread = "" if row["std"] is None else f" ± {row['std']:.2f}"
    return f"{row['mean']:.2f}{spread}{'*' if row['mean'] > row['true_mi'] else ' '}"
