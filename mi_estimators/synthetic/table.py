"""The named tasks, built at the first look-up, and the selections of them that the benchmark runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from mi_estimators import _checks
from mi_estimators.image_sets import DATASETS
from mi_estimators.synthetic import maps
from mi_estimators.synthetic.autoregression import coupled_autoregression
from mi_estimators.synthetic.closed_form import additive_noise, gamma_exponential
from mi_estimators.synthetic.discrete import (
    discrete_uniform,
    gaussian_and_atoms,
    gaussian_classes,
    symmetric_channel,
    zero_inflated_poisson,
)
from mi_estimators.synthetic.gaussian import bivariate_gaussian, correlated_gaussian, dense_gaussian, sparse_gaussian
from mi_estimators.synthetic.images import blob_images, image_channel, rectangle_images
from mi_estimators.synthetic.maps import Reparametrization, reparametrize
from mi_estimators.synthetic.mixture import (
    concentric,
    cross,
    galaxy,
    letters,
    mixed_orientations,
    sparse_with_inliers,
    waves,
)
from mi_estimators.synthetic.student import dense_student, identity_student, sparse_student
from mi_estimators.synthetic.task import Task


class UnknownTask(KeyError, ValueError):
    """There is no task of this name; the message suggests the nearest."""

    def __str__(self) -> str:
        return str(self.args[0])


class TaskTable(Mapping[str, Task]):
    """Tasks by name. A task is built when it is first asked for and then kept."""

    def __init__(self, builders: Mapping[str, Callable[[], Task]]) -> None:
        self._builders = dict(builders)
        self._built: dict[str, Task] = {}

    def __getitem__(self, name: str) -> Task:
        if name not in self._built:
            if name not in self._builders:
                hint = _checks.nearest(name, self._builders)
                raise UnknownTask(f"task: want a name in TASKS, got {name!r}{hint}")
            self._built[name] = self._builders[name]()
        return self._built[name]

    def __contains__(self, name: object) -> bool:
        return name in self._builders

    def __iter__(self) -> Iterator[str]:
        return iter(self._builders)

    def __len__(self) -> int:
        return len(self._builders)

    def __repr__(self) -> str:
        return f"TaskTable({len(self)} tasks: {', '.join(self)})"


_BUILDERS: dict[str, Callable[[], Task]] = {
    "1v1-normal-0.75": partial(bivariate_gaussian, 0.75),
    **{f"multinormal-dense-{d}-{d}-0.5": partial(dense_gaussian, d, d, 0.5) for d in (2, 3, 5, 25, 50)},
    **{f"multinormal-sparse-{d}-{d}-2-2.0": partial(sparse_gaussian, d, d, 2, 2.0) for d in (2, 3, 5, 25)},
    **{
        f"gaussian-{d}-{nats}nats": partial(correlated_gaussian, d, float(nats))
        for d, nats in ((5, 5), (20, 2), (20, 5), (20, 10), (20, 20), (100, 5), (100, 20), (1000, 20), (1000, 30))
    },
    **{
        f"student-identity-{d}-{d}-{df}": partial(identity_student, d, d, df)
        for d, df in ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (5, 2), (5, 3))
    },
    "student-dense-2-2-3-0.5": partial(dense_student, 2, 2, 3),
    "student-dense-5-5-3-0.5": partial(dense_student, 5, 5, 3),
    "student-sparse-5-5-3-2-2.0": partial(sparse_student, 5, 5, 3),
    "1v1-additive-0.1": partial(additive_noise, 0.1),
    "1v1-additive-0.75": partial(additive_noise, 0.75),
    **{f"gamma_exponential-{a}": partial(gamma_exponential, a) for a in (0.3, 1.0)},
    **{f"log_gamma_exponential-{a}": partial(gamma_exponential, a, log=True) for a in (0.1, 0.3)},
    "log_gamma_exponential-5-0.3": partial(gamma_exponential, 0.3, 5, log=True),
    "1v1-X-0.9": cross,
    "1v1-AI": letters,
    "2v1-galaxy-0.5-3.0": galaxy,
    "2v1-waves-12-5.0-3.0": waves,
    **{
        f"{d}v1-concentric_gaussians-{m}": partial(concentric, d, m)
        for d, m in ((3, 3), (3, 5), (5, 5), (25, 5), (3, 10), (5, 10))
    },
    **{
        f"mult-sparse-w-inliers-{d}-{d}-2-2.0-{a}": partial(sparse_with_inliers, d, d, inlier_fraction=a)
        for d in (5, 25)
        for a in (0.2, 0.5)
    },
    "mixture-5-5-3": partial(mixed_orientations, 5),
    **{f"image-blob-16-{nats}nats": partial(blob_images, 16, float(nats)) for nats in (1, 3)},
    **{f"image-rectangle-16-{nats}nats": partial(rectangle_images, 16, float(nats)) for nats in (2, 5)},
    "autoregression-joint-0.5-0.5-1.0": lambda: _transfer()[0],
    "autoregression-own-0.5-0.5-1.0": lambda: _transfer()[1],
    "symmetric_channel-2-0.1": partial(symmetric_channel, 2, 0.1),
    "symmetric_channel-10-0.2": partial(symmetric_channel, 10, 0.2),
    "discrete_uniform-5": partial(discrete_uniform, 5),
    "discrete_uniform-5-5-5": partial(discrete_uniform, 5, 5, 5),
    "zero_inflated_poisson-0.0": partial(zero_inflated_poisson, 0.0),
    "zero_inflated_poisson-0.15": partial(zero_inflated_poisson, 0.15),
    "gaussian_classes-3-2.0": partial(gaussian_classes, 3, 2.0),
    "gaussian_and_atoms-0.9-0.1": gaussian_and_atoms,
}


def _transfer() -> tuple[Task, Task]:
    return coupled_autoregression((0.5, 0.5), 1.0).transfer_tasks("autoregression-*-0.5-0.5-1.0", [0], [1])


_MAPS: dict[str, tuple[Reparametrization, Reparametrization]] = {
    "asinh": (maps.ASINH, maps.ASINH),
    "cubic": (maps.IDENTITY, maps.CUBIC),
    "half_cube": (maps.HALF_CUBE, maps.HALF_CUBE),
    "normal_cdf": (maps.NORMAL_CDF, maps.NORMAL_CDF),
    "swissroll_x": (maps.SWISS_ROLL, maps.IDENTITY),
    "wiggly": (maps.WIGGLY_X, maps.WIGGLY_Y),
}

_MAPPED: tuple[tuple[str, tuple[str, ...]], ...] = (
    *(
        (
            prefix,
            (
                "1v1-normal-0.75",
                *(f"multinormal-dense-{d}-{d}-0.5" for d in (2, 5, 25)),
                *(f"multinormal-sparse-{d}-{d}-2-2.0" for d in (2, 3, 5, 25)),
                "gaussian-20-2nats",
                "gaussian-20-10nats",
            ),
        )
        for prefix in ("cubic", "half_cube", "asinh")
    ),
    ("cubic", ("gaussian-100-20nats", "gaussian-1000-20nats")),
    ("asinh", tuple(f"student-identity-{d}-{d}-{df}" for d, df in ((1, 1), (2, 1), (3, 2), (5, 2)))),
    ("normal_cdf", ("1v1-normal-0.75", *(f"multinormal-sparse-{d}-{d}-2-2.0" for d in (3, 5, 25)))),
    ("wiggly", ("1v1-normal-0.75",)),
    ("swissroll_x", ("normal_cdf-1v1-normal-0.75",)),
)
"""Prefix in :data:`_MAPS`, and the names it stands before."""


def _mapped(name: str, prefix: str, base: str) -> Task:
    x, y = _MAPS[prefix]
    return reparametrize(TASKS[base], name, x=x, y=y)


def _bimodal() -> Task:
    x, y = maps.bimodal(0.3, 0.0, 5.0), maps.bimodal(0.5, -1.0, 3.0)
    return reparametrize(TASKS["1v1-normal-0.75"], "1v1-bimodal-0.75", x=x, y=y)


def _spiral(name: str, base: str) -> Task:
    task = TASKS[base]
    return reparametrize(task, name, x=maps.spiral((0, 1), 1 / task.dim_x), y=maps.spiral((1, 2), 1 / task.dim_y))


_BUILDERS["1v1-bimodal-0.75"] = _bimodal
_BUILDERS |= {
    f"{prefix}-{base}": partial(_mapped, f"{prefix}-{base}", prefix, base)
    for prefix, bases in _MAPPED
    for base in bases
}
_BUILDERS |= {
    f"spiral-{base}": partial(_spiral, f"spiral-{base}", base)
    for d in (3, 5, 25)
    for base in (f"multinormal-sparse-{d}-{d}-2-2.0", f"normal_cdf-multinormal-sparse-{d}-{d}-2-2.0")
}

TASKS: Mapping[str, Task] = TaskTable(_BUILDERS)
"""Every named task that needs no data files."""


def load_task(name: str, data_dir: str | Path | None = None) -> Task:
    """A task of :data:`TASKS`, or one of images of an image set.

    Args:
        name: a name in :data:`TASKS`; or ``SET-channel-SOURCES-ERROR``, such as ``mnist-channel-10-0.1``: pictures of
            zeros and ones, that many pairs of them in x and y, the classes differing with that probability (see
            :func:`image_channel`).
        data_dir: folder of the set's files; only for images of a set that has files.

    Raises:
        FileNotFoundError: a file is not in ``data_dir``.
        ValueError: there is no task of this name, or as :func:`image_channel`.
    """
    match = re.fullmatch(rf"({'|'.join(DATASETS)})-channel-(\d+)-(\d*\.?\d+)", name)
    if match is None:
        return TASKS[name]
    return image_channel(match[1], float(match[3]), data_dir=data_dir, n_sources=int(match[2]))


PROFILES: dict[str, tuple[str, ...]] = {
    "quick": (
        "1v1-normal-0.75",
        "1v1-bimodal-0.75",
        "asinh-student-identity-1-1-1",
        "multinormal-dense-5-5-0.5",
        "multinormal-sparse-5-5-2-2.0",
        "gaussian-20-2nats",
    ),
    "standard": (
        "1v1-normal-0.75",
        "1v1-bimodal-0.75",
        "1v1-additive-0.1",
        "1v1-X-0.9",
        "1v1-AI",
        "half_cube-1v1-normal-0.75",
        "wiggly-1v1-normal-0.75",
        "swissroll_x-normal_cdf-1v1-normal-0.75",
        "asinh-student-identity-1-1-1",
        "log_gamma_exponential-0.3",
        "2v1-galaxy-0.5-3.0",
        "5v1-concentric_gaussians-5",
        "multinormal-dense-5-5-0.5",
        "multinormal-dense-25-25-0.5",
        "multinormal-sparse-5-5-2-2.0",
        "multinormal-sparse-25-25-2-2.0",
        "normal_cdf-multinormal-sparse-5-5-2-2.0",
        "spiral-multinormal-sparse-5-5-2-2.0",
        "mult-sparse-w-inliers-5-5-2-2.0-0.2",
        "student-identity-5-5-2",
        "student-dense-5-5-3-0.5",
        "gaussian-20-2nats",
        "gaussian-20-10nats",
        "cubic-gaussian-20-10nats",
        "gaussian-100-20nats",
    ),
    "full": tuple(TASKS),
}
"""Names of tasks by profile of the benchmark: a few minutes, an evening, everything there is.

``"quick"`` and ``"standard"`` hold continuous tasks; ``"full"`` also the discrete and mixed ones, which
``Task.kind_x`` and ``Task.kind_y`` mark.
"""
