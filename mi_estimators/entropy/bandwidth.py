r"""Bandwidth selection for kernel density estimates.

The rule ``"loo"`` maximises the leave-one-out log-likelihood :math:`L = \frac1N \sum_i \log \hat f_{-i}(x_i)`. With
:math:`W_{ij}` the share of point j in the density at point i, setting the derivative to zero gives a fixed point that
each pass over the pairs improves (an expectation-maximisation step, so L never falls):

* Gaussian: :math:`h^2 = \frac{1}{N d} \sum_{ij} W_{ij} |x_i - x_j|^2`
* von Mises-Fisher: :math:`A_d(\kappa) = \frac1N \sum_{ij} W_{ij}\, x_i \cdot x_j`

The sums are the derivative of the mean row log-sum-exp by its scale, so one forward and one backward pass of
:func:`~mi_estimators.ops.pairwise_lse` give both L and the step; Aitken's extrapolation makes a handful of them enough.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from mi_estimators.entropy.vmf import log_vmf_normalizer, vmf_concentration
from mi_estimators.ops.pairwise_lse import accumulation_dtype

_MAX_ITERATIONS = 40
_TOLERANCE = 1e-5  # relative, on the bandwidth
_FLOOR = 1e-3  # smallest Gaussian bandwidth, as a share of the normal-reference one
_KAPPA_RANGE = (1e-3, 1e6)


def _likelihood_and_moment(x: Tensor, scale: float, score: str) -> tuple[float, float]:
    """Mean leave-one-out row log-sum-exp, and its derivative by the scale: the mean of sum_j W_ij score_ij."""
    operators = torch.ops.mi_estimators
    scale_tensor = torch.tensor(scale, dtype=accumulation_dtype(x.dtype), device=x.device)
    row, col = operators.pairwise_lse(x, None, scale_tensor, None, score, True, False)
    weights = torch.full_like(row, 1 / x.shape[0])
    _, _, moment, _ = operators.pairwise_lse_backward(
        weights, None, row, col, x, None, scale_tensor, None, score, True, False, False, True, False
    )
    return float(row.mean()), float(moment)


def _maximise(start: float, step: Callable[[float], tuple[float, float]]) -> float:
    """Fixed point of ``step`` (log parameter -> likelihood, next log parameter), extrapolated while that helps."""
    here = start
    likelihood, following = step(here)
    for _ in range(_MAX_ITERATIONS):
        if abs(following - here) <= _TOLERANCE:
            return following
        reached, after = step(following)
        first, second = following - here, after - following
        curvature = second - first
        leap = here - first * first / curvature if abs(curvature) > 1e-12 else after
        if reached < likelihood - 1e-6 * abs(likelihood) or not math.isfinite(after):
            return here
        here, likelihood, following = following, reached, after
        if abs(leap - here) > 5:  # more than two decades in a leap: the extrapolation is not to be trusted
            continue
        leapt, after_leap = step(leap)
        if leapt >= likelihood:
            here, likelihood, following = leap, leapt, after_leap
    return following


def normal_reference(x: Tensor) -> float:
    r"""Gaussian bandwidth that is best for normal data: :math:`\sigma (4 / ((d + 2) N))^{1/(d+4)}`.

    :math:`\sigma^2` is the variance averaged over dimensions. Source: Silverman (1986), eq. 4.14.
    """
    n, d = x.shape
    sigma = math.sqrt(float(x.detach().to(torch.float64).var(dim=0).mean()))
    return sigma * (4 / ((d + 2) * n)) ** (1 / (d + 4))


def loo_gaussian(x: Tensor) -> float:
    """The Gaussian bandwidth h that maximises the leave-one-out likelihood of the points ``x``.

    Raises:
        ValueError: all points coincide, so that no bandwidth is best.
    """
    x = x.detach()
    dim = x.shape[1]
    start = normal_reference(x)
    if not start > 0:
        raise ValueError("x: want points that differ to choose a bandwidth, got the same point everywhere")
    floor = math.log(_FLOOR * start)

    def step(log_h: float) -> tuple[float, float]:
        log_h = max(log_h, floor)
        row_mean, moment = _likelihood_and_moment(x, 0.5 * math.exp(-2 * log_h), "sqeuclidean")
        return row_mean - dim * log_h, 0.5 * math.log(max(-moment / dim, math.exp(2 * floor)))

    found = _maximise(math.log(start), step)
    if found <= floor + 1e-9:
        warnings.warn(
            "bandwidth 'loo': the likelihood grows without bound as the bandwidth shrinks (duplicate points?); "
            f"stopped at {math.exp(floor):.3g}",
            RuntimeWarning,
            stacklevel=2,
        )
    return math.exp(max(found, floor))


def loo_vmf(x: Tensor) -> float:
    r"""The concentration :math:`\kappa` that maximises the leave-one-out likelihood of unit vectors ``x``."""
    x = x.detach()
    n, dim = x.shape
    lowest, highest = _KAPPA_RANGE

    def step(log_kappa: float) -> tuple[float, float]:
        kappa = min(max(math.exp(log_kappa), lowest), highest)
        row_mean, moment = _likelihood_and_moment(x, kappa, "dot")
        return row_mean + float(log_vmf_normalizer(dim, kappa)), math.log(vmf_concentration(dim, moment))

    # On the sphere a kernel of concentration kappa is about a Gaussian of variance 1 / kappa in d - 1 dimensions.
    spread = max(1e-6, 1 - float(x.to(torch.float64).mean(dim=0).square().sum())) / max(1, dim - 1)
    start = 1 / (spread * (4 / ((dim + 1) * n)) ** (2 / (dim + 3)))
    found = min(max(math.exp(_maximise(math.log(start), step)), lowest), highest)
    if found >= highest * (1 - 1e-9):
        warnings.warn(
            "bandwidth 'loo': the likelihood grows without bound with the concentration (duplicate points?); "
            f"stopped at {highest:.3g}",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


RULES: dict[str, dict[str, Callable[[Tensor], float]]] = {
    "gaussian": {"loo": loo_gaussian, "normal_reference": normal_reference},
    "vmf": {"loo": loo_vmf},
}
"""Kernel -> rule name -> function of the points [N, d] that returns the bandwidth (vmf: the concentration)."""
