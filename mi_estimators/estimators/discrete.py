"""Mutual information of categories, and of continuous variables that are cut into them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mi_estimators import _checks
from mi_estimators.entropy.discrete import CORRECTIONS, discrete_entropy
from mi_estimators.estimators.result import Measurement

SPACINGS = ("quantile", "equal")


def labels(values: np.ndarray) -> np.ndarray:
    """Number of the distinct row that each row is, ``[n]``."""
    return np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)


def _of_labels(a: np.ndarray, b: np.ndarray, correction: str | None) -> Measurement:
    """H(a) + H(b) - H(a, b) of numbered categories."""
    if correction is not None:
        _checks.choice("correction", correction, CORRECTIONS)
    n = len(a)
    joint = np.unique(a * (b.max() + 1) + b, return_inverse=True)[1]
    counts = [np.bincount(side) for side in (a, b, joint)]
    sizes = (len(counts[0]), len(counts[1]), len(counts[0]) * len(counts[1]))
    entropies = [
        float(discrete_entropy(counts=side, correction=correction, num_classes=size))
        for side, size in zip(counts, sizes, strict=True)
    ]
    pointwise = math.log(n) + np.log(counts[2][joint]) - np.log(counts[0][a]) - np.log(counts[1][b])
    # Of independent variables the estimate is a chi-squared variable over 2n, which the spread of the terms misses.
    freedom = (sizes[0] - 1) * (sizes[1] - 1)
    variance = float(pointwise.var()) / n + min(freedom, n) / (2 * n * n)
    return Measurement(entropies[0] + entropies[1] - entropies[2], std=math.sqrt(variance))


def estimate(x: np.ndarray, y: np.ndarray, *, seed: int = 0, correction: str | None = "miller_madow") -> Measurement:
    r"""H(x) + H(y) - H(x, y) of entropies from the counts of categories, in nats.

    The plug-in value exceeds the truth by about :math:`(K_{xy} - K_x - K_y + 1) / 2n` for :math:`K` categories seen,
    which is what Miller and Madow subtract. The standard error is the asymptotic one of the plug-in value, with the
    variance under independence added.

    Args:
        x: ``[n, dim_x]``; each distinct row is a category.
        y: ``[n, dim_y]``, likewise.
        seed: not used: the estimate is deterministic.
        correction: of each entropy, see :func:`mi_estimators.entropy.discrete_entropy`: ``None``, ``"miller_madow"``,
            ``"chao_shen"``, or ``"nsb"``, with as many categories of (x, y) as the seen ones of x and of y allow.

    Raises:
        ValueError: an unknown correction.

    Source:
        Miller 1955; Roulston 1999 (standard error); those of :func:`mi_estimators.entropy.discrete_entropy`.
    """
    return _of_labels(labels(x), labels(y), correction)


def _bins(column: np.ndarray, count: int, spacing: str) -> np.ndarray:
    """Number of the bin of each value."""
    if spacing == "equal":
        edges = np.linspace(column.min(), column.max(), count + 1)[1:-1]
    else:
        edges = np.quantile(column, np.arange(1, count) / count)
    return np.searchsorted(edges, column, side="right")


def histogram(
    x: np.ndarray,
    y: np.ndarray,
    *,
    seed: int = 0,
    bins: int | Sequence[int] | None = None,
    spacing: str = "quantile",
    correction: str | None = "miller_madow",
) -> Measurement:
    r"""Mutual information of the bins that the coordinates fall into, in nats.

    Cutting can only lose information, so but for the error of the counts the estimate is a lower bound; with bins of
    equal counts it does not change under increasing maps of single coordinates. For one coordinate on either side, or
    two; the number of cells grows as a power of their number.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]`` float64.
        seed: not used: the estimate is deterministic.
        bins: how many for every coordinate, or for each of x and then of y; None for such a number that five pairs come
            to a cell, but at least two.
        spacing: ``"quantile"`` for equal counts, ``"equal"`` for equal widths.
        correction: as for :func:`estimate`.

    Raises:
        TypeError: numbers of bins that are not integers.
        ValueError: fewer than two bins, or not one number for each coordinate; without ``bins``, so many coordinates
            that two bins of each make more cells than there are pairs; an unknown spacing or correction.

    Source:
        Moddemeijer 1989; Miller 1955 (correction).
    """
    _checks.choice("spacing", spacing, SPACINGS)
    columns = [*x.T, *y.T]
    if bins is None:
        bins = max(2, int((len(x) / 5) ** (1 / len(columns))))
        if bins ** len(columns) > len(x):
            raise ValueError(
                f"x, y: want at most log2(n) = {math.log2(len(x)):.1f} columns together for a histogram, got "
                f"{len(columns)}: two bins of each make more cells than the {len(x)} pairs, and every pair would have "
                "one of its own"
            )
    counts = [bins] * len(columns) if isinstance(bins, (int, float)) else list(bins)
    for count in counts:
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
            raise TypeError(f"bins: want integers, got {bins!r}")
    if len(counts) != len(columns) or min(counts) < 2:
        raise ValueError(f"bins: want an integer >= 2, or {len(columns)} of them, one a coordinate, got {bins!r}")
    cells = np.stack([_bins(*pair, spacing) for pair in zip(columns, counts, strict=True)], axis=1)
    return _of_labels(labels(cells[:, : x.shape[1]]), labels(cells[:, x.shape[1] :]), correction)
