"""Closed-form estimate for jointly Gaussian data, by canonical correlations."""

from __future__ import annotations

import math

import numpy as np
import torch

from mi_estimators import _checks
from mi_estimators.entropy.gaussian import SHRINKAGES, shrinkage_intensity
from mi_estimators.estimators.result import Measurement


def canonical_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sample canonical correlations, largest first, from the principal angles between the centred column spaces.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]`` float64.

    Returns:
        ``[min(dim_x, dim_y)]``, in [0, 1].

    Raises:
        ValueError: the columns of x or of y are linearly dependent.

    Source:
        Björck and Golub 1973: QR of each, then the singular values of the product of the bases.
    """
    bases = []
    for name, value in (("x", x), ("y", y)):
        centred = value - value.mean(axis=0)
        basis, triangle = np.linalg.qr(centred / np.linalg.norm(centred, axis=0))
        if not np.abs(np.diag(triangle)).min() > 1e-10:
            raise ValueError(f"{name}: want linearly independent columns, got a column that the others determine")
        bases.append(basis)
    return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).clip(0, 1)


def shrunk_correlations(x: np.ndarray, y: np.ndarray, shrinkage: str | float) -> np.ndarray:
    """Canonical correlations of the correlation matrix of (x, y) after it has been moved towards the identity.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]`` float64.
        shrinkage: how far, in (0, 1], or a rule for it.

    Returns:
        ``[min(dim_x, dim_y)]``, largest first, in [0, 1).
    """
    n, dim_x = x.shape
    joint = np.concatenate([x, y], axis=1)
    points = torch.from_numpy((joint - joint.mean(axis=0)) / joint.std(axis=0))
    matrix = points.T @ points / n
    if isinstance(shrinkage, str):
        rho = float(shrinkage_intensity(shrinkage, points, matrix.square().sum(), matrix.diagonal().mean()))
    else:
        rho = shrinkage
    matrix = (1 - rho) * matrix + rho * torch.eye(len(matrix), dtype=matrix.dtype)
    cross = matrix[:dim_x, dim_x:]
    for block in (matrix[:dim_x, :dim_x], matrix[dim_x:, dim_x:]):
        factor, failed = torch.linalg.cholesky_ex(block)
        if failed:
            raise ValueError(f"shrinkage: want more than {rho:.3g}, at which the covariance of x or of y is singular")
        cross = torch.linalg.solve_triangular(factor, cross, upper=False).T
    return torch.linalg.svdvals(cross).clamp(0, 1).numpy()


def _check_shrinkage(shrinkage: object) -> None:
    if isinstance(shrinkage, str):
        _checks.choice("shrinkage", shrinkage, SHRINKAGES)
    elif shrinkage is not None:
        if isinstance(shrinkage, bool) or not isinstance(shrinkage, (int, float)):
            raise TypeError(f"shrinkage: want a rule, a number or None, got {_checks.describe(shrinkage)}")
        if not 0 < shrinkage <= 1:
            raise ValueError(f"shrinkage: want a number above 0 and at most 1, got {shrinkage!r}")


def estimate(
    x: np.ndarray, y: np.ndarray, *, seed: int = 0, unbiased: bool = True, shrinkage: str | float | None = None
) -> Measurement:
    r"""Gaussian estimate over the canonical correlations, in nats.

    .. math::
        \hat I = -\frac12 \sum_k \log(1 - \hat\rho_k^2)

    For Gaussian data the plug-in value exceeds the truth by about ``dim_x dim_y / (2 n)``; that expectation is known in
    closed form from the log-determinant of a Wishart matrix, and is subtracted: the estimate has no bias at any
    dimension that n allows. For other data it sees only the linear dependence. The standard error is the asymptotic
    one, :math:`\sum_k \rho_k^2 / n` in the square, with the sum less what it holds by chance, and the variance under
    independence, ``dim_x dim_y / (2 n^2)``.

    With fewer than dim_x + dim_y + 2 pairs, shrinkage of the correlation matrix of (x, y) makes it invertible. The
    value is then far from the truth in either direction, and serves to compare, not to measure.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]`` float64.
        seed: not used: the estimate is deterministic.
        unbiased: subtract the bias of the plug-in value; not with shrinkage, whose bias is another.
        shrinkage: ``None``; ``"ledoit_wolf"`` or ``"oas"``, see :func:`mi_estimators.entropy.gaussian_entropy`; or how
            far to move the correlation matrix towards the identity, in (0, 1].

    Raises:
        TypeError: a shrinkage that is neither rule, number nor None.
        ValueError: without shrinkage, there are fewer than dim_x + dim_y + 2 pairs, or the columns are linearly
            dependent; y is a linear function of x; an unknown shrinkage or one out of range.

    Source:
        Gelfand and Yaglom 1957; for the bias, Muirhead 1982, sec. 3.2 (determinant of a Wishart matrix); Ledoit and
        Wolf 2004; Chen, Wiesel, Eldar and Hero 2010 (arXiv 0907.4698).
    """
    n, dim_x = x.shape
    dim_y = y.shape[1]
    _check_shrinkage(shrinkage)
    if shrinkage is not None:
        rho = shrunk_correlations(x, y, shrinkage)
    else:
        if n < dim_x + dim_y + 2:
            raise ValueError(
                f"x: want at least dim_x + dim_y + 2 = {dim_x + dim_y + 2} pairs, or shrinkage, got {n} pairs"
            )
        rho = canonical_correlations(x, y)
    if rho[0] >= 1:
        raise ValueError(
            "y: want data that are not a linear function of x, for which the mutual information is infinite"
        )
    value = -0.5 * float(np.log1p(-(rho**2)).sum())
    if unbiased and shrinkage is None:
        # Not at the top: SciPy's modules would take most of the time of `import mi_estimators`.
        from scipy.special import digamma

        # E log det S_d - log det Sigma_d, but for a term linear in d, which cancels: d_x + d_y = d.
        log_det_bias = [float(digamma((n - np.arange(1, dim + 1)) / 2).sum()) for dim in (dim_x, dim_y, dim_x + dim_y)]
        value -= (log_det_bias[0] + log_det_bias[1] - log_det_bias[2]) / 2
    by_chance = dim_x * dim_y / n
    variance = (max(0.0, float((rho**2).sum()) - by_chance) + by_chance / 2) / n
    return Measurement(value, std=math.sqrt(variance))
