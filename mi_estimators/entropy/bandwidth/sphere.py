r"""Rules for the von Mises-Fisher kernel: the concentration :math:`\kappa` of unit vectors.

A kernel of concentration :math:`\kappa` is about a Gaussian of bandwidth :math:`\kappa^{-1/2}` in the d - 1 dimensions
of the sphere. Cosines are taken from distances, :math:`x \cdot y = 1 - |x - y|^2 / 2`, which keeps the digits of close
points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.entropy.bandwidth.adaptive import neighbour_distances, pilot_density_power
from mi_estimators.entropy.bandwidth.likelihood import COLD_STRIDE, SLACK, WARM_STRIDE, mean_square_distances
from mi_estimators.entropy.bandwidth.reference import canonical_ratio, median_distance
from mi_estimators.entropy.bandwidth.sample import Sample, normal_factor, sample_of, unweighted, warn_of_duplicates
from mi_estimators.entropy.bandwidth.search import follow
from mi_estimators.entropy.vmf import log_bessel_i, vmf_concentration
from mi_estimators.ops.pairwise_lse_moments import pairwise_lse_moments

KAPPA_RANGE = (1e-3, 1e6)
_OCTAVE = math.log(2)


def _unit_sample(x: Tensor, weights: Tensor | None) -> Sample:
    sample = sample_of(x, weights, constant_columns=True)
    if sample.dim < 2:
        raise ValueError(f"x: want at least 2 dimensions for kernel 'vmf', got {_checks.describe(x)}")
    _checks.unit_rows("x", x)
    return sample


def _mean_resultant(sample: Sample) -> float:
    return min(float(sample.mean(sample.x.T).norm()), 1.0)


def loo(x: Tensor, *, weights: Tensor | None = None, start: float | Tensor | None = None) -> float:
    r"""The concentration that maximises the leave-one-out likelihood of unit vectors.

    The root of :math:`A_d(\kappa) = \sum_{ij} w_i W_{ij}\, x_i \cdot x_j`, as for the Gaussian kernel: a step of
    expectation-maximisation takes the right-hand side and inverts :math:`A_d` by Newton's method.

    Shape:
        - x: :math:`(N, d)` of unit rows, weights: :math:`(N,)`; Output: a number in [1e-3, 1e6].

    Warns:
        RuntimeWarning: the likelihood grows up to the end of that range, as it does for repeated points.
    """
    sample = _unit_sample(x, weights)
    dim = sample.dim
    lowest, highest = (math.log(kappa) for kappa in KAPPA_RANGE)

    def steps(places: Sequence[float]) -> list[float]:
        squares = mean_square_distances(sample, [0.5 * math.exp(u) for u in places])
        return [
            math.log(vmf_concentration(dim, 1 - 0.5 * square)) - u for square, u in zip(squares, places, strict=True)
        ]

    if start is None:
        spread = max(1e-6, 1 - _mean_resultant(sample) ** 2) / (dim - 1)
        begin = 1 / (spread * normal_factor(dim - 1, sample.effective_size) ** 2)
    else:
        begin = float(start)
    stride = 2 * (COLD_STRIDE if start is None else WARM_STRIDE)
    found = follow(steps, math.log(begin), lowest, highest, stride=stride)
    if found >= highest - SLACK:
        warn_of_duplicates("loo", f"{math.exp(highest):.3g}")
    return math.exp(found)


def von_mises_fisher_reference(x: Tensor, *, weights: Tensor | None = None) -> float:
    r"""The concentration that is best for a von Mises-Fisher sample, by its own fitted concentration.

    With q = d - 1 and :math:`\hat\kappa` the maximum-likelihood concentration of the points,

    .. math::
        \kappa^{-1/2} = \left[ \frac{4 \sqrt\pi\, I_{(q-1)/2}(\hat\kappa)^2}{n\, \hat\kappa^{(q+1)/2}
        \left( 2 q\, I_{(q+1)/2}(2 \hat\kappa) + (2 + q)\, \hat\kappa\, I_{(q+3)/2}(2 \hat\kappa) \right)}
        \right]^{1/(4+q)} .

    It takes antipodal or clustered points for uniform ones and then smooths them away.

    Shape:
        - x: :math:`(N, d)` of unit rows, weights: :math:`(N,)`; Output: a number in [1e-3, 1e6].

    Source: García-Portugués (2013), eq. 14.
    """
    sample = _unit_sample(x, weights)
    q = sample.dim - 1
    fitted = vmf_concentration(sample.dim, _mean_resultant(sample))

    def log_bessel(order: float, at: float) -> float:
        return float(log_bessel_i(order, torch.tensor(at, dtype=torch.float64)))

    above = math.log(4) + 0.5 * math.log(math.pi) + 2 * log_bessel((q - 1) / 2, fitted)
    terms = (
        math.log(2 * q) + log_bessel((q + 1) / 2, 2 * fitted),
        math.log((2 + q) * fitted) + log_bessel((q + 3) / 2, 2 * fitted),
    )
    below = max(terms) + math.log1p(math.exp(-abs(terms[0] - terms[1])))
    below += math.log(sample.effective_size) + (q + 1) / 2 * math.log(fitted)
    return _in_range(math.exp(min(max(-2 * (above - below) / (4 + q), -50.0), 50.0)))


def median(x: Tensor, *, weights: Tensor | None = None) -> float:
    """One over the squared median distance of two different points: the Gaussian kernel's median heuristic.

    Shape:
        - x: :math:`(N, d)` of unit rows, weights: :math:`(N,)`; Output: a number in [1e-3, 1e6].
    """
    return _in_range(median_distance(_unit_sample(x, weights)) ** -2)


def bgh(x: Tensor, *, weights: Tensor | None = None) -> float:
    r"""The concentration at which the sum over pairs grows fastest with the width of the kernel.

    With all pairs, each point's with itself among them, it maximises

    .. math::
        -\frac{\partial \log S}{\partial \log \kappa}, \qquad
        S(\kappa) = \sum_{ij} w_i w_j e^{-\kappa (1 - x_i \cdot x_j)} .

    Around points on a manifold of m dimensions S grows as :math:`\kappa^{-m/2}`, for kernels that are wider than the
    gaps between points and narrower than the manifold bends: there the slope is largest, and m / 2. For narrower ones
    each point is left with itself, for wider ones S tends to 1, and the slope to 0 for both. N equally weighted points
    of which no two are nearer than at right angles, as in many dimensions, give :math:`\kappa = 1 + W((N - 1) / e)` at
    those right angles, with Lambert's W: about :math:`\log N`, at which the kernels of all points just meet.

    It is a scale for a training, not a density estimate: it does not look at the dimension of the space that the points
    are given in, and in many dimensions the likelihood wants a much narrower kernel (``"loo"``). Three sweeps over the
    pairs, to a relative accuracy of about 1e-4; of several maxima the highest.

    Shape:
        - x: :math:`(N, d)` of unit rows, weights: :math:`(N,)`; Output: a number in [1e-3, 1e6].

    Warns:
        RuntimeWarning: the slope is largest at the end of that range, as where all points coincide.

    Source: Coifman et al. (2008), IEEE Trans. Image Process. 17, for the sum; Berry, Giannakis & Harlim (2015), Phys.
    Rev. E 91, 032915, for its steepest point.
    """
    sample = _unit_sample(x, weights)
    lowest, highest = (math.log(kappa) for kappa in KAPPA_RANGE)
    count = math.ceil((highest - lowest) / _OCTAVE)
    step = (highest - lowest) / count
    places = [highest - k * step for k in range(count + 1)]  # of equal slopes, the first counts
    for finer in (6, 6, 0):
        slopes = _slopes_of_sum(sample, places)
        best = max(range(len(places)), key=slopes.__getitem__)
        if finer:
            step /= finer
            places = [min(max(places[best] + k * step, lowest), highest) for k in range(finer, -finer - 1, -1)]
    found = places[best]
    if found >= highest - SLACK:
        warn_of_duplicates("bgh", f"{KAPPA_RANGE[1]:.3g}")
    elif 0 < best < len(places) - 1:  # the peak of the parabola through the highest and its neighbours
        before, peak, after = slopes[best - 1 : best + 2]
        bend = before - 2 * peak + after
        found -= 0.5 * step * (before - after) / bend if bend < 0 else 0.0
    return math.exp(found)


def _slopes_of_sum(sample: Sample, places: Sequence[float]) -> list[float]:
    """At each log concentration, minus the derivative of the log of the sum over all pairs by it."""
    scales = torch.tensor([0.5 * math.exp(u) for u in places], dtype=torch.float64)
    lse, moment = pairwise_lse_moments(sample.x, scales=scales.to(sample.x), score="sqeuclidean", bias=sample.bias)
    shares = torch.softmax(lse.to(torch.float64) + sample.shares.log(), dim=1)
    mean_squares = -(shares * moment.to(torch.float64)).sum(dim=1).cpu()
    return (scales * mean_squares).tolist()


def abramson(x: Tensor, *, weights: Tensor | None = None) -> Tensor:
    r"""Abramson's law for concentrations: :math:`\kappa_i = \kappa\, \tilde f(x_i) / g` of the ``"loo"`` concentration.

    See :func:`mi_estimators.entropy.bandwidth.adaptive.abramson`; the exponent is -2 times that of a bandwidth.

    Shape:
        - x: :math:`(N, d)` of unit rows, weights: :math:`(N,)`; Output: :math:`(N, 1)` in [1e-3, 1e6].
    """
    pilot = loo(x, weights=weights)
    return (pilot * pilot_density_power(x, _unit_sample(x, weights), "dot", pilot, 1.0)).clamp(*KAPPA_RANGE)


def knn(x: Tensor, *, weights: Tensor | None = None, neighbours: int | None = None) -> Tensor:
    """Nearest-neighbour concentrations: one over the square of the Gaussian's nearest-neighbour bandwidths.

    See :func:`mi_estimators.entropy.bandwidth.adaptive.knn`; in the d - 1 dimensions of the sphere.

    Shape:
        - x: :math:`(N, d)` of unit rows; Output: :math:`(N, 1)` in [1e-3, 1e6].
    """
    unweighted("knn", weights, "a nearest neighbour has no weight")
    sample = _unit_sample(x, None)
    widths = neighbour_distances(sample, neighbours) / canonical_ratio("tophat", sample.dim - 1)
    return widths.square().reciprocal().clamp(*KAPPA_RANGE)


def _in_range(kappa: float) -> float:
    return min(max(kappa, KAPPA_RANGE[0]), KAPPA_RANGE[1])
