"""Entropy of the Gaussian that has the covariance of a sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import accumulated, without_autocast

SHRINKAGES = ("ledoit_wolf", "oas")


def shrinkage_intensity(method: str, centred: Tensor, squares: Tensor, mean_variance: Tensor) -> Tensor:
    """How far a covariance is to move towards a multiple of the identity.

    Args:
        method: of ``SHRINKAGES``.
        centred: the points less their mean, ``[n, d]``.
        squares: sum of the squares of all entries of the covariance.
        mean_variance: mean of its diagonal.
    """
    n, dim = centred.shape
    spread = squares / dim - mean_variance.square()  # mean square distance of an entry from the target's, times d
    if method == "oas":
        above = squares / dim**2 + mean_variance.square()
        below = (n + 1) * spread / dim
    else:
        fourth = centred.square().sum(dim=1).square().sum()
        above = (fourth / n - squares) / (n * dim)
        below = spread
    # A covariance that already is a multiple of the identity stays as it is, whatever the intensity.
    return torch.where(below > 0, above / torch.where(below > 0, below, 1), 1).clamp(0, 1)


def gaussian_entropy(x: Tensor, *, shrinkage: str | float | None = None) -> Tensor:
    r"""Entropy of a normal distribution with the covariance of the sample, an upper bound for others in the limit.

    .. math::
        \hat H = \frac12 \log \det (2 \pi e\, \hat\Sigma), \qquad
        \hat\Sigma = (1 - \rho) S + \rho\, \frac{\operatorname{tr} S}{d} I

    with :math:`S = \frac1N \sum_i (x_i - \bar x)(x_i - \bar x)^\top` and the shrinkage :math:`\rho`, which makes the
    determinant positive also for fewer points than dimensions, and the estimate steadier from some more:

    * ``None``: :math:`\rho = 0`, the maximum-likelihood value, which on average is too small by about
      :math:`d(d+3)/4N`;
    * ``"ledoit_wolf"``: :math:`\rho` that minimises the expected squared error of :math:`\hat\Sigma`, estimated for
      any distribution;
    * ``"oas"``: the same, estimated for normal data, which is better where N is small. As in scikit-learn, without
      the terms in 2/d of the paper;
    * a number from 0 to 1.

    Differentiable, through :math:`\rho` too. Cost: that of the smaller of the d x d and the N x N matrix of products.

    Args:
        x: the sample.
        shrinkage: ``None``, ``"ledoit_wolf"``, ``"oas"`` or a number.

    Shape:
        - x: :math:`(N, d)`, :math:`N \ge 2`, and :math:`N > d` without shrinkage; Output: scalar. Nats. float32 for
          half inputs.

    Raises:
        TypeError, ValueError: not a finite floating-point matrix; too few points; dimensions that do not vary or that
            others determine (without shrinkage; looked at as :func:`~mi_estimators.value_checks` says); an unknown
            shrinkage, or one outside [0, 1].

    Source: Ledoit and Wolf (2004), section 3.3; Chen, Wiesel, Eldar and Hero (2010), arXiv 0907.4698, eq. 23.
    """
    _checks.floating("x", x)
    n, dim = x.shape
    if isinstance(shrinkage, str):
        _checks.choice("shrinkage", shrinkage, SHRINKAGES)
    elif shrinkage is not None:
        if isinstance(shrinkage, bool) or not isinstance(shrinkage, (int, float)):
            raise TypeError(f"shrinkage: want a rule, a number or None, got {_checks.describe(shrinkage)}")
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage: want a number from 0 to 1, got {shrinkage!r}")
    if n < 2:
        raise ValueError(f"x: want at least 2 points, got {_checks.describe(x)}")
    if not shrinkage and n <= dim:
        raise ValueError(f"x: want more points than its {dim} dimensions, or shrinkage, got {_checks.describe(x)}")
    _checks.finite("x", x)
    with without_autocast(x):
        (x,) = accumulated(x)
        centred = x - x.mean(dim=0)
        # Of the two products of the centred points take the smaller: they share the eigenvalues other than 0.
        small = (centred @ centred.T if n < dim else centred.T @ centred) / n
        size = min(n, dim)
        mean_variance = small.diagonal().sum() / dim
        if _checks.concrete(x):
            spread = centred.detach().square().sum(dim=0)
            if not bool((spread > 0).all()) and (not shrinkage or not bool((spread > 0).any())):
                dims = (spread <= 0).nonzero().flatten().tolist()
                raise ValueError(f"x: want dimensions that vary, got constant ones: {dims}")
        if shrinkage is None:
            covariance, floor = small, None
        else:
            if isinstance(shrinkage, str):
                rho = shrinkage_intensity(shrinkage, centred, small.square().sum(), mean_variance)
            else:
                rho = mean_variance.new_tensor(shrinkage)
            floor = rho * mean_variance
            covariance = (1 - rho) * small + floor * torch.eye(size, dtype=x.dtype, device=x.device)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if _checks.concrete(x):
            # The share of each variance that the dimensions before do not explain, which rounding keeps from being 0.
            unexplained = factor.detach().diagonal().square() / covariance.detach().diagonal()
            if bool(failed) or not bool((unexplained > 8 * size * torch.finfo(x.dtype).eps).all()):
                raise ValueError(
                    "x: want dimensions that the others do not determine (to rounding), or more shrinkage, got a "
                    "singular covariance"
                )
        log_det = 2 * factor.diagonal().log().sum()
        if dim > size and floor is not None:
            log_det = log_det + (dim - size) * floor.log()
        return 0.5 * (dim * math.log(2 * math.pi * math.e) + log_det)
