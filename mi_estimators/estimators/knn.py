"""Nearest-neighbour estimate of mutual information."""

from __future__ import annotations

import math

import numpy as np

from mi_estimators.estimators.result import Measurement


def estimate(
    x: np.ndarray, y: np.ndarray, *, seed: int = 0, k: int = 3, standardize: bool = True, workers: int = 1
) -> Measurement:
    """Kraskov-Stögbauer-Grassberger estimate, first algorithm, maximum norm, in nats.

    ``psi(k) + psi(n) - mean_i(psi(n_x(i) + 1) + psi(n_y(i) + 1))``, where n_x(i) counts the other x closer to x_i than
    the distance from (x_i, y_i) to its k-th neighbour in the joint space. Underestimates when the mutual information or
    the dimension is large. The standard error takes the terms of the mean as independent.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]`` float64.
        seed: not used: the estimate is deterministic.
        k: number of neighbours, from 1 to n - 1.
        standardize: scale every coordinate to unit variance first, so that units do not matter.
        workers: threads of the tree queries; -1 takes all.

    Raises:
        TypeError: ``k`` is not an integer.
        ValueError: ``k`` is out of range; or repeated pairs leave a k-th neighbour at distance zero.

    Source:
        Kraskov, Stögbauer and Grassberger 2004 (arXiv cond-mat/0305641), eq. 8.
    """
    # Not at the top: SciPy's modules would take most of the time of `import mi_estimators`.
    from scipy.spatial import cKDTree
    from scipy.special import digamma

    n = x.shape[0]
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k: want an integer, got {k!r}")
    if not 1 <= k < n:
        raise ValueError(f"k: want between 1 and n - 1 = {n - 1}, got {k}")
    if standardize:
        x, y = x / x.std(axis=0), y / y.std(axis=0)
    joint = np.concatenate([x, y], axis=1)
    radius = cKDTree(joint).query(joint, k=[k + 1], p=math.inf, workers=workers)[0][:, 0]
    if not radius.min() > 0:
        raise ValueError(
            f"x, y: want continuous data, got {int((radius == 0).sum())} pairs repeated more than k = {k} times"
        )
    # Strictly closer than the k-th neighbour; the count then holds the point itself, which is the + 1 of the formula.
    inside = np.nextafter(radius, 0)
    counts = [
        cKDTree(side).query_ball_point(side, inside, p=math.inf, workers=workers, return_length=True) for side in (x, y)
    ]
    terms = digamma(k) + digamma(n) - digamma(counts[0]) - digamma(counts[1])
    return Measurement(float(terms.mean()), std=float(terms.std(ddof=1)) / math.sqrt(n))
