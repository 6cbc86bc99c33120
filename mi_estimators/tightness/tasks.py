"""Tasks of the benchmark by name: those of :data:`mi_estimators.synthetic.TASKS`, and pictures of an image set."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor

from mi_estimators.synthetic import TASKS, Task, load_task

IMAGE_TASKS = ("mnist-channel-1-0.1", "mnist-channel-2-0.02")
"""What a profile runs as well where there is a folder of data."""

_LOOKED_AT, _RARE = 2000, 0.1
"""Draws that decide which pixels are left out, and the share of them below which a pixel that varies is rare."""


@functools.cache
def find_task(name: str, data_dir: str | None = None) -> Task:
    """A task by its name, kept once it is made.

    Pixels that are the same in nine pictures of ten are left out, for an estimator may see some pairs only and refuse a
    column that is constant there. The pictures must differ without them, so that nothing is lost.

    Args:
        name: as :func:`mi_estimators.synthetic.load_task`.
        data_dir: folder of the files of image sets.

    Raises:
        FileNotFoundError: a file is not in ``data_dir``.
        ValueError: there is no task of this name, ``data_dir`` is missing, a file is damaged, or pictures are the same
            without their rare pixels.
    """
    if name in TASKS:
        return TASKS[name]
    task = load_task(name, None if name.startswith("digits-") else data_dir)  # these come with scikit-learn
    x, y = task.sample(_LOOKED_AT, seed=0)
    keep_x, keep_y = _common(x, "x", name), _common(y, "y", name)

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = task.sampler(n, generator)
        return x[:, keep_x], y[:, keep_y]

    return replace(task, dim_x=len(keep_x), dim_y=len(keep_y), sampler=sampler, shape_x=(), shape_y=())


def _common(pictures: Tensor, variable: str, name: str) -> Tensor:
    """Indices of the pixels that vary in enough pictures."""
    usual = pictures.median(dim=0).values
    keep = torch.nonzero((pictures != usual).float().mean(dim=0) >= _RARE)[:, 0]
    if len(pictures[:, keep].unique(dim=0)) < len(pictures.unique(dim=0)):
        raise ValueError(f"tasks: pictures of {variable} in {name!r} are the same without their rare pixels")
    return keep
