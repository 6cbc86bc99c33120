"""Mutual information as H(x) + H(y) - H(x, y), of entropies from nearest neighbours or kernel densities."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch

from mi_estimators import _checks
from mi_estimators.entropy import kde_log_density
from mi_estimators.estimators.ksg import check_neighbours, check_no_repeats
from mi_estimators.estimators.neighbours import distances_to, nearest
from mi_estimators.estimators.result import Measurement
from mi_estimators.estimators.scaling import scaled

MOST_COLUMNS = 11
"""Of x and y together for weighted neighbours: from 12 on, weights of hundreds multiply the noise."""


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


@functools.lru_cache(maxsize=64)
def neighbour_weights(k: int, dim: int) -> np.ndarray:
    r"""Weights of the first k neighbours under which the leading terms of the bias of an entropy cancel.

    The entropy from the j-th neighbour has a bias of terms :math:`c_l\, \Gamma(j + 2l/d) / \Gamma(j)\, n^{-2l/d}`, and
    those with :math:`l \le d/4` fall no faster than the error of the mean. The weights add up to 1, are orthogonal to
    these terms and, among all such, have the least sum of squares; only neighbours
    :math:`\lfloor k/d \rfloor, \lfloor 2k/d \rfloor, \dots, k` have one.

    Args:
        k: number of neighbours, more than ``dim // 4``.
        dim: of the points.

    Returns:
        ``[k]``, read-only.

    Source:
        Berrett, Samworth and Yuan 2019 (arXiv 1606.00304), the set of weights :math:`\mathcal W^{(k)}`.
    """
    from scipy.special import gammaln

    places = np.unique(np.arange(1, dim + 1) * k // dim)
    places = places[places > 0]
    terms = [np.exp(gammaln(places + 2 * order / dim) - gammaln(places)) for order in range(1, dim // 4 + 1)]
    system = np.stack([np.ones(len(places)), *(term / term.max() for term in terms)])
    weights = np.zeros(k)
    weights[places - 1] = np.linalg.lstsq(system, np.eye(len(system))[0], rcond=None)[0]
    weights.flags.writeable = False
    return weights


def weighted_kozachenko_leonenko(
    x: np.ndarray, y: np.ndarray, *, seed: int = 0, k: int | None = None, whiten: bool = True
) -> Measurement:
    r"""H(x) + H(y) - H(x, y) of weighted Kozachenko-Leonenko entropies in the maximum norm, in nats.

    .. math::
        \hat H = \psi(n) + d \log 2 + \frac1n \sum_i \sum_{j=1}^k w_j \bigl(d \log \varepsilon_{ij} - \psi(j)\bigr)

    with the distance :math:`\varepsilon_{ij}` from point i to its j-th nearest other one, and the weights of
    :func:`neighbour_weights`: from four dimensions on they take off the leading terms of the bias that grows with the
    dimension, at the price of variance. Coordinates as in :func:`kozachenko_leonenko`. For curved dependence in four to
    eleven columns together. The standard error takes the terms of the mean as independent.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]`` float64.
        seed: not used: the estimate is deterministic.
        k: number of neighbours, from ``(dim_x + dim_y) // 4 + 1`` to n - 1; None for four for each column but at least
            20, or n - 1 where there are fewer.
        whiten: linear coordinates of unit covariance for each entropy; otherwise unit variance.

    Raises:
        TypeError: ``k`` is not an integer.
        ValueError: ``k`` out of range; more than 11 columns together; columns that are linearly dependent, or no more
            pairs than columns, with ``whiten``; points that coincide.

    Source:
        Berrett, Samworth and Yuan 2019, "Efficient multivariate entropy estimation via k-nearest neighbour distances"
        (arXiv 1606.00304); there with Euclidean balls, whose volumes have the same powers.
    """
    from scipy.special import digamma

    n, columns = len(x), x.shape[1] + y.shape[1]
    if columns > MOST_COLUMNS:
        raise ValueError(f"x, y: want at most {MOST_COLUMNS} columns together, got {columns}: see 'kl3h' or 'latent'")
    if k is None:
        k = min(max(20, 4 * columns), n - 1)
    _checks.count("k", k, columns // 4 + 1, n - 1, most_is="n - 1")

    def surprise(points: np.ndarray) -> np.ndarray:
        dim, weights = points.shape[1], neighbour_weights(k, points.shape[1])
        used = np.flatnonzero(weights)
        radius = distances_to(points, nearest(points, k)[:, used])
        check_no_repeats(radius[:, 0], int(used[0]) + 1)
        terms = dim * np.log(2 * radius) - digamma(used + 1)
        return digamma(n) + terms @ weights[used]

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
