r"""The bandwidth of greatest leave-one-out likelihood, one for all directions.

The criterion is :math:`L = \sum_i w_i \log \hat f_{-i}(x_i)`. With :math:`W_{ij}` the share of point j in the density
at point i, setting its derivative to zero gives a fixed point:

* Gaussian: :math:`h^2 = \frac1d \sum_{ij} w_i W_{ij} |x_i - x_j|^2`
* Laplace: :math:`h = \frac1d \sum_{ij} w_i W_{ij} |x_i - x_j|`

Taking the right-hand side as the next value is a step of expectation-maximisation, which never lowers L: it points
uphill, and is zero at a maximum. So the maximum uphill of the start is found as a root of the step, in a handful of
sweeps over the pairs also where plain iteration would need hundreds.

Kernels of compact support have no such fixed point, and a likelihood of zero wherever a point has no neighbour: there L
itself is looked at, from the bandwidth on at which the last point gets one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mi_estimators.entropy.bandwidth.reference import canonical_ratio
from mi_estimators.entropy.bandwidth.sample import (
    SMALLEST_SHARE,
    Sample,
    may_be_rounding,
    normal_factor,
    sample_of,
    warn_of_duplicates,
)
from mi_estimators.entropy.bandwidth.search import follow
from mi_estimators.entropy.kernels import KERNELS, Kernel
from mi_estimators.ops.pairwise_lse import unchecked_pairwise_lse
from mi_estimators.ops.pairwise_lse_moments import pairwise_lse_moments

COLD_STRIDE, WARM_STRIDE = 0.4, 0.03  # of the first sweep, in the logarithm of the bandwidth
SLACK = 1e-3  # of the end of a search's range, within which the optimum lies beyond it
_GRID = 24  # bandwidths at which the likelihood of a compact kernel is looked at first


def mean_square_distances(sample: Sample, scales: Sequence[float]) -> list[float]:
    """At each scale the mean of sum_j W_ij |x_i - x_j|^2, W the softmax over j != i of -scale |x_i - x_j|^2."""
    _, moment = pairwise_lse_moments(
        sample.x, scales=scales, score="sqeuclidean", bias=sample.bias, exclude_diagonal=True
    )
    return (-sample.mean(moment)).tolist()


def loo(
    x: Tensor, *, weights: Tensor | None = None, kernel: str = "gaussian", start: float | Tensor | None = None
) -> float:
    r"""The bandwidth h that maximises the leave-one-out likelihood of the points.

    Three to five sweeps over the pairs for the Gaussian kernel, ten for ``"laplace"``, thirty for the kernels of
    compact support. For those every point needs a neighbour within h, or the likelihood is zero; so an outlier alone
    can decide, and the Gaussian kernel is the better choice for samples with tails.

    Args:
        x: the points.
        weights: of the points, >= 0; point i counts as :math:`w_i`, and its density leaves it out and is divided by
            the sum of the other weights.
        kernel: a radial kernel of :data:`~mi_estimators.entropy.kernels.KERNELS`.
        start: where to begin; near the result it saves sweeps. None for the normal-reference bandwidth.

    Shape:
        - x: :math:`(N, d)`, weights: :math:`(N,)`; Output: a number.

    Raises:
        TypeError, ValueError: as :func:`~mi_estimators.entropy.select_bandwidth`.

    Source: Duin (1976); Habbema, Hermans & van den Broek (1974).
    """
    sample = sample_of(x, weights)
    form = KERNELS[kernel]
    spread = float(sample.standard_deviations().square().mean().sqrt())
    reference = spread * normal_factor(sample.dim, sample.effective_size) * canonical_ratio(kernel, sample.dim)
    begin = reference if start is None else float(start)
    stride = COLD_STRIDE if start is None else WARM_STRIDE
    if form.compact:
        return _of_compact_kernel(sample, form, reference)
    floor = SMALLEST_SHARE * reference

    def steps(places: Sequence[float]) -> list[float]:
        lengths = _gaussian_lengths(sample, places) if form.name == "gaussian" else _laplace_lengths(sample, places)
        return [math.log(max(length, floor)) - u for length, u in zip(lengths, places, strict=True)]

    found = follow(steps, math.log(begin), math.log(floor), math.log(reference / SMALLEST_SHARE), stride=stride)
    if found <= math.log(floor) + SLACK:
        warn_of_duplicates("loo", f"{floor:.3g}")
    elif form.name == "gaussian" and may_be_rounding(sample, (spread / math.exp(found)) ** 2):
        (length,) = _gaussian_lengths(sample.in_float64(), [found])
        if length < 0.9 * math.exp(found):
            warn_of_duplicates("loo", f"{math.exp(found):.3g}, where distances are rounding")
    return math.exp(found)


def _gaussian_lengths(sample: Sample, places: Sequence[float]) -> list[float]:
    squares = mean_square_distances(sample, [0.5 * math.exp(-2 * u) for u in places])
    return [math.sqrt(max(square, 0.0) / sample.dim) for square in squares]


def _laplace_lengths(sample: Sample, places: Sequence[float]) -> list[float]:
    operators = torch.ops.mi_estimators
    lengths = []
    for u in places:
        scale = torch.tensor(math.exp(-u), dtype=sample.x.dtype, device=sample.x.device)
        pairs = (sample.x, None, scale, sample.bias, None, None, "euclidean", True)
        row, col = operators.pairwise_lse(*pairs, False)
        shares = sample.shares.to(row.dtype)
        _, _, moment, _ = operators.pairwise_lse_backward(shares, None, row, col, *pairs, False, False, True, False)
        lengths.append(-float(moment) / sample.dim)
    return lengths


def log_likelihood(sample: Sample, kernel: Kernel, h: float) -> float:
    """The mean leave-one-out log-likelihood, in nats."""
    scale = float(kernel.scale(h))
    lse = unchecked_pairwise_lse(sample.x, scale=scale, score=kernel.score, bias=sample.bias, exclude_diagonal=True)
    others = math.log(sample.size - 1) if sample.weights is None else float(sample.mean(torch.log1p(-sample.shares)))
    return float(sample.mean(lse)) - others + float(kernel.log_normalizer(sample.dim, h))


def farthest_neighbour(sample: Sample) -> float:
    """The largest distance of a point to its nearest neighbour."""
    # At a scale this large the softmax is all on the nearest points.
    spread = float(sample.standard_deviations().square().mean())
    _, moment = pairwise_lse_moments(sample.x, scales=[1e12 / spread], score="sqeuclidean", exclude_diagonal=True)
    return math.sqrt(max(-float(moment.min()), 0.0))


def _of_compact_kernel(sample: Sample, kernel: Kernel, reference: float) -> float:
    """The highest of a grid's likelihoods, refined between its neighbours."""
    from scipy.optimize import minimize_scalar

    lowest = max(farthest_neighbour(sample) * (1 + 1e-5), 0.02 * reference)
    grid = np.geomspace(lowest, max(4 * reference, 4 * lowest), _GRID)
    values = {h: log_likelihood(sample, kernel, h) for h in grid.tolist()}
    best = max(values, key=lambda h: values[h])
    ratio = float(grid[1] / grid[0])

    def lost(u: float) -> float:
        values[math.exp(u)] = log_likelihood(sample, kernel, math.exp(u))
        return -values[math.exp(u)]

    ends = (math.log(max(best / ratio, lowest)), math.log(best * ratio))
    minimize_scalar(lost, bounds=ends, method="bounded", options={"xatol": 1e-5})
    best = max(values, key=lambda h: values[h])
    if best <= 0.02 * reference:
        warn_of_duplicates("loo", f"{best:.3g}")
    return best
