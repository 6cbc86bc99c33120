r"""Plug-in rules for one dimension: Sheather & Jones, and the improved rule of Botev, Grotowski & Kroese.

The bandwidth of smallest asymptotic integrated squared error is :math:`(2 \sqrt\pi\, n \int f''^2)^{-1/5}`. Both rules
solve that for h with the integral estimated at a pilot bandwidth that depends on h, in O(n) on a grid: points are
shared linearly between the two nearest grid places, and sums over the pairs become sums over lags, or over the
frequencies of a discrete cosine transform.

With d > 1 columns each has a bandwidth of its own, from its own values, times the ratio of the normal-reference factors
in d and in one dimension: the one-dimensional optimum shrinks as :math:`n^{-1/5}`, too fast for a density in d.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mi_estimators.entropy.bandwidth.reference import canonical_ratio
from mi_estimators.entropy.bandwidth.sample import normal_factor, sample_of

_Array = NDArray[np.float64]
_FEWEST_BINS, _MOST_BINS = 1 << 12, 1 << 18
_BINS_PER_BANDWIDTH = 8  # fewer than so many: the grid is made finer
_COARSEST = 8  # a grid that falls short by more than this factor shows nothing of the narrowest kernel
_NEGLIGIBLE = 100.0  # e to minus this is no part of a sum


def isj(x: Tensor, *, weights: Tensor | None = None, kernel: str = "gaussian") -> float | Tensor:
    r"""The improved Sheather-Jones rule, which assumes no normality anywhere.

    The fixed point :math:`t = (2 n \sqrt\pi \, \|f''\|^2_t)^{-2/5}`, :math:`t = h^2`, in which the norm is estimated
    through a chain of seven derivatives, each at the bandwidth that is best for it; evaluated by a discrete cosine
    transform of the binned sample. What KDEpy calls ISJ. O(N), on the CPU.

    Shape:
        - x: :math:`(N, d)`, weights: :math:`(N,)`; Output: a number for d = 1, else :math:`(d,)`.

    Warns:
        RuntimeWarning: a column (few points, or few different values) without a fixed point: its normal-reference
            bandwidth is taken.

    Source: Botev, Grotowski & Kroese (2010), eq. 30 and algorithm 1.
    """
    return _per_column(x, weights, kernel, _isj)


def sj(x: Tensor, *, weights: Tensor | None = None, kernel: str = "gaussian") -> float | Tensor:
    r"""The Sheather-Jones rule, "solve the equation", as R's ``bw.SJ``.

    :math:`h = (2 \sqrt\pi\, n\, \hat S(\alpha(h)))^{-1/5}` with :math:`\hat S(\alpha)` the estimate of
    :math:`\int f''^2` at the pilot bandwidth :math:`\alpha(h) = 1.357\, (\hat S(a) / \hat T(b))^{1/7} h^{5/7}`, and
    normal references :math:`a = 1.24\, \sigma n^{-1/7}`, :math:`b = 1.23\, \sigma n^{-1/9}` for the first estimates,
    :math:`\sigma` the smaller of the standard deviation and the interquartile range over 1.349. O(N), on the CPU.

    Shape:
        - x: :math:`(N, d)`, weights: :math:`(N,)`; Output: a number for d = 1, else :math:`(d,)`.

    Warns:
        RuntimeWarning: a column (few points, or few different values) without a solution: its normal-reference
            bandwidth is taken.

    Source: Sheather & Jones (1991), eq. 12.
    """
    return _per_column(x, weights, kernel, _sj)


_Rule = Callable[[_Array, _Array, float], "float | None"]


def _per_column(x: Tensor, weights: Tensor | None, kernel: str, rule: _Rule) -> float | Tensor:
    sample = sample_of(x, weights)
    columns = sample.x.cpu().double().numpy()
    shares, size, dim = sample.shares.cpu().numpy(), sample.effective_size, sample.dim
    deviations = sample.standard_deviations()
    found = deviations.clone()
    for k in range(dim):
        h = rule(columns[:, k], shares, size)
        if h is None:
            warnings.warn(
                f"bandwidth {rule.__name__.strip('_')!r}: no solution for column {k} (too few points, or too few "
                "different values?); took the normal-reference bandwidth",
                RuntimeWarning,
                stacklevel=3,
            )
            h = float(deviations[k]) * normal_factor(1, size)
        found[k] = h
    found *= normal_factor(dim, size) / normal_factor(1, size) * canonical_ratio(kernel, dim)
    return float(found[0]) if dim == 1 else found.to(sample.x.dtype)


def _binned(values: _Array, shares: _Array, lowest: float, width: float, bins: int) -> _Array:
    """Weights on a grid, each point's shared between the two nearest places in proportion to nearness."""
    position = (values - lowest) / width
    left = np.clip(np.floor(position).astype(np.int64), 0, bins - 2)
    to_right = position - left
    mass = np.zeros(bins)
    np.add.at(mass, left, shares * (1 - to_right))
    np.add.at(mass, left + 1, shares * to_right)
    return mass


