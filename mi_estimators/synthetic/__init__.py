"""Synthetic tasks with known mutual information: :data:`TASKS` by name, and the functions that make more.

Names follow the benchmark of Czyż et al. 2023 (arXiv 2306.11078) where the distribution is the same.
"""

from __future__ import annotations

from mi_estimators.synthetic.gaussian import (
    bivariate_gaussian,
    correlated_gaussian,
    dense_gaussian,
    gaussian_mutual_information,
    gaussian_task,
    sparse_gaussian,
)
from mi_estimators.synthetic.task import ASINH, CUBIC, HALF_CUBE, IDENTITY, Reparametrization, Task, reparametrize

_BASE = (
    bivariate_gaussian(0.75),
    dense_gaussian(2, 2, 0.5),
    dense_gaussian(5, 5, 0.5),
    dense_gaussian(25, 25, 0.5),
    sparse_gaussian(2, 2, 2, 2.0),
    sparse_gaussian(5, 5, 2, 2.0),
    sparse_gaussian(25, 25, 2, 2.0),
    correlated_gaussian(20, 2.0),
    correlated_gaussian(20, 10.0),
)

TASKS: dict[str, Task] = {
    task.name: task
    for base in _BASE
    for task in (
        base,
        reparametrize(base, f"cubic-{base.name}", y=CUBIC),
        reparametrize(base, f"half_cube-{base.name}", x=HALF_CUBE, y=HALF_CUBE),
        reparametrize(base, f"asinh-{base.name}", x=ASINH, y=ASINH),
    )
}
"""Every named task."""

__all__ = [
    "ASINH",
    "CUBIC",
    "HALF_CUBE",
    "IDENTITY",
    "TASKS",
    "Reparametrization",
    "Task",
    "bivariate_gaussian",
    "correlated_gaussian",
    "dense_gaussian",
    "gaussian_mutual_information",
    "gaussian_task",
    "reparametrize",
    "sparse_gaussian",
]
