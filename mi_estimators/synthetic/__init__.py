"""Synthetic tasks with known mutual information: :data:`TASKS` by name, and the functions that make more.

Names follow the benchmark of Czyż et al. 2023 (arXiv 2306.11078) where the distribution is the same.
"""

from __future__ import annotations

from mi_estimators.synthetic.autoregression import VectorAutoregression, coupled_autoregression, windows
from mi_estimators.synthetic.closed_form import additive_noise, gamma_exponential
from mi_estimators.synthetic.discrete import (
    discrete_task,
    discrete_uniform,
    gaussian_and_atoms,
    gaussian_classes,
    symmetric_channel,
    zero_inflated_poisson,
)
from mi_estimators.synthetic.gaussian import (
    bivariate_gaussian,
    correlated_gaussian,
    dense_gaussian,
    gaussian_mutual_information,
    gaussian_task,
    sparse_gaussian,
)
from mi_estimators.synthetic.images import blob_images, class_images, image_channel, rectangle_images
from mi_estimators.synthetic.maps import (
    ASINH,
    CUBIC,
    HALF_CUBE,
    IDENTITY,
    LOG,
    NORMAL_CDF,
    SWISS_ROLL,
    WIGGLY_X,
    WIGGLY_Y,
    Reparametrization,
    bimodal,
    concatenate,
    reparametrize,
    spiral,
)
from mi_estimators.synthetic.mixture import (
    concentric,
    cross,
    galaxy,
    gaussian_mixture,
    letters,
    mixed_orientations,
    sparse_with_inliers,
    waves,
)
from mi_estimators.synthetic.student import (
    dense_student,
    identity_student,
    sparse_student,
    student_mutual_information,
    student_task,
)
from mi_estimators.synthetic.table import PROFILES, TASKS, TaskTable, UnknownTask, load_task
from mi_estimators.synthetic.task import Task

__all__ = [
    "ASINH",
    "CUBIC",
    "HALF_CUBE",
    "IDENTITY",
    "LOG",
    "NORMAL_CDF",
    "PROFILES",
    "SWISS_ROLL",
    "TASKS",
    "WIGGLY_X",
    "WIGGLY_Y",
    "Reparametrization",
    "Task",
    "TaskTable",
    "UnknownTask",
    "VectorAutoregression",
    "additive_noise",
    "bimodal",
    "bivariate_gaussian",
    "blob_images",
    "class_images",
    "concatenate",
    "concentric",
    "correlated_gaussian",
    "coupled_autoregression",
    "cross",
    "dense_gaussian",
    "dense_student",
    "discrete_task",
    "discrete_uniform",
    "galaxy",
    "gamma_exponential",
    "gaussian_and_atoms",
    "gaussian_classes",
    "gaussian_mixture",
    "gaussian_mutual_information",
    "gaussian_task",
    "identity_student",
    "image_channel",
    "letters",
    "load_task",
    "mixed_orientations",
    "rectangle_images",
    "reparametrize",
    "sparse_gaussian",
    "sparse_student",
    "sparse_with_inliers",
    "spiral",
    "student_mutual_information",
    "student_task",
    "symmetric_channel",
    "waves",
    "windows",
    "zero_inflated_poisson",
]
