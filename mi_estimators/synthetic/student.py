"""Student-t pairs: dependent even where the dispersion is the identity, through the scale that they share."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.synthetic import gaussian
from mi_estimators.synthetic.task import Task
from mi_estimators.synthetic.variates import gamma

_SOURCE = "Czyż et al. 2023 (arXiv 2306.11078), Student-t; Arellano-Valle et al. 2013 (Scand. J. Stat. 40), sec. 4"


def student_mutual_information(dispersion: np.ndarray, dim_x: int, df: float) -> float:
    r"""I(x; y) of a multivariate Student-t (x, y): that of the Gaussian with the same dispersion, and a correction.

    ``I = I_Gauss + h(dim_x) + h(dim_y) - h(dim_x + dim_y)``, where h(k) is the differential entropy of k dimensions
    with unit dispersion, ``h(k) = log Gamma(v/2) - log Gamma((v+k)/2) + k/2 log(v pi) + (v+k)/2 (psi((v+k)/2) -
    psi(v/2))``, v the degrees of freedom. The correction depends on the dimensions and v, and vanishes as v grows.

    Args:
        dispersion: of (x, y) stacked, x first, ``[dim_x + dim_y, dim_x + dim_y]``; symmetric positive definite.
        dim_x: size of x.
        df: degrees of freedom, > 0.

    Raises:
        ValueError: as :func:`gaussian_mutual_information`, or ``df`` is not a finite number > 0.

    Source:
        Arellano-Valle, Contreras-Reyes and Genton 2013 (Scand. J. Stat. 40), eq. 7; Czyż et al. 2023 (arXiv
        2306.11078), appendix.
    """
    _checks.positive("df", df)
    normal = gaussian.gaussian_mutual_information(dispersion, dim_x)
    return normal + _correction(dim_x, len(dispersion) - dim_x, df)


def _correction(dim_x: int, dim_y: int, df: float) -> float:
    def entropy(k: int) -> float:
        half, whole = torch.tensor([df / 2, (df + k) / 2], dtype=torch.float64)
        digammas = torch.digamma(whole) - torch.digamma(half)
        # k/2 log(v pi) adds up to nothing over the three.
        return float(torch.lgamma(half) - torch.lgamma(whole) + whole * digammas)

    return entropy(dim_x) + entropy(dim_y) - entropy(dim_x + dim_y)


def student_task(name: str, dispersion: np.ndarray, dim_x: int, df: float, *, source: str = "") -> Task:
    """Zero-mean multivariate Student-t pairs: a Gaussian vector over ``sqrt(chi^2_df / df)``, one draw for x and y.

    Args:
        name: name of the task.
        dispersion: of (x, y) stacked, x first; symmetric positive definite. Not the covariance, which is
            ``df / (df - 2)`` times this and exists for ``df > 2`` only.
        dim_x: size of x.
        df: degrees of freedom, > 0.
        source: where the distribution was published.

    Raises:
        ValueError: as :func:`student_mutual_information`.
    """
    mutual_information = student_mutual_information(dispersion, dim_x, df)
    sigma = torch.as_tensor(np.asarray(dispersion, dtype=np.float64))
    normal = gaussian.gaussian_task(name, dispersion, dim_x)
    dim, dim_y = sigma.shape[0], normal.dim_y
    precisions = [torch.linalg.inv(block) for block in (sigma, sigma[:dim_x, :dim_x], sigma[dim_x:, dim_x:])]
    halves = [(df + k) / 2 for k in (dim, dim_x, dim_y)]
    constant = normal.mutual_information + (
        math.lgamma(halves[0]) + math.lgamma(df / 2) - math.lgamma(halves[1]) - math.lgamma(halves[2])
    )

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = normal.sampler(n, generator)
        scale = torch.sqrt(df / (2 * gamma(df / 2, n, generator)))[:, None]
        return scale * x, scale * y

    def log_density_ratio(x: Tensor, y: Tensor) -> Tensor:
        joint, first, second = (
            half * torch.log1p(((z @ precision.to(z.device)) * z).sum(dim=1) / df)
            for z, precision, half in zip((torch.cat([x, y], dim=1), x, y), precisions, halves, strict=True)
        )
        return constant - joint + first + second

    return Task(name, dim_x, dim_y, mutual_information, sampler, log_density_ratio, source=source)


def identity_student(dim_x: int, dim_y: int, df: float) -> Task:
    """Uncorrelated Student-t coordinates: every correlation is zero, and the mutual information is not.

    Source:
        Czyż et al. 2023 (arXiv 2306.11078), "student, identity".
    """
    name = f"student-identity-{dim_x}-{dim_y}-{df:g}"
    return student_task(name, np.eye(dim_x + dim_y), dim_x, df, source=_SOURCE)


def dense_student(dim_x: int, dim_y: int, df: float, off_diagonal: float = 0.5) -> Task:
    """Student-t with the dispersion of :func:`dense_gaussian`.

    Source:
        Czyż et al. 2023 (arXiv 2306.11078), "student, dense".
    """
    name = f"student-dense-{dim_x}-{dim_y}-{df:g}-{off_diagonal}"
    return student_task(name, gaussian.dense_covariance(dim_x + dim_y, off_diagonal), dim_x, df, source=_SOURCE)


def sparse_student(dim_x: int, dim_y: int, df: float, n_interacting: int = 2, strength: float = 2.0) -> Task:
    """Student-t with the dispersion of :func:`sparse_gaussian`.

    Source:
        Czyż et al. 2023 (arXiv 2306.11078), "student, sparse".
    """
    name = f"student-sparse-{dim_x}-{dim_y}-{df:g}-{n_interacting}-{strength}"
    covariance = gaussian.sparse_covariance(dim_x, dim_y, n_interacting, strength)
    return student_task(name, covariance, dim_x, df, source=_SOURCE)