def _isj(values: _Array, shares: _Array, size: float) -> float | None:
    from scipy import fft

    reach = float(np.ptp(values))
    lowest, length = float(values.min()) - reach / 2, 2 * reach  # room for the kernels at both ends
    bins = _FEWEST_BINS
    while True:
        mass = _binned(values, shares, lowest, length / (bins - 1), bins)
        power = (fft.dct(mass, type=2)[1:] / 2) ** 2
        excess = partial(_isj_excess, power=power, size=size)
        root = _smallest_root(excess, -2 * math.log(bins), math.log(0.1))
        h = None if root is None else math.exp(root / 2) * length
        if bins == _MOST_BINS or (h is not None and h >= _BINS_PER_BANDWIDTH * length / bins):
            return h
        bins = 4 * bins


def _isj_excess(log_t: float, power: _Array, size: float) -> float:
    """Logarithm of t over the right-hand side of the fixed point, on a grid of length 1."""
    t = math.exp(log_t)
    for order in range(7, 1, -1):
        # The squared norm of the derivative of this order, at bandwidth t, by the frequencies that do not underflow.
        used = min(power.size, math.ceil(math.sqrt(_NEGLIGIBLE / t) / math.pi))
        squares = np.arange(1, used + 1, dtype=np.float64) ** 2
        terms = squares**order * power[:used] * np.exp(-squares * (math.pi**2 * t))
        norm = 2 * math.pi ** (2 * order) * float(terms.sum())
        if not norm > 0:
            return -math.inf
        if order > 2:
            s = order - 1
            odd = math.prod(range(1, 2 * s, 2)) / math.sqrt(2 * math.pi)
            t = (2 * (1 + 0.5 ** (s + 0.5)) / 3 * odd / (size * norm)) ** (2 / (3 + 2 * s))
    return log_t + 0.4 * math.log(2 * size * math.sqrt(math.pi) * norm)


def _smallest_root(excess: Callable[[float], float], lowest: float, highest: float) -> float | None:
    """The first place of a grid refined where the function rises through 0, None if it does so nowhere."""
    from scipy.optimize import brentq

    places = np.linspace(lowest, highest, 48).tolist()
    before = excess(places[0])
    for left, right in pairwise(places):
        after = excess(right)
        if before <= 0 < after:
            return float(brentq(excess, left, right, xtol=1e-10)) if math.isfinite(before) else right
        before = after
    return None


def _quantiles(values: _Array, shares: _Array, levels: Sequence[float]) -> _Array:
    """The least values at which the weights of those up to it reach each level."""
    order = np.argsort(values)
    reached = shares[order].cumsum()
    places = np.searchsorted(reached / reached[-1], levels)
    return values[order][places]


def _sj(values: _Array, shares: _Array, size: float) -> float | None:
    from scipy import fft

    quarter, three_quarters = _quantiles(values, shares, (0.25, 0.75))
    mean = float(values @ shares)
    deviation = math.sqrt(float((values - mean) ** 2 @ shares) / (1 - 1 / size))
    scale = min(deviation, (three_quarters - quarter) / 1.349) or deviation
    reach = float(np.ptp(values))
    # So fine that the narrowest kernel looked at spans several bins.
    wanted = 40 * reach / (scale * size ** (-1 / 5))
    if wanted > _COARSEST * _MOST_BINS:
        return None
    bins = min(max(1 << math.ceil(math.log2(wanted)), _FEWEST_BINS), _MOST_BINS)
    width = reach / (bins - 1)
    spectrum = fft.rfft(_binned(values, shares, float(values.min()), width, bins), 2 * bins)
    lags = fft.irfft(np.abs(spectrum) ** 2, 2 * bins)[:bins]  # weight of the pairs at each distance
    lags[1:] *= 2
    distances = np.arange(bins) * width

    def curvature(g: float, derivative: int) -> float:
        """The integral of the squared derivative, 2 or 3, of the density, by kernels of bandwidth g."""
        u = (distances / g) ** 2
        hermite = u**2 - 6 * u + 3 if derivative == 2 else -(u**3 - 15 * u**2 + 45 * u - 15)
        total = float(np.sum(lags * hermite * np.exp(-u / 2)))
        return total * size / (size - 1) / (g ** (2 * derivative + 1) * math.sqrt(2 * math.pi))

    third = curvature(1.23 * scale * size ** (-1 / 9), 3)
    second = curvature(1.24 * scale * size ** (-1 / 7), 2)
    if not (third > 0 and second > 0):
        return None
    factor = 1.357 * (second / third) ** (1 / 7)

    def excess(log_h: float) -> float:
        roughness = curvature(factor * math.exp(5 / 7 * log_h), 2)
        if not roughness > 0:
            return -math.inf
        return log_h + 0.2 * math.log(2 * math.sqrt(math.pi) * size * roughness)

    widest = math.log(1.144 * scale * size ** (-1 / 5))
    for lower in (math.log(0.1), math.log(0.001)):
        root = _smallest_root(excess, widest + lower, widest + math.log(3))
        if root is not None:
            return math.exp(root)
    return None
