"""Mixtures of Gaussians over (x, y): densities are known, so the pointwise mutual information is; its mean is recorded.

The recorded means come from quadrature where two integrals suffice, and are good to 1e-7 nats there. Elsewhere the mean
is over draws, ten million for the record and 200,000 for a mixture that is not in it, and the task states its standard
error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mi_estimators.synthetic.gaussian import sparse_covariance
from mi_estimators.synthetic.maps import Reparametrization, reparametrize, spiral
from mi_estimators.synthetic.task import Task

_SOURCE = "Czyż et al. 2023 (arXiv 2310.10240)"
_DRAWS = 200_000

_RECORDED: dict[str, tuple[float, float]] = {
    "1v1-X-0.9": (0.40844255, 0.0),
    "1v1-AI": (0.77595262, 0.0),
    "2v1-galaxy-0.5-3.0": (0.49429770, 0.0),
    "2v1-waves-12-5.0-3.0": (1.30701737, 0.0),
    "3v1-concentric_gaussians-3": (0.34876017, 0.0),
    "3v1-concentric_gaussians-5": (0.45542311, 0.0),
    "5v1-concentric_gaussians-5": (0.62739114, 0.0),
    "25v1-concentric_gaussians-5": (1.19076803, 0.0),
    "3v1-concentric_gaussians-10": (0.55991589, 0.0),
    "5v1-concentric_gaussians-10": (0.75145121, 0.0),
    "mult-sparse-w-inliers-5-5-2-2.0-0.2": (0.63575890, 0.0),
    "mult-sparse-w-inliers-25-25-2-2.0-0.2": (0.63575890, 0.0),
    "mult-sparse-w-inliers-5-5-2-2.0-0.5": (0.26962605, 0.0),
    "mult-sparse-w-inliers-25-25-2-2.0-0.5": (0.26962605, 0.0),
    "mixture-5-5-3": (1.58693, 4.4e-4),
}
"""Mutual information in nats and its standard error, by name of the task."""


def gaussian_mixture(
    name: str,
    weights: Sequence[float],
    means: np.ndarray,
    covariances: np.ndarray,
    dim_x: int,
    *,
    source: str = "",
) -> Task:
    """Pairs from a mixture of Gaussians over (x, y) stacked.

    ``I = E[log p(x, y) - log p(x) - log p(y)]``, of which the mean has no closed form.

    Args:
        name: name of the task; one that is in the record takes its mutual information from there, any other a Monte
            Carlo mean over 200,000 draws, with ``Task.standard_error``.
        weights: of the m components, > 0, with sum 1.
        means: ``[m, dim_x + dim_y]``.
        covariances: ``[m, dim_x + dim_y, dim_x + dim_y]``, positive definite.
        dim_x: size of x.
        source: where the distribution was published.

    Raises:
        ValueError: the weights are no distribution, or shapes do not fit, or a covariance is not positive definite.

    Source:
        Czyż et al. 2023 (arXiv 2310.10240), "Bend and Mix Models".
    """
    weight = torch.as_tensor(np.asarray(weights, dtype=np.float64))
    mean = torch.as_tensor(np.asarray(means, dtype=np.float64))
    covariance = torch.as_tensor(np.asarray(covariances, dtype=np.float64))
    if weight.ndim != 1 or not (weight > 0).all() or not abs(float(weight.sum()) - 1) <= 1e-9:
        raise ValueError(f"weights: want numbers > 0 with sum 1, got {weight.tolist()}")
    if mean.ndim != 2 or len(mean) != len(weight):
        raise ValueError(f"means: want shape [{len(weight)}, dim_x + dim_y], got {tuple(mean.shape)}")
    dim = mean.shape[1]
    if covariance.shape != (len(weight), dim, dim):
        raise ValueError(f"covariances: want shape {(len(weight), dim, dim)}, got {tuple(covariance.shape)}")
    if not 1 <= dim_x < dim:
        raise ValueError(f"dim_x: want between 1 and {dim - 1}, got {dim_x}")
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not (failed == 0).all() or not torch.allclose(covariance, covariance.mT):
        raise ValueError("covariances: want symmetric, positive definite matrices")
    parts = [
        _Density(weight, mean[:, block], covariance[:, block, block])
        for block in (slice(None), slice(None, dim_x), slice(dim_x, None))
    ]

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        component = torch.multinomial(weight, n, replacement=True, generator=generator)
        z = torch.randn(n, dim, generator=generator, dtype=torch.float64)
        for k in range(len(weight)):
            mine = component == k
            z[mine] = mean[k] + z[mine] @ factor[k].T
        return z[:, :dim_x], z[:, dim_x:]

    def log_density_ratio(x: Tensor, y: Tensor) -> Tensor:
        joint, first, second = parts
        return joint(torch.cat([x, y], dim=1)) - first(x) - second(y)

    task = Task(name, dim_x, dim - dim_x, math.nan, sampler, log_density_ratio, source=source)
    value, error = _RECORDED.get(name) or _monte_carlo(task)
    return dataclasses.replace(task, mutual_information=value, standard_error=error)


class _Density:
    """Log density of a mixture of Gaussians."""

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        factors = torch.linalg.cholesky(covariances)
        self.means = means
        self.whitening = torch.linalg.inv(factors)
        log_dets = factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        self.constants = weights.log() - log_dets - means.shape[1] / 2 * math.log(2 * math.pi)

    def __call__(self, z: Tensor) -> Tensor:
        logs = [
            constant - ((z - mean) @ whitening.T).square().sum(dim=1) / 2
            for constant, mean, whitening in zip(
                self.constants.to(z.device), self.means.to(z.device), self.whitening.to(z.device), strict=True
            )
        ]
        return torch.stack(logs).logsumexp(dim=0)


def _monte_carlo(task: Task) -> tuple[float, float]:
    values = task.pointwise_mutual_information(*task.sample(_DRAWS, seed=0, dtype=torch.float64))
    return float(values.mean()), float(values.std()) / math.sqrt(_DRAWS)


def cross(correlation: float = 0.9) -> Task:
    """Two Gaussians with correlations of either sign, in equal parts: an X, uncorrelated and dependent.

    Args:
        correlation: of the two components, inside (-1, 1).

    Source:
        Czyż et al. 2023 (arXiv 2310.10240), "X".
    """
    covariances = np.array([[[1, sign * correlation], [sign * correlation, 1]] for sign in (-1, 1)])
    return gaussian_mixture(f"1v1-X-{correlation}", [0.5] * 2, np.zeros((2, 2)), covariances, 1, source=f"{_SOURCE}, X")


def letters() -> Task:
    """Six Gaussians that draw the letters A and I.

    Source:
        Czyż et al. 2023 (arXiv 2310.10240), "AI".
    """
    slant = 0.95 * math.sqrt(0.04 * 0.2)
    means = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, -1.0], [-0.8, -0.2], [-1.2, 0.0], [-0.4, 0.0]])
    covariances = np.array(
        [
            [[0.01, 0], [0, 0.2]],
            [[0.05, 0], [0, 0.001]],
            [[0.05, 0], [0, 0.001]],
            [[0.03, 0], [0, 0.001]],
            [[0.04, slant], [slant, 0.2]],
            [[0.04, -slant], [-slant, 0.2]],
        ]
    )
    return gaussian_mixture("1v1-AI", [1 / 6] * 6, means, covariances, 1, source=f"{_SOURCE}, AI")


def galaxy(speed: float = 0.5, distance: float = 3.0) -> Task:
    """Two balls in three dimensions; x, their first two coordinates, is wound into a spiral.

    Args:
        speed: of the spiral, in radians per squared length.
        distance: between the centres, along each axis.

    Source:
        Czyż et al. 2023 (arXiv 2310.10240), "Galaxy".
    """
    name = f"2v1-galaxy-{speed}-{distance}"
    means = np.array([[-1.0] * 3, [1.0] * 3]) * distance / 2
    base = gaussian_mixture(name, [0.5] * 2, means, np.stack([np.eye(3)] * 2), 2, source=f"{_SOURCE}, Galaxy")
    return reparametrize(base, name, x=spiral((0, 1), speed))


def waves(n_components: int = 12, amplitude: float = 5.0, frequency: float = 3.0) -> Task:
    """Parallel stripes, bent into waves, of which y tells the height in steps of four.

    Args:
        n_components: number of stripes.
        amplitude: of the waves.
        frequency: of the waves.

    Source:
        Czyż et al. 2023 (arXiv 2310.10240), "Waves".
    """
    name = f"2v1-waves-{n_components}-{amplitude}-{frequency}"
    means = 1.5 * np.array([[k, 0, k % 4] for k in range(n_components)], dtype=np.float64)
    covariances = np.stack([np.diag([0.1, 1.0, 0.1])] * n_components)

    def bend(x: Tensor) -> Tensor:
        return torch.stack([0.1 * (x[:, 0] + amplitude * torch.sin(frequency * x[:, 1])) - 0.8, 0.5 * x[:, 1]], dim=1)

    def straighten(x: Tensor) -> Tensor:
        across = x[:, 1] / 0.5
        return torch.stack([(x[:, 0] + 0.8) / 0.1 - amplitude * torch.sin(frequency * across), across], dim=1)

    weights = [1 / n_components] * n_components
    base = gaussian_mixture(name, weights, means, covariances, 2, source=f"{_SOURCE}, Waves")
    return reparametrize(base, name, x=Reparametrization(bend, straighten))


def concentric(dim_x: int, n_components: int = 3) -> Task:
    """Isotropic Gaussians around the origin with standard deviations 1, 2, ...; y tells which one, almost surely.

    Args:
        dim_x: size of x.
        n_components: number of Gaussians.

    Source:
        Czyż et al. 2023 (arXiv 2310.10240), "Concentric".
    """
    scales = range(1, n_components + 1)
    return gaussian_mixture(
        f"{dim_x}v1-concentric_gaussians-{n_components}",
        [1 / n_components] * n_components,
        np.array([[0.0] * dim_x + [k] for k in scales]),
        np.stack([np.diag([float(k * k)] * dim_x + [1e-4]) for k in scales]),
        dim_x,
        source=f"{_SOURCE}, concentric Gaussians",
    )


def sparse_with_inliers(
    dim_x: int, dim_y: int, n_interacting: int = 2, strength: float = 2.0, inlier_fraction: float = 0.2
) -> Task:
    """The sparse Gaussian, a fraction of whose pairs are drawn from the product of the marginals instead.

    ``log p(x, y) / (p(x) p(y)) = log((1 - a) e^g + a)`` with the fraction a and the Gaussian's pointwise value g.

    Args:
        dim_x: size of x.
        dim_y: size of y.
        n_interacting: number of correlated pairs of coordinates.
        strength: of their correlation, as of :func:`sparse_gaussian`.
        inlier_fraction: inside (0, 1).

    Source:
        Czyż et al. 2023 (arXiv 2310.10240), "inliers".
    """
    if not 0 < inlier_fraction < 1:
        raise ValueError(f"inlier_fraction: want a value inside (0, 1), got {inlier_fraction!r}")
    dim = dim_x + dim_y
    return gaussian_mixture(
        f"mult-sparse-w-inliers-{dim_x}-{dim_y}-{n_interacting}-{strength}-{inlier_fraction}",
        [1 - inlier_fraction, inlier_fraction],
        np.zeros((2, dim)),
        np.stack([sparse_covariance(dim_x, dim_y, n_interacting, strength), np.eye(dim)]),
        dim_x,
        source=f"{_SOURCE}, inliers",
    )


def mixed_orientations(dim: int, n_components: int = 3) -> Task:
    """Gaussians at the corners of a simplex, each of which pairs the coordinates of x and y in an order of its own.

    Component k has ``corr(x_i, y_(i + k)) = 0.6`` (indices modulo ``dim``) and the mean ``2 e_k`` in x and in y.

    Args:
        dim: size of x and of y, at least ``n_components``.
        n_components: number of Gaussians.

    Raises:
        ValueError: ``n_components`` is not between 1 and ``dim``.
    """
    if not 1 <= n_components <= dim:
        raise ValueError(f"n_components: want between 1 and {dim}, got {n_components}")
    orders = [0.6 * np.roll(np.eye(dim), k, axis=1) for k in range(n_components)]
    return gaussian_mixture(
        f"mixture-{dim}-{dim}-{n_components}",
        [1 / n_components] * n_components,
        2 * np.hstack([np.eye(dim)[:n_components]] * 2),
        np.stack([np.block([[np.eye(dim), order], [order.T, np.eye(dim)]]) for order in orders]),
        dim,
    )
