"""Correction of the KSG estimate for neighbourhoods that are flat: strongly dependent variables."""

from __future__ import annotations

import functools
import math

import numpy as np

from mi_estimators.estimators import ksg
from mi_estimators.estimators.neighbours import nearest
from mi_estimators.estimators.result import Measurement
from mi_estimators.estimators.scaling import scaled

_TRIALS = 20_000  # neighbourhoods that the threshold is calibrated on
_FAILURE = 5e-3  # of the threshold: share of evenly filled boxes that are corrected
_ROWS = 4096  # neighbourhoods held at a time


def _log_volume_ratio(offsets: np.ndarray, dim_x: int) -> tuple[np.ndarray, float]:
    """Log volume of the box along the principal axes of each neighbourhood, over that of the box along x and y.

    Args:
        offsets: from each point to its neighbours, ``[n, k, dim_x + dim_y]``.
        dim_x: size of x.

    Returns:
        The ratios ``[n]``, and the shortest side along a principal axis.
    """
    reach = np.abs(offsets).max(axis=1)
    sides = [reach[:, :dim_x], reach[:, dim_x:]]
    box = sum(side.shape[1] * np.log(side.max(axis=1)) for side in sides)
    # In units of the box, or a flat neighbourhood of tiny extent would be lost to rounding.
    scale = reach.max(axis=1)
    unit = offsets / scale[:, None, None]
    axes = np.linalg.eigh(unit.transpose(0, 2, 1) @ unit)[1]
    turned = np.abs(unit @ axes).max(axis=1) * scale[:, None]
    with np.errstate(divide="ignore"):
        return np.log(turned).sum(axis=1) - box, float(turned.min())


@functools.lru_cache(maxsize=64)
def even_boxes(k: int, dim_x: int, dim_y: int) -> tuple[float, float]:
    """Log volume ratio of k points spread evenly over a box: its mean, and what it falls below with chance 0.5 %."""
    generator = np.random.default_rng(0)
    ratios = [
        _log_volume_ratio(generator.uniform(-1, 1, (min(_ROWS, _TRIALS - start), k, dim_x + dim_y)), dim_x)[0]
        for start in range(0, _TRIALS, _ROWS)
    ]
    joined = np.concatenate(ratios)
    return float(joined.mean()), float(np.quantile(joined, _FAILURE))


def estimate(
    x: np.ndarray, y: np.ndarray, *, seed: int = 0, k: int | None = None, alpha: float | None = None
) -> Measurement:
    r"""KSG estimate with local nonuniformity correction, in nats.

    .. math::
        \hat I = \hat I_2 - \frac1n \sum_{i:\, \bar V_i < \alpha V_i} \Bigl(\log \frac{\bar V_i}{V_i} - c\Bigr)

    The second algorithm of :func:`mi_estimators.estimators.ksg.estimate` takes the density as constant over the box
    around a pair that holds its k neighbours, of volume :math:`V_i`. Where y nearly is a function of x, the neighbours
    lie close to a line or surface through that box, and the estimate cannot exceed about log n however strong the
    dependence. :math:`\bar V_i` is the volume of the box along the principal axes of the neighbours, and takes the
    place of :math:`V_i` where it is smaller by a factor :math:`\alpha` that one in 200 evenly filled boxes reaches. The
    mean :math:`c` of the logarithm over evenly filled boxes is taken off, which the paper does not do: without that the
    estimate depends on k much more.

    For one or two coordinates on either side. The principal axes of k neighbours in many dimensions are a matter of
    chance and of the slope of the density: the estimate then exceeds the truth, also for weak dependence. The standard
    error takes the terms of the mean as independent.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]`` float64.
        seed: not used: the estimate is deterministic.
        k: number of neighbours, more than dim_x + dim_y; None for 5 or twice that, whichever is more.
        alpha: threshold in (0, 1); None calibrates it for k and the dimensions, on evenly filled boxes.

    Raises:
        TypeError: ``k`` is not an integer.
        ValueError: ``k`` or ``alpha`` out of range; repeated pairs; y that locally is a linear function of x, to
            rounding, for which the mutual information is infinite.

    Source:
        Gao, Ver Steeg and Galstyan 2015, "Efficient Estimation of Mutual Information for Strongly Dependent Variables"
        (arXiv 1411.2003), algorithm 1.
    """
    n, dim_x = x.shape
    dim = dim_x + y.shape[1]
    if k is None:
        k = max(5, 2 * dim)
    ksg.check_neighbours(k, n)
    if k <= dim:
        raise ValueError(f"k: want more than the number of coordinates of (x, y), {dim}, got {k}")
    if alpha is not None and not 0 < alpha < 1:
        raise ValueError(f"alpha: want a number between 0 and 1, got {alpha!r}")
    mean, log_alpha = even_boxes(k, dim_x, dim - dim_x)
    if alpha is not None:
        log_alpha = math.log(alpha)
    x, y = (scaled(name, side, np.arange(n), "zscore") for name, side in (("x", x), ("y", y)))
    plain = ksg.pointwise(x, y, k, algorithm=2)
    joint = np.concatenate([x, y], axis=1)
    indices = nearest(joint, k)
    parts = [
        _log_volume_ratio(joint[indices[start : start + _ROWS]] - joint[start : start + _ROWS, None], dim_x)
        for start in range(0, n, _ROWS)
    ]
    if not min(side for _, side in parts) > 8 * np.finfo(np.float64).eps * np.abs(joint).max():
        raise ValueError(
            "y: want data that locally are no linear function of x, for which the mutual information is infinite"
        )
    ratio = np.concatenate([part for part, _ in parts])
    correction = np.where(ratio < log_alpha, mean - ratio, 0.0)
    terms = plain + correction
    return Measurement(float(terms.mean()), std=float(terms.std(ddof=1)) / math.sqrt(n))
