"""Mutual information of continuous variables from nearest neighbours in the joint space."""

from __future__ import annotations

import math

import numpy as np
import torch

from mi_estimators import _checks
from mi_estimators.estimators.neighbours import count_within, distances_to, nearest
from mi_estimators.estimators.result import Measurement
from mi_estimators.estimators.scaling import SCALINGS, scaled

METRICS = ("max", "euclidean")
ALGORITHMS = (1, 2)

_DISTANCES = 1 << 21  # between pairs, held at a time


def check_neighbours(k: int, n: int) -> None:
    """Check for a number of neighbours that n points have."""
    _checks.count("k", k, 1, n - 1, most_is="n - 1")


def check_no_repeats(radius: np.ndarray, k: int) -> None:
    """Check that no k-th neighbour lies at distance zero."""
    if not radius.min() > 0:
        raise ValueError(
            f"x, y: want continuous data, got {int((radius == 0).sum())} pairs repeated more than k = {k} times; take "
            "a larger k, add noise to rounded values, or use the estimator 'mixture', 'mixed' or 'discrete'"
        )


def _counts_in_boxes(x: np.ndarray, y: np.ndarray, k: int, algorithm: int) -> list[np.ndarray]:
    """Numbers of other points within the radius in x and in y, in the maximum norm."""
    indices = nearest(np.concatenate([x, y], axis=1), k)
    across = [distances_to(side, indices) for side in (x, y)]
    if algorithm == 1:
        joint = np.maximum(*across).max(axis=1)
        radii = [joint, joint]
    else:
        radii = [distances.max(axis=1) for distances in across]
        joint = np.maximum(*radii)
    check_no_repeats(joint, k)
    return [count_within(side, radius, closed=algorithm == 2) for side, radius in zip((x, y), radii, strict=True)]


def _counts_in_balls(x: np.ndarray, y: np.ndarray, k: int, algorithm: int) -> list[np.ndarray]:
    """The same with the Euclidean distance in x and in y, from distances to all points by blocks of rows."""
    n = len(x)
    sides = [torch.from_numpy(side) for side in (x, y)]
    counts = np.empty((2, n), dtype=np.int64)
    joint = np.empty(n)
    size = max(1, _DISTANCES // n)
    for rows in (slice(start, min(start + size, n)) for start in range(0, n, size)):
        # Not by products, which lose the distance of points that nearly coincide.
        distances = [torch.cdist(side[rows], side, compute_mode="donot_use_mm_for_euclid_dist") for side in sides]
        for side in distances:
            side[range(len(side)), range(rows.start, rows.stop)] = math.inf
        indices = torch.maximum(*distances).topk(k, dim=1, largest=False).indices
        across = [side.gather(1, indices).amax(dim=1, keepdim=True) for side in distances]
        furthest = torch.maximum(*across)
        joint[rows] = furthest[:, 0]
        for count, side, radius in zip(counts, distances, across, strict=True):
            count[rows] = ((side < furthest) if algorithm == 1 else (side <= radius)).sum(dim=1)
    check_no_repeats(joint, k)
    return list(counts)


def pointwise(x: np.ndarray, y: np.ndarray, k: int, algorithm: int, metric: str = "max") -> np.ndarray:
    """The terms of the mean that :func:`estimate` is, ``[n]``."""
    # Not at the top: SciPy's modules would take most of the time of `import mi_estimators`.
    from scipy.special import digamma

    # In one dimension the two distances are one.
    one_dimensional = x.shape[1] == y.shape[1] == 1
    counting = _counts_in_boxes if metric == "max" or one_dimensional else _counts_in_balls
    count_x, count_y = counting(x, y, k, algorithm)
    n = len(x)
    psi = np.concatenate([[-np.inf], digamma(np.arange(1, n + 1))])
    if algorithm == 1:
        return psi[k] + psi[n] - psi[count_x + 1] - psi[count_y + 1]
    return psi[k] - 1 / k + psi[n] - psi[count_x] - psi[count_y]


def estimate(
    x: np.ndarray,
    y: np.ndarray,
    *,
    seed: int = 0,
    algorithm: int = 1,
    k: int = 3,
    metric: str = "max",
    standardize: str | None = "zscore",
) -> Measurement:
    r"""Estimate of Kraskov, Stögbauer and Grassberger, in nats.

    With the k nearest neighbours of each pair in the larger of the distances in x and in y,

    .. math::
        \hat I_1 = \psi(k) + \psi(n) - \frac1n \sum_i \bigl(\psi(n_{x,i} + 1) + \psi(n_{y,i} + 1)\bigr), \qquad
        \hat I_2 = \psi(k) - \frac1k + \psi(n) - \frac1n \sum_i \bigl(\psi(n_{x,i}) + \psi(n_{y,i})\bigr)

    where for the first algorithm :math:`n_{x,i}` counts the other x closer to :math:`x_i` than the k-th neighbour of
    the pair is to that pair, and for the second those no further than the furthest of the k neighbours is in x alone.
    The errors of the three entropies nearly cancel. What remains is negative, and grows with the mutual information
    and with the dimension, once the density is not constant over the box that holds k neighbours. A larger k lowers
    the variance and raises the bias. The standard error takes the terms of the mean as independent, and so is up to a
    third too small.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]`` float64.
        seed: not used: the estimate is deterministic.
        algorithm: 1 or 2.
        k: number of neighbours, from 1 to n - 1.
        metric: of x and of y: ``"max"``, which is fast, or ``"euclidean"``, with which the estimate does not change
            when x or y is rotated, but which compares all pairs.
        standardize: of every coordinate first: ``"zscore"`` for unit variance; ``"rank"`` for normal scores, with which
            the estimate does not change under increasing maps of single coordinates, and heavy tails do no harm; or
            None.

    Raises:
        TypeError: ``k`` is not an integer.
        ValueError: ``k`` is out of range; an unknown algorithm, metric or scaling; or repeated pairs leave a k-th
            neighbour at distance zero.

    Source:
        Kraskov, Stögbauer and Grassberger 2004 (arXiv cond-mat/0305641), eqs. 8 and 9.
    """
    n = len(x)
    check_neighbours(k, n)
    _checks.choice("metric", metric, METRICS)
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm: want 1 or 2, got {algorithm!r}")
    if standardize is not None:
        _checks.choice("standardize", standardize, SCALINGS)
        x, y = (scaled(name, side, np.arange(n), standardize) for name, side in (("x", x), ("y", y)))
    terms = pointwise(x, y, k, algorithm, metric)
    return Measurement(float(terms.mean()), std=float(terms.std(ddof=1)) / math.sqrt(n))
