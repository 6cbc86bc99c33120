"""The cells of the benchmark: one estimate each, of a task by an estimator from n pairs."""

from __future__ import annotations

import functools
import itertools
import math
import re
import time
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mi_estimators._parallel import single_threaded
from mi_estimators.bounds import BOUNDS
from mi_estimators.estimators import ESTIMATORS, estimate_mi
from mi_estimators.synthetic import Task
from mi_estimators.tightness.profiles import BenchmarkConfig
from mi_estimators.tightness.tasks import find_task
from mi_estimators.variational import variational


@dataclass(frozen=True)
class Cell:
    """One place in the grid.

    Attributes:
        task: name of the task.
        estimator: name of the estimator.
        critic: name of the critic, None where none is trained.
        batch_size: pairs per training step, None where nothing is trained.
        n: number of pairs.
        seed: of the pairs and of the estimator.
    """

    task: str
    estimator: str
    critic: str | None
    batch_size: int | None
    n: int
    seed: int

    @property
    def name(self) -> str:
        """A name for its file."""
        parts = [self.task, self.estimator, self.critic, f"k{self.batch_size}" if self.batch_size else None]
        text = "--".join(part for part in parts if part)
        return re.sub(r"[^\w.\-]", "_", f"{text}--n{self.n}--s{self.seed}")


@functools.cache
def _trains_a_critic(estimator: str) -> bool:
    return estimator in BOUNDS and hasattr(variational(estimator, 2, 2, generator=torch.Generator()), "critic")


def takes(estimator: str, task: Task) -> bool:
    """Whether an estimator takes the kind of variables that a task has."""
    kinds, kind = {task.kind_x, task.kind_y}, ESTIMATORS[estimator].kind
    return kind == "mixed" or kinds == {kind}


def cells(config: BenchmarkConfig) -> list[Cell]:
    """The grid of a benchmark, the costliest estimators first, so that no long one is left for the end."""
    grid = []
    for estimator in sorted(config.estimators, key=lambda name: name not in BOUNDS):
        for task, seed in itertools.product(config.tasks, range(config.seed, config.seed + config.seeds)):
            if not takes(estimator, find_task(task, config.data_dir)):
                continue
            further = config.convergence_n if task in config.convergence_tasks else ()
            critics = config.critics if _trains_a_critic(estimator) else (None,)
            batch_sizes = config.batch_sizes if estimator in BOUNDS else (None,)
            for n, critic, batch in itertools.product(
                sorted({*config.n, *further}, reverse=True), critics, batch_sizes
            ):
                grid.append(Cell(task, estimator, critic, batch, n, seed))
    return grid


def _variable(values: Tensor, kind: str) -> Tensor:
    """Symbols as the integers that they are."""
    return values.round().long() if kind == "discrete" else values


def _shapes(task: Task) -> dict[str, tuple[int, ...]]:
    """What the critic of images wants to know."""
    if not (task.shape_x and task.shape_y):
        raise ValueError(f"critic: 'conv' scores images, and the variables of {task.name!r} are none")
    return {"shape_x": task.shape_x, "shape_y": task.shape_y}


def run_cell(cell: Cell, settings: dict[str, Any], data_dir: str | None = None) -> dict[str, Any]:
    """Estimate on fresh pairs, on one thread.

    Args:
        cell: what to estimate.
        settings: :attr:`BenchmarkConfig.of_a_cell`.
        data_dir: folder of the files of image sets, for tasks that need it.

    Returns:
        A dictionary ready for JSON: the cell's fields, ``truth``, ``truth_error`` (its standard error, 0 where it
        is exact), ``value``, ``std``, ``cap``, ``margin`` (three
        standard errors: 3/1.96 times half the width of the 95 % interval), ``kind`` of bound, ``seconds``, and
        ``error``, which says why there is no value, or is None.
    """
    task = find_task(cell.task, data_dir)
    options: dict[str, Any] = {}
    if cell.batch_size is not None:
        options = {**settings, "batch_size": cell.batch_size}
    if cell.critic is not None:
        options["critic"] = cell.critic
    result: dict[str, Any] = {
        **asdict(cell),
        "truth": task.mutual_information,
        "truth_error": task.standard_error,
        "kind": BOUNDS[cell.estimator].kind if cell.estimator in BOUNDS else "neither",
        "value": None,
        "std": None,
        "margin": None,
        "cap": None,
        "error": None,
    }
    x, y = task.sample(cell.n, seed=cell.seed, dtype=torch.float64)
    x, y = _variable(x, task.kind_x), _variable(y, task.kind_y)
    start = time.perf_counter()
    with single_threaded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if cell.critic == "conv":
                options["critic_options"] = _shapes(task)
            # Another seed than that of the pairs: one stream must not serve for both.
            estimate = estimate_mi(x, y, estimator=cell.estimator, seed=cell.seed + 1_000_000, **options)
        except (ValueError, ArithmeticError, RuntimeError) as error:
            result["error"] = f"{type(error).__name__}: {error}"
        else:
            result |= {"std": estimate.std, "cap": estimate.cap}
            if math.isfinite(estimate.value):
                result["value"] = estimate.value
            else:
                result["error"] = f"the estimate is {estimate.value}"
            if estimate.interval is not None:
                result["margin"] = 3 / 1.96 * (estimate.interval[1] - estimate.interval[0]) / 2
            result |= {
                key: None for key in ("std", "margin") if result[key] is not None and not math.isfinite(result[key])
            }
    result["seconds"] = time.perf_counter() - start
    return result
