"""Entropy from a histogram, in one or a few dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.entropy.discrete import miller_madow, plug_in

BIN_RULES = ("fd", "scott", "knuth")

_LARGEST_GRID = 2**62  # cells that an int64 can number


def _cells(unit: np.ndarray, bins: Sequence[int]) -> np.ndarray:
    """How many points lie in each cell that has any; ``unit`` holds the points scaled to [0, 1]."""
    if math.prod(bins) > _LARGEST_GRID:
        raise ValueError(f"bins: want fewer cells than 2^62, got {' x '.join(map(str, bins))}")
    index = np.zeros(len(unit), dtype=np.int64)
    for column, count in zip(unit.T, bins, strict=True):
        index = index * count + np.minimum((column * count).astype(np.int64), count - 1)
    if math.prod(bins) <= 4 * len(unit):  # counting is faster than sorting, but wants a place for every cell
        occupied = np.bincount(index)
        return occupied[occupied > 0].astype(np.float64)
    return np.unique(index, return_counts=True)[1].astype(np.float64)


def _by_width(x: np.ndarray, rule: str) -> list[int]:
    """Numbers of bins from the width that suits normal data of this spread."""
    n, dim = x.shape
    if rule == "scott":
        spread = (24 * math.sqrt(math.pi)) ** (1 / 3) * x.std(axis=0)
    else:
        upper, lower = np.percentile(x, [75, 25], axis=0)
        spread = 2 * (upper - lower)
        if not (spread > 0).all():
            dims = np.flatnonzero(spread <= 0).tolist()
            raise ValueError(
                f"x: want an interquartile range above 0 for bins 'fd', got none in dimensions {dims}; see 'scott'"
            )
    width = spread * n ** (-1 / (dim + 2))
    return [int(count) for count in np.ceil((x.max(axis=0) - x.min(axis=0)) / width).clip(1)]


def _knuth(x: np.ndarray, unit: np.ndarray) -> list[int]:
    """The number of bins of every dimension that is most probable given the data."""
    from scipy.special import gammaln

    n, dim = unit.shape
    # Beyond three times as many bins as suit normal data, histograms are of noise; and so are those of n cells.
    largest = max(2, min(3 * max(_by_width(x, "scott")), math.ceil(n ** (1 / dim))))
    ordered = np.sort(unit[:, 0]) if dim == 1 else None

    def log_posterior(bins: int) -> float:
        cells = bins**dim
        if ordered is None:
            occupied = _cells(unit, [bins] * dim)
        else:  # a search in sorted points visits few of them
            occupied = np.diff(np.searchsorted(ordered, np.arange(1, bins) / bins), prepend=0, append=n)
        terms = (gammaln(occupied + 0.5) - gammaln(0.5)).sum()  # an empty cell has the term 0
        return float(n * math.log(cells) + gammaln(cells / 2) - gammaln(n + cells / 2) + terms)

    return [max(range(1, largest + 1), key=log_posterior)] * dim


def histogram_entropy(x: Tensor, *, bins: int | Sequence[int] | str = "fd", correction: str | None = None) -> Tensor:
    r"""Differential entropy from a histogram of equal cells between the least and the largest value of a dimension.

    .. math::
        \hat H = -\sum_c \hat p_c \log \hat p_c + \sum_a \log w_a

    with the share :math:`\hat p_c` of cell c and the width :math:`w_a` of its side. Not differentiable. The number of
    cells grows as a power of d, so this serves one to three dimensions.

    ===============  ================================================================================================
    bins             width, or number, of bins
    ===============  ================================================================================================
    ``"fd"``         Freedman and Diaconis: :math:`w_a = 2\, \mathrm{IQR}_a\, N^{-1/(d+2)}`
    ``"scott"``      Scott: :math:`w_a = (24 \sqrt\pi)^{1/3} \sigma_a N^{-1/(d+2)}`
    ``"knuth"``      Knuth: the number M, equal for all dimensions, with the largest posterior probability
    number(s)        as given, for all dimensions or for each
    ===============  ================================================================================================

    Args:
        x: the sample.
        bins: a rule, or numbers of bins.
        correction: ``None``, or ``"miller_madow"``, which adds (cells occupied - 1) / 2N.

    Shape:
        - x: :math:`(N,)` or :math:`(N, d)`, :math:`N \ge 2`; Output: scalar, float64, on the CPU. Nats.

    Raises:
        TypeError, ValueError: not finite floating-point points, at least two; a dimension without spread; numbers of
            bins that are not integers > 0, one for each dimension; an unknown rule or correction.

    Source: Freedman and Diaconis (1981); Scott (1979), and Scott (1992), section 3.4, for d > 1; Knuth (2006),
    arXiv physics/0605197, the posterior of the number of bins; Miller (1955).
    """
    _checks.floating("x", x, ndim=(1, 2))
    if x.shape[0] < 2:
        raise ValueError(f"x: want at least 2 points, got {_checks.describe(x)}")
    if correction is not None:
        _checks.choice("correction", correction, ("miller_madow",))
    points = x.detach().to(device="cpu", dtype=torch.float64).reshape(len(x), -1).numpy()
    if not np.isfinite(points).all():
        raise ValueError(f"x: want finite values, got NaN or infinite ones in {_checks.describe(x)}")
    dim = points.shape[1]
    lowest = points.min(axis=0)
    extent = points.max(axis=0) - lowest
    if not (extent > 0).all():
        raise ValueError(f"x: want values that differ, got equal ones in dimensions {np.flatnonzero(extent <= 0)}")
    unit = (points - lowest) / extent
    if isinstance(bins, str):
        _checks.choice("bins", bins, BIN_RULES)
        counts = _knuth(points, unit) if bins == "knuth" else _by_width(points, bins)
    else:
        several = isinstance(bins, (Sequence, np.ndarray))
        counts = list(bins) if several else [bins] * dim  # type: ignore[arg-type, list-item]
        if len(counts) != dim or not all(
            isinstance(count, (int, np.integer)) and not isinstance(count, bool) and count > 0 for count in counts
        ):
            raise ValueError(f"bins: want a rule, an integer > 0 or {dim} of them, one a dimension, got {bins!r}")
        counts = [int(count) for count in counts]  # products of numpy's overflow
    occupied = _cells(unit, counts)
    entropy = plug_in(occupied) + float(np.log(extent / counts).sum())
    if correction == "miller_madow":
        entropy += miller_madow(occupied)
    return torch.tensor(entropy, dtype=torch.float64)
