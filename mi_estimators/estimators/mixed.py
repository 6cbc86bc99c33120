"""Mutual information where one variable is discrete, or where either has both a density and atoms."""

from __future__ import annotations

import math

import numpy as np

from mi_estimators.estimators.discrete import labels
from mi_estimators.estimators.ksg import check_neighbours
from mi_estimators.estimators.neighbours import count_within, distances_to, nearest
from mi_estimators.estimators.result import Measurement
from mi_estimators.estimators.scaling import scaled


def _standardized(name: str, values: np.ndarray) -> np.ndarray:
    return scaled(name, values, np.arange(len(values)), "zscore")


def _mean(terms: np.ndarray) -> Measurement:
    return Measurement(float(terms.mean()), std=float(terms.std(ddof=1)) / math.sqrt(len(terms)))


def ross(
    x: np.ndarray,
    y: np.ndarray,
    *,
    seed: int = 0,
    k: int = 3,
    discrete_x: bool = False,
    discrete_y: bool = True,
) -> Measurement:
    r"""Ross's estimate between a continuous variable and a discrete one, in nats.

    .. math::
        \hat I = \psi(n) + \frac1n \sum_i \bigl(\psi(k_i) - \psi(n_{c(i)}) - \psi(m_i)\bigr)

    with :math:`n_c` pairs of category c, :math:`k_i = \min(k, n_{c(i)} - 1)`, and :math:`m_i` other pairs, of any
    category, whose continuous variable is no further than the :math:`k_i`-th nearest of the same category. Pairs whose
    category was seen once are left out. Distances are in the maximum norm after scaling to unit variance. The standard
    error takes the terms of the mean as independent.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]``.
        seed: not used: the estimate is deterministic.
        k: number of neighbours, from 1 to n - 1.
        discrete_x: whether x is the discrete variable, each distinct row of it a category.
        discrete_y: whether y is.

    Raises:
        TypeError: ``k`` is not an integer.
        ValueError: not exactly one discrete variable; ``k`` out of range; no category seen twice; repeated values of
            the continuous variable.

    Source:
        Ross 2014 (PLoS ONE 9(2) e87357), eq. 2.
    """
    from scipy.special import digamma

    if discrete_x == discrete_y:
        wanted = "'discrete'" if discrete_x else "'ksg', or 'mixture' for a variable with atoms"
        kind = "discrete" if discrete_x else "continuous"
        raise ValueError(f"x, y: want one discrete and one continuous variable, got two {kind} ones: see {wanted}")
    categories, points = (labels(x), _standardized("y", y)) if discrete_x else (labels(y), _standardized("x", x))
    check_neighbours(k, len(points))
    sizes = np.bincount(categories)[categories]
    points, categories, sizes = (array[sizes > 1] for array in (points, categories, sizes))
    if not len(points):
        raise ValueError(f"{'x' if discrete_x else 'y'}: want categories seen more than once, got none")
    radius = np.empty(len(points))
    for category in np.unique(categories):
        own = np.flatnonzero(categories == category)
        members = points[own]
        radius[own] = distances_to(members, nearest(members, min(k, len(own) - 1)))[:, -1]
    if not radius.min() > 0:
        name = "y" if discrete_x else "x"
        raise ValueError(
            f"{name}: want a continuous variable, got {int((radius == 0).sum())} values repeated more than k = {k} "
            "times within a category; add noise to rounded values, or use the estimator 'mixture'"
        )
    # All within the radius, without the point itself: those strictly within, and the neighbour that sets it.
    within = count_within(points, radius, closed=True)
    n = len(points)
    return _mean(digamma(n) + digamma(np.minimum(k, sizes - 1)) - digamma(sizes) - digamma(within))


def mixture(x: np.ndarray, y: np.ndarray, *, seed: int = 0, k: int = 3) -> Measurement:
    r"""Estimate of Gao et al. for discrete, continuous and mixed variables alike, in nats.

    .. math::
        \hat I = \psi(n) + \frac1n \sum_i \bigl(\psi(k_i) - \psi(n_{x,i}) - \psi(n_{y,i})\bigr)

    with the distance :math:`\rho_i` from a pair to its k-th nearest other one in the maximum norm, after scaling to
    unit variance. Where :math:`\rho_i > 0`, :math:`k_i = k` and :math:`n_{x,i}`, :math:`n_{y,i}` count the pairs closer
    than that in x, in y, this one included; where :math:`\rho_i = 0` all three count the pairs that are equal to this
    one. So between continuous variables it is the first algorithm of ksg, and between discrete ones nearly the plug-in
    estimate. The standard error takes the terms of the mean as independent.

    Args:
        x: ``[n, dim_x]`` float64; categories as numbers that differ by more than neighbours in other coordinates do.
        y: ``[n, dim_y]`` float64.
        seed: not used: the estimate is deterministic.
        k: number of neighbours, from 1 to n - 1.

    Raises:
        TypeError: ``k`` is not an integer.
        ValueError: ``k`` out of range.

    Source:
        Gao, Kannan, Oh and Viswanath 2017 (arXiv 1709.06212), algorithm 1, with digamma functions as in the authors'
        program: the logarithms of the paper are the same for large counts only.
    """
    from scipy.special import digamma

    n = len(x)
    check_neighbours(k, n)
    x, y = _standardized("x", x), _standardized("y", y)
    joint = np.concatenate([x, y], axis=1)
    radius = distances_to(joint, nearest(joint, k))[:, -1]
    equal = [np.bincount(rows)[rows] for rows in (labels(joint), labels(x), labels(y))]
    near = [np.full(n, k), *(count_within(side, radius, closed=False) + 1 for side in (x, y))]
    counts = [np.where(radius > 0, *pair) for pair in zip(near, equal, strict=True)]
    return _mean(digamma(n) + digamma(counts[0]) - digamma(counts[1]) - digamma(counts[2]))
