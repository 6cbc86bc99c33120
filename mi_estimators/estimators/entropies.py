"""Mutual information as H(x) + H(y) - H(x, y), of entropies from nearest neighbours or kernel densities."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from mi_estimators.entropy import kde_log_density
from mi_estimators.estimators.ksg import check_neighbours, check_no_repeats
from mi_estimators.estimators.neighbours import distances_to, nearest
from mi_estimators.estimators.result import Measurement
from mi_estimators.estimators.scaling import scaled


def whitened(name: str, points: np.ndarray) -> tuple[np.ndarray, float]:
    """Linear coordinates in which the sample has zero mean and unit covariance.

    Args:
        name: of the points, for an error.
        points: ``[n, d]`` float64.

    Returns:
        The coordinates ``[n, d]``, and log abs det of the map back from them, by which their entropy is the smaller.

    Raises:
        ValueError: there are no more points than columns, or a column is a linear function of the others.
    """
    n, dim = points.shape
    if n <= dim:
        raise ValueError(f"{name}: want more pairs than its {dim} columns, got {n}")
    centred = points - points.mean(axis=0)
    scale = np.linalg.norm(centred, axis=0) / math.sqrt(n)
    if not scale.min() > 0:
        raise ValueError(f"{name}: column {int(scale.argmin())} is constant")
    basis, triangle = np.linalg.qr(centred / scale)
    diagonal = np.abs(np.diag(triangle)) / math.sqrt(n)
    if not diagonal.min() > 1e-10:
        raise ValueError(f"{name}: want linearly independent columns, got a column that the others determine")
    return basis * math.sqrt(n), float(np.log(diagonal).sum() + np.log(scale).sum())


def _three_entropies(
    x: np.ndarray, y: np.ndarray, surprise: Callable[[np.ndarray], np.ndarray], whiten: bool
) -> Measurement:
    """H(x) + H(y) - H(x, y) from -log density of each point under each of the three densities."""
    terms = np.zeros(len(x))
    parts = (("x", x, 1), ("y", y, 1), ("x, y", np.concatenate([x, y], axis=1), -1))
    for name, points, sign in parts:
        if whiten:
            coordinates, log_det = whitened(name, points)
        else:  # the scales of x and of y appear once with either sign, and drop out
            coordinates, log_det = scaled(name, points, np.arange(len(points)), "zscore"), 0.0
        terms += sign * (surprise(coordinates) + log_det)
    return Measurement(float(terms.mean()), std=float(terms.std(ddof=1)) / math.sqrt(len(x)))


def kozachenko_leonenko(x: np.ndarray, y: np.ndarray, *, seed: int = 0, k: int = 3, whiten: bool = True) -> Measurement:
    r"""H(x) + H(y) - H(x, y) of Kozachenko-Leonenko entropies in the maximum norm, in nats.

    .. math::
        \hat H = \psi(n) - \psi(k) + d \log 2 + \frac dn \sum_i \log \varepsilon_i

    with the distance :math:`\varepsilon_i` from point i to its k-th nearest other one. Each of the three is taken in
    its own linear coordinates of unit covariance, which changes nothing but the error: a linear dependence, however
    strong, is then accounted for by determinants, and only what differs from it is left to the neighbours. Errors of
    the three entropies do not cancel as in ksg: without whitening that is the better one of the two; with it, this is
    better for nearly normal data and strong dependence. The standard error takes the terms of the mean as independent.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]`` float64.
        seed: not used: the estimate is deterministic.
        k: number of neighbours, from 1 to n - 1.
        whiten: linear coordinates of unit covariance for each entropy; otherwise unit variance.

    Raises:
        TypeError: ``k`` is not an integer.
        ValueError: ``k`` out of range; columns that are linearly dependent, or no more pairs than columns, with
            ``whiten``; points repeated more than k times.

    Source:
        Kozachenko and Leonenko 1987; Kraskov, Stögbauer and Grassberger 2004 (arXiv cond-mat/0305641), eq. 20.
    """
    from scipy.special import digamma

    n = len(x)
    check_neighbours(k, n)

    def surprise(points: np.ndarray) -> np.ndarray:
        radius = distances_to(points, nearest(points, k))[:, -1]
        check_no_repeats(radius, k)
        return digamma(n) - digamma(k) + points.shape[1] * np.log(2 * radius)

    return _three_entropies(x, y, surprise, whiten)


def kde(
    x: np.ndarray,
    y: np.ndarray,
    *,
    seed: int = 0,
    kernel: str = "gaussian",
    bandwidth: str | float = "loo",
    whiten: bool = True,
) -> Measurement:
    r"""H(x) + H(y) - H(x, y) of leave-one-out kernel density entropies, in nats.

    .. math::
        \hat H = -\frac1n \sum_i \log \frac{1}{n - 1} \sum_{j \ne i} k_h(x_i - x_j)

    in coordinates of unit covariance, where the bandwidth is chosen (of the maximal likelihood of points left out, by
    default) for each of the three densities. Smoothing makes each entropy too large, the joint one most: the estimate
    is too small, by more the more coordinates there are. The standard error takes the terms of the mean as independent.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]`` float64.
        seed: not used: the estimate is deterministic.
        kernel: radial kernel of :data:`mi_estimators.entropy.KERNELS`.
        bandwidth: rule of :data:`mi_estimators.entropy.RULES`, or a number, in the coordinates of unit covariance.
        whiten: linear coordinates of unit covariance for each entropy; otherwise unit variance.

    Raises:
        ValueError: an unknown kernel or rule; columns that are linearly dependent, or no more pairs than columns, with
            ``whiten``.

    Source:
        Joe 1989; Moon, Rajagopalan and Lall 1995 (kernel estimates of mutual information).
    """

    def surprise(points: np.ndarray) -> np.ndarray:
        return -kde_log_density(torch.from_numpy(points), kernel=kernel, bandwidth=bandwidth).numpy()

    return _three_entropies(x, y, surprise, whiten)
