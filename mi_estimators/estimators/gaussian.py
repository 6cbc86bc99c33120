"""Closed-form estimate for jointly Gaussian data, by canonical correlations."""

from __future__ import annotations

import math

import numpy as np

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


def estimate(x: np.ndarray, y: np.ndarray, *, seed: int = 0, unbiased: bool = True) -> Measurement:
    """Gaussian estimate ``-1/2 sum_k log(1 - rho_k^2)`` over the canonical correlations rho_k, in nats.

    For Gaussian data the plug-in value exceeds the truth by about ``dim_x dim_y / (2 n)``; that expectation is known in
    closed form from the log-determinant of a Wishart matrix, and is subtracted. For other data the estimate sees only
    the linear dependence. The standard error is the asymptotic one, ``sqrt(sum_k rho_k^2 / n)``.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]`` float64.
        seed: not used: the estimate is deterministic.
        unbiased: subtract the bias of the plug-in value.

    Raises:
        ValueError: there are fewer than dim_x + dim_y + 2 pairs, or the columns are linearly dependent.

    Source:
        Gelfand and Yaglom 1957; for the bias, Muirhead 1982, sec. 3.2 (determinant of a Wishart matrix).
    """
    n, dim_x = x.shape
    dim_y = y.shape[1]
    if n < dim_x + dim_y + 2:
        raise ValueError(f"x: want at least dim_x + dim_y + 2 = {dim_x + dim_y + 2} pairs, got {n}")
    rho = canonical_correlations(x, y)
    if rho[0] >= 1:
        raise ValueError(
            "y: want data that are not a linear function of x, for which the mutual information is infinite"
        )
    value = -0.5 * float(np.log1p(-(rho**2)).sum())
    if unbiased:
        # Not at the top: SciPy's modules would take most of the time of `import mi_estimators`.
        from scipy.special import digamma

        # E log det S_d - log det Sigma_d, but for a term linear in d, which cancels: d_x + d_y = d.
        log_det_bias = [float(digamma((n - np.arange(1, dim + 1)) / 2).sum()) for dim in (dim_x, dim_y, dim_x + dim_y)]
        value -= (log_det_bias[0] + log_det_bias[1] - log_det_bias[2]) / 2
    return Measurement(value, std=math.sqrt(float((rho**2).sum()) / n))
