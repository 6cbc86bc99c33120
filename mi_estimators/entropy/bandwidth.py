r"""Bandwidth selection for kernel density estimates.

The rule ``"loo"`` maximises the leave-one-out log-likelihood :math:`L = \frac1N \sum_i \log \hat f_{-i}(x_i)`. With
:math:`W_{ij}` the share of point j in the density at point i, setting the derivative to zero gives a fixed point:

* Gaussian: :math:`h^2 = \frac{1}{N d} \sum_{ij} W_{ij} |x_i - x_j|^2`
* von Mises-Fisher: :math:`A_d(\kappa) = \frac1N \sum_{ij} W_{ij}\, x_i \cdot x_j`

Taking the right-hand side as the next value is a step of expectation-maximisation, which never lowers L: it points
uphill, and is zero at a maximum. So the maximum uphill of the start is bracketed along the steps' direction and found
as a root of the step, in a dozen passes over the pairs also where plain iteration would need hundreds. The sums are the
derivative of the mean row log-sum-exp by its scale: :func:`~mi_estimators.ops.pairwise_lse`, forward and backward.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from mi_estimators.entropy.vmf import vmf_concentration
from mi_estimators.ops.pairwise_lse import accumulation_dtype

_MAX_PASSES = 40
_TOLERANCE = 1e-6  # of a step, in the logarithm of the bandwidth
_FLOOR = 1e-6  # smallest Gaussian bandwidth, as a share of the normal-reference one
_KAPPA_RANGE = (1e-3, 1e6)


def _mean_neighbour_distance(x: Tensor, scale: float) -> float:
    """The mean of sum_j W_ij |x_i - x_j|^2, W the softmax over j != i of -scale |x_i - x_j|^2."""
    operators = torch.ops.mi_estimators
    scale_tensor = torch.tensor(scale, dtype=accumulation_dtype(x.dtype), device=x.device)
    pairs = (x, None, scale_tensor, None, None, None, "sqeuclidean", True)
    row, col = operators.pairwise_lse(*pairs, False)
    weights = torch.full_like(row, 1 / x.shape[0])
    _, _, moment, _ = operators.pairwise_lse_backward(weights, None, row, col, *pairs, False, False, True, False)
    return -float(moment)


def _follow(step: Callable[[float], float], start: float, lowest: float, highest: float) -> float:
    """The root that ``step`` points to from the start, or the end of the range that it points past."""
    passes = 0

    def move(at: float) -> float:
        nonlocal passes
        passes += 1
        return step(at)

    here = min(max(start, lowest), highest)
    ahead = move(here)
    stride = max(2 * abs(ahead), 0.05)
    while True:
        if abs(ahead) <= _TOLERANCE:
            return here
        there = min(max(here + math.copysign(stride, ahead), lowest), highest)
        if there == here:
            return here
        back = move(there)
        if back * ahead <= 0:
            break
        here, ahead, stride = there, back, 2 * stride
    # The root lies between: false position, halving the weight of an end that stays (the Illinois rule).
    while abs(there - here) > _TOLERANCE and passes < _MAX_PASSES:
        between = (here * back - there * ahead) / (back - ahead)
        value = move(between)
        if abs(value) <= _TOLERANCE:
            return between
        if value * back < 0:
            here, ahead = there, back
        else:
            ahead /= 2
        there, back = between, value
    return there


def normal_reference(x: Tensor) -> float:
    r"""Gaussian bandwidth that is best for normal data: :math:`\sigma (4 / ((d + 2) N))^{1/(d+4)}`.

    :math:`\sigma^2` is the variance averaged over dimensions. Source: Silverman (1986), eq. 4.14.
    """
    n, d = x.shape
    sigma = math.sqrt(float(x.detach().to(torch.float64).var(dim=0).mean()))
    if not sigma > 0:
        raise ValueError("bandwidth: want a number, or points that differ for a rule to choose one; got equal points")
    return sigma * (4 / ((d + 2) * n)) ** (1 / (d + 4))


def loo_gaussian(x: Tensor) -> float:
    """The Gaussian bandwidth h that maximises the leave-one-out likelihood of the points ``x``.

    Raises:
        ValueError: all points coincide, so that no bandwidth is best.
    """
    x = x.detach()
    dim = x.shape[1]
    start = normal_reference(x)
    floor, ceiling = math.log(_FLOOR * start), math.log(start / _FLOOR)

    def step(log_h: float) -> float:
        squared = _mean_neighbour_distance(x, 0.5 * math.exp(-2 * log_h)) / dim
        return (0.5 * math.log(squared) if squared > 0 else floor) - log_h

    found = _follow(step, math.log(start), floor, ceiling)
    if found <= floor:
        _warn_of_duplicates(math.exp(floor))
    return math.exp(found)


def loo_vmf(x: Tensor) -> float:
    r"""The concentration :math:`\kappa` that maximises the leave-one-out likelihood of unit vectors ``x``.

    Cosines are taken from distances, :math:`x \cdot y = 1 - |x - y|^2 / 2`, which keeps the digits of close points.
    """
    x = x.detach()
    n, dim = x.shape
    lowest, highest = (math.log(kappa) for kappa in _KAPPA_RANGE)

    def step(log_kappa: float) -> float:
        mean_cosine = 1 - 0.5 * _mean_neighbour_distance(x, 0.5 * math.exp(log_kappa))
        return math.log(vmf_concentration(dim, mean_cosine)) - log_kappa

    # On the sphere a kernel of concentration kappa is about a Gaussian of variance 1 / kappa in d - 1 dimensions.
    spread = max(1e-6, 1 - float(x.to(torch.float64).mean(dim=0).square().sum())) / max(1, dim - 1)
    start = 1 / (spread * (4 / ((dim + 1) * n)) ** (2 / (dim + 3)))
    found = _follow(step, math.log(start), lowest, highest)
    if found >= highest:
        _warn_of_duplicates(math.exp(highest))
    return math.exp(found)


def _warn_of_duplicates(stopped_at: float) -> None:
    warnings.warn(
        "bandwidth 'loo': the likelihood grows without bound as kernels narrow (duplicate points?); "
        f"stopped at {stopped_at:.3g}",
        RuntimeWarning,
        stacklevel=3,
    )


RULES: dict[str, dict[str, Callable[[Tensor], float]]] = {
    "gaussian": {"loo": loo_gaussian, "normal_reference": normal_reference},
    "vmf": {"loo": loo_vmf},
}
"""Kernel -> rule name -> function of the points [N, d] that returns the bandwidth (vmf: the concentration)."""
