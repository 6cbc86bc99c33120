"""Jointly Gaussian pairs: mutual information and its pointwise form from the covariance."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.synthetic.maps import CUBIC, reparametrize
from mi_estimators.synthetic.task import Task

_CZYZ = "Czyż et al. 2023 (arXiv 2306.11078)"
_POOLE = "Poole et al. 2019 (arXiv 1905.06922), sec. 3"


def gaussian_mutual_information(covariance: np.ndarray, dim_x: int) -> float:
    r"""I(x; y) of jointly Gaussian (x, y): ``(log det S_x + log det S_y - log det S) / 2`` in nats, by float64 slogdet.

    Args:
        covariance: of (x, y) stacked, x first, ``[dim_x + dim_y, dim_x + dim_y]``; symmetric positive definite.
        dim_x: size of x.

    Raises:
        ValueError: the covariance is not a symmetric positive definite matrix, or ``dim_x`` leaves no x or no y.

    Source:
        Cover and Thomas, Elements of Information Theory, theorem 8.4.1.
    """
    covariance = np.asarray(covariance, dtype=np.float64)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"covariance: want a square matrix, got shape {covariance.shape}")
    if not np.isfinite(covariance).all() or not np.allclose(covariance, covariance.T):
        raise ValueError("covariance: want a finite, symmetric matrix")
    if not np.linalg.eigvalsh(covariance)[0] > 0:
        raise ValueError("covariance: want a positive definite matrix")
    if not 1 <= dim_x < covariance.shape[0]:
        raise ValueError(f"dim_x: want between 1 and {covariance.shape[0] - 1}, got {dim_x}")
    log_dets = [np.linalg.slogdet(block)[1] for block in (covariance[:dim_x, :dim_x], covariance[dim_x:, dim_x:])]
    return float(sum(log_dets) - np.linalg.slogdet(covariance)[1]) / 2


def gaussian_task(name: str, covariance: np.ndarray, dim_x: int, *, source: str = "") -> Task:
    """Zero-mean Gaussian pairs with a given covariance.

    Args:
        name: name of the task.
        covariance: of (x, y) stacked, x first; symmetric positive definite.
        dim_x: size of x.
        source: where the distribution was published.

    Raises:
        ValueError: as :func:`gaussian_mutual_information`.
    """
    mutual_information = gaussian_mutual_information(covariance, dim_x)
    sigma = torch.as_tensor(np.asarray(covariance, dtype=np.float64))
    dim = sigma.shape[0]

    # At first use: the table of named tasks holds dozens, of which a program wants one.
    @functools.cache
    def factor() -> Tensor:
        return torch.linalg.cholesky(sigma)

    @functools.cache
    def precision_gap() -> Tensor:
        # log p(z) - log p(x) - log p(y) = I - z^T (S^-1 - blockdiag(S_x^-1, S_y^-1)) z / 2
        return torch.linalg.inv(sigma) - torch.block_diag(
            torch.linalg.inv(sigma[:dim_x, :dim_x]), torch.linalg.inv(sigma[dim_x:, dim_x:])
        )

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        z = torch.randn(n, dim, generator=generator, dtype=torch.float64) @ factor().T
        return z[:, :dim_x], z[:, dim_x:]

    def log_density_ratio(x: Tensor, y: Tensor) -> Tensor:
        z = torch.cat([x, y], dim=1)
        return mutual_information - ((z @ precision_gap().to(z.device)) * z).sum(dim=1) / 2

    return Task(name, dim_x, dim - dim_x, mutual_information, sampler, log_density_ratio, source=source)


def _pairwise(name: str, noise: np.ndarray, rho: np.ndarray, dim_x: int, dim_y: int, source: str) -> Task:
    """Standard normal x and y; ``y_k = rho_k x_k + noise_k e_k`` for the first coordinates, the rest independent.

    Nothing is of size dim x dim, so a thousand dimensions cost what they hold. ``noise^2 = 1 - rho^2`` comes as an
    argument of its own because it loses its digits when a correlation is close to 1.
    """
    k = len(rho)
    slope, spread = torch.from_numpy(rho), torch.from_numpy(noise)
    mutual_information = -float(np.log(noise).sum()) + 0.0  # not -0.0

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        z = torch.randn(n, dim_x + dim_y, generator=generator, dtype=torch.float64)
        x, y = z[:, :dim_x], z[:, dim_x:]
        return x, torch.cat([slope * x[:, :k] + spread * y[:, :k], y[:, k:]], dim=1)

    def log_density_ratio(x: Tensor, y: Tensor) -> Tensor:
        error = (y[:, :k] - slope.to(x.device) * x[:, :k]) / spread.to(x.device)
        return mutual_information + (y[:, :k].square() - error.square()).sum(dim=1) / 2

    return Task(name, dim_x, dim_y, mutual_information, sampler, log_density_ratio, source=source)


def correlated_gaussian(
    dim: int, mutual_information: float | None = None, *, rho: float | None = None, cubic: bool = False
) -> Task:
    """Standard normal x and y of the same size, correlated coordinate by coordinate: corr(x_i, y_i) = rho.

    ``mutual_information = -dim/2 log(1 - rho^2)``, so ``rho = sqrt(1 - exp(-2 mutual_information / dim))``.

    Args:
        dim: size of x and of y.
        mutual_information: in nats, >= 0; give it or ``rho``.
        rho: correlation, inside (-1, 1).
        cubic: cube every coordinate of y; the mutual information does not change.

    Raises:
        TypeError: neither or both of ``mutual_information`` and ``rho`` are given.
        ValueError: one of the arguments is out of range.

    Source:
        Poole et al. 2019 (arXiv 1905.06922), sec. 3; Belghazi et al. 2018 (arXiv 1801.04062), sec. 4.1.
    """
    _checks.count("dim", dim)
    if (mutual_information is None) == (rho is None):
        raise TypeError("mutual_information, rho: want exactly one of the two")
    if mutual_information is not None:
        if not 0 <= mutual_information < math.inf:
            raise ValueError(f"mutual_information: want a finite value >= 0, got {mutual_information!r}")
        # expm1: 1 - exp(-2 I / d) loses every digit for a small I in a large dimension.
        rho = math.sqrt(-math.expm1(-2 * mutual_information / dim))
        label, noise = f"{mutual_information:g}nats", math.exp(-mutual_information / dim)
        if rho == 1:
            raise ValueError(
                f"mutual_information: want less in {dim} dimensions, got {mutual_information!r}: rho rounds to 1"
            )
    else:
        if rho is None or not -1 < rho < 1:
            raise ValueError(f"rho: want a value inside (-1, 1), got {rho!r}")
        label, noise = f"{rho:g}", math.sqrt((1 - rho) * (1 + rho))
    task = _pairwise(f"gaussian-{dim}-{label}", np.full(dim, noise), np.full(dim, rho), dim, dim, _POOLE)
    return reparametrize(task, f"cubic-{task.name}", y=CUBIC) if cubic else task


def dense_covariance(dim: int, correlation: float) -> np.ndarray:
    """Unit variances, and the same correlation between every two coordinates; ``[dim, dim]``."""
    return np.full((dim, dim), float(correlation)) + (1 - correlation) * np.eye(dim)


def sparse_covariance(dim_x: int, dim_y: int, n_interacting: int, strength: float) -> np.ndarray:
    """Unit variances, and ``corr(x_k, y_k) = strength^2 / (1 + strength^2)`` for the first coordinates only.

    Raises:
        ValueError: ``n_interacting`` exceeds a dimension.
    """
    rho = _interacting(dim_x, dim_y, n_interacting, strength)
    covariance = np.eye(dim_x + dim_y)
    pairs = np.arange(n_interacting)
    covariance[pairs, dim_x + pairs] = covariance[dim_x + pairs, pairs] = rho
    return covariance


def _interacting(dim_x: int, dim_y: int, n_interacting: int, strength: float) -> np.ndarray:
    if not 0 <= n_interacting <= min(dim_x, dim_y):
        raise ValueError(f"n_interacting: want between 0 and {min(dim_x, dim_y)}, got {n_interacting}")
    return np.full(n_interacting, strength**2 / (1 + strength**2))


def dense_gaussian(dim_x: int, dim_y: int, correlation: float) -> Task:
    """Unit-variance Gaussian in which every two coordinates, of x and of y alike, have the same correlation.

    Raises:
        ValueError: the correlation does not give a positive definite matrix.

    Source:
        Czyż et al. 2023 (arXiv 2306.11078), "multinormal, dense".
    """
    covariance = dense_covariance(dim_x + dim_y, correlation)
    name = f"multinormal-dense-{dim_x}-{dim_y}-{correlation}"
    return gaussian_task(name, covariance, dim_x, source=f"{_CZYZ}, dense multinormal")


def sparse_gaussian(dim_x: int, dim_y: int, n_interacting: int, strength: float) -> Task:
    """Unit-variance Gaussian in which (x_k, y_k) correlate for the first coordinates only, the rest being independent.

    Each interacting pair shares a latent of weight ``strength`` beside unit noise: its correlation is
    ``strength^2 / (1 + strength^2)``. With two interacting pairs this is the benchmark's "2-pair".

    Raises:
        ValueError: ``n_interacting`` exceeds a dimension.

    Source:
        Czyż et al. 2023 (arXiv 2306.11078), "multinormal, sparse".
    """
    rho = _interacting(dim_x, dim_y, n_interacting, strength)
    name = f"multinormal-sparse-{dim_x}-{dim_y}-{n_interacting}-{strength}"
    return _pairwise(name, np.sqrt((1 - rho) * (1 + rho)), rho, dim_x, dim_y, f"{_CZYZ}, sparse and 2-pair multinormal")


def bivariate_gaussian(correlation: float) -> Task:
    """One standard normal x and one y with the given correlation.

    Source:
        Czyż et al. 2023 (arXiv 2306.11078), "1v1-normal".
    """
    covariance = np.array([[1.0, correlation], [correlation, 1.0]])
    return gaussian_task(f"1v1-normal-{correlation}", covariance, 1, source=f"{_CZYZ}, bivariate normal")
