r"""The Gaussian bandwidths of greatest leave-one-out likelihood, one per column or a whole covariance matrix.

Setting the derivatives of :math:`L = \sum_i w_i \log \hat f_{-i}(x_i)` to zero gives the fixed points

.. math::
    h_k^2 = \sum_{ij} w_i W_{ij} (x_{ik} - x_{jk})^2, \qquad\qquad
    H = \sum_{ij} w_i W_{ij} (x_i - x_j)(x_i - x_j)^\top .

The moments on the right come out of the derivative of the log-sum-exps by the points: for points z in coordinates in
which the kernel is standard, :math:`\sum_i z_i (\partial L / \partial z_i)^\top` is minus the matrix on the right. So
one forward and one backward sweep give L and its derivative by the logarithms of the bandwidths,
:math:`\partial L / \partial \log h_k = M_k / h_k^2 - 1`. The step of expectation-maximisation, half of that, begins an
ascent that learns the curvature as it goes (L-BFGS; Jamshidian & Jennrich 1997 accelerate EM in this way) and falls
back on the plain step wherever a longer one does not gain.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mi_estimators.entropy.bandwidth.reference import checked_cholesky
from mi_estimators.entropy.bandwidth.sample import (
    SMALLEST_SHARE,
    Sample,
    may_be_rounding,
    normal_factor,
    sample_of,
    warn_of_duplicates,
)
from mi_estimators.entropy.bandwidth.search import ascend, exp_of, log_of

_WIDEST = 1e3  # bandwidth of a column that the density does not depend on, as a share of its standard deviation


def loo_diagonal(x: Tensor, *, weights: Tensor | None = None, start: Tensor | None = None) -> Tensor:
    """Gaussian bandwidths, one per column, that together maximise the leave-one-out likelihood.

    About ten sweeps forward and back. What statsmodels' ``KDEMultivariate(bw="cv_ml")`` minimises.

    Args:
        x: the points.
        weights: of the points, >= 0.
        start: where to begin, [d]; None for the normal-reference bandwidths.

    Shape:
        - x: :math:`(N, d)`, weights: :math:`(N,)`; Output: :math:`(d,)`.

    Warns:
        RuntimeWarning: a column repeats values, so that the likelihood grows without bound as its bandwidth shrinks.

    Source: Duin (1976), for a product kernel.
    """
    sample = sample_of(x, weights)
    deviations = sample.standard_deviations()
    reference = deviations * normal_factor(sample.dim, sample.effective_size)
    # Standardised, so that the digits of narrow columns beside wide ones are kept.
    points = _centred(sample) / deviations.to(sample.x.dtype)
    unit = (reference / deviations).log().cpu()
    lowest, highest = unit + math.log(SMALLEST_SHARE), torch.full_like(unit, math.log(_WIDEST))

    def criterion(logs: Tensor) -> tuple[float, Tensor]:
        inverse = torch.exp(-logs).to(sample.x)
        mean_lse, slope = _standard_likelihood(sample, points * inverse)
        moments = -(points * inverse * slope).sum(dim=0, dtype=torch.float64).cpu()
        gradient = moments - 1
        outwards = ((logs <= lowest) & (gradient < 0)) | ((logs >= highest) & (gradient > 0))
        return mean_lse - float(logs.sum()), gradient.masked_fill(outwards, 0)

    begin = unit if start is None else (start.to(deviations) / deviations).log().cpu()
    found = ascend(criterion, begin, lambda logs: logs.clamp(lowest, highest), first_scale=0.5, **_accuracy(sample))
    if bool((found <= lowest).any()):
        stuck = (found <= lowest).nonzero().flatten().tolist()
        warn_of_duplicates("loo_diagonal", f"a millionth of the normal-reference bandwidth in columns {stuck}")
    elif may_be_rounding(sample, float((-2 * found).exp().mean())) and _is_rounding(
        sample, _centred(sample.in_float64()) / deviations * torch.exp(-found).to(deviations)
    ):
        warn_of_duplicates("loo_diagonal", "bandwidths at which distances are rounding")
    return (found.exp().to(deviations) * deviations).to(sample.x.dtype)


def loo_full(x: Tensor, *, weights: Tensor | None = None, start: Tensor | None = None) -> Tensor:
    r"""The Gaussian kernel's covariance that maximises the leave-one-out likelihood.

    About fifteen sweeps forward and back, and as many eigendecompositions of a matrix [d, d]. It has d (d + 1) / 2
    parameters: want N well above that.

    Args:
        x: the points.
        weights: of the points, >= 0.
        start: where to begin, [d, d]; None for scipy's Silverman covariance.

    Shape:
        - x: :math:`(N, d)`, weights: :math:`(N,)`; Output: :math:`(d, d)`.

    Raises:
        ValueError: columns that depend on each other linearly (as do all where N <= d).

    Warns:
        RuntimeWarning: points repeat in some direction, so that the likelihood grows without bound there.

    Source: Duin (1976), for a full covariance.
    """
    sample = sample_of(x, weights)
    root = checked_cholesky(sample.covariance())
    points = torch.linalg.solve_triangular(root, _centred(sample).to(root).T, upper=False).T.to(sample.x.dtype)
    unit = 2 * math.log(normal_factor(sample.dim, sample.effective_size))
    lowest, highest = unit + 2 * math.log(SMALLEST_SHARE), 2 * math.log(_WIDEST)

    def project(log_matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(log_matrix)
        if float(values[0]) >= lowest and float(values[-1]) <= highest:
            return log_matrix
        return (vectors * values.clamp(lowest, highest)) @ vectors.T

    def criterion(log_matrix: Tensor) -> tuple[float, Tensor]:
        logs, vectors = torch.linalg.eigh(log_matrix)
        # In the coordinates of the eigenvectors, each over the root of its eigenvalue.
        transform = (vectors * torch.exp(-logs / 2)).to(sample.x)
        standard = points @ transform
        mean_lse, slope = _standard_likelihood(sample, standard)
        moments = -(standard.T @ slope).to(device="cpu", dtype=torch.float64)
        # The derivative of the matrix exponential, between the eigenvectors: sinh(t) / t at half the difference.
        halves = (logs[:, None] - logs) / 2
        factors = torch.where(halves.abs() > 1e-4, torch.sinh(halves) / halves, 1 + halves.square() / 6)
        inner = 0.25 * (moments + moments.T) * factors - 0.5 * torch.eye(sample.dim, dtype=torch.float64)
        outwards = ((logs <= lowest) & (inner.diagonal() < 0)) | ((logs >= highest) & (inner.diagonal() > 0))
        inner = inner.masked_fill(outwards[:, None] | outwards, 0)
        return mean_lse - 0.5 * float(logs.sum()), vectors @ inner @ vectors.T

    if start is None:
        begin = unit * torch.eye(sample.dim, dtype=torch.float64)
    else:
        half = torch.linalg.solve_triangular(root, start.to(root), upper=False)
        begin = log_of(torch.linalg.solve_triangular(root, half.T, upper=False).cpu())
    found = ascend(criterion, begin, project, first_scale=2.0, **_accuracy(sample))
    logs, vectors = torch.linalg.eigh(found)
    if float(logs[0]) <= lowest + 1e-9:
        warn_of_duplicates("loo_full", "a millionth of the normal-reference bandwidth in some direction")
    elif may_be_rounding(sample, float((-logs).exp().mean())) and _is_rounding(
        sample,
        torch.linalg.solve_triangular(root, _centred(sample.in_float64()).T, upper=False).T
        @ (vectors * torch.exp(-logs / 2)).to(root),
    ):
        warn_of_duplicates("loo_full", "bandwidths at which distances are rounding")
    covariance = root @ exp_of(found).to(root) @ root.T
    return (0.5 * (covariance + covariance.T)).to(sample.x.dtype)


def _centred(sample: Sample) -> Tensor:
    wide = sample.x.to(torch.float64)
    return (wide - wide.mean(dim=0)).to(sample.x.dtype)


def _standard_likelihood(sample: Sample, standard: Tensor) -> tuple[float, Tensor]:
    """Mean leave-one-out log-sum-exp of a standard Gaussian kernel, and its derivative by the points [n, d]."""
    operators = torch.ops.mi_estimators
    half = torch.full((), 0.5, dtype=standard.dtype, device=standard.device)
    pairs = (standard, None, half, sample.bias, None, None, "sqeuclidean", True)
    row, col = operators.pairwise_lse(*pairs, False)
    shares = sample.shares.to(row.dtype)
    slope, _, _, _ = operators.pairwise_lse_backward(shares, None, row, col, *pairs, True, False, False, False)
    return float(sample.mean(row)), slope


def _is_rounding(sample: Sample, standard: Tensor) -> bool:
    """Whether points in float64, in coordinates of the bandwidth that was found, want one well below it."""
    _, slope = _standard_likelihood(sample.in_float64(), standard)
    return float(-(standard * slope).sum()) < 0.8 * sample.dim


def _accuracy(sample: Sample) -> dict[str, float]:
    if sample.x.dtype == torch.float64:
        return {"tolerance": 1e-6, "noise": 1e-13}
    return {"tolerance": 3e-6, "noise": 1e-8}
