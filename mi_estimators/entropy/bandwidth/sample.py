"""The points that a bandwidth is chosen for: checked, detached, with the weighted statistics that rules need."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import accumulation_dtype

SMALLEST_SHARE = 1e-6
"""Smallest bandwidth that a search returns, as a share of the normal-reference one."""


@dataclass(frozen=True)
class Sample:
    """Points and their weights.

    Attributes:
        x: [n, d], detached, float64 or float32; points of weight 0 are dropped.
        weights: [n], float64, positive, of sum 1; None where all weigh the same.
    """

    x: Tensor
    weights: Tensor | None

    @property
    def size(self) -> int:
        """Number of points."""
        return self.x.shape[0]

    @property
    def dim(self) -> int:
        """Number of columns."""
        return self.x.shape[1]

    @property
    def effective_size(self) -> float:
        """1 / (sum of squared weights): the number of points of equal weight that would vary as little."""
        return float(self.size) if self.weights is None else 1 / float(self.weights.square().sum())

    @property
    def shares(self) -> Tensor:
        """The weights [n] in float64, written out where all are equal."""
        if self.weights is None:
            return torch.full((self.size,), 1 / self.size, dtype=torch.float64, device=self.x.device)
        return self.weights

    @property
    def bias(self) -> Tensor | None:
        """Logarithm of the weights, as the pairwise operators take it."""
        return None if self.weights is None else self.weights.log().to(self.x.dtype)

    def in_float64(self) -> Sample:
        """The same points in float64."""
        return replace(self, x=self.x.to(torch.float64))

    def mean(self, values: Tensor) -> Tensor:
        """Weighted mean over the last dimension, in float64."""
        values = values.to(torch.float64)
        return values.mean(dim=-1) if self.weights is None else values @ self.weights

    def covariance(self) -> Tensor:
        """The unbiased covariance [d, d] (NumPy's ``cov`` with ``aweights``), in float64."""
        wide = self.x.to(torch.float64)
        centred = wide - self.mean(wide.T)
        return (centred.T * self.shares) @ centred / (1 - 1 / self.effective_size)

    def standard_deviations(self) -> Tensor:
        """The square root of the covariance's diagonal [d], in float64."""
        wide = self.x.to(torch.float64)
        centred = wide - self.mean(wide.T)
        return (self.mean(centred.square().T) / (1 - 1 / self.effective_size)).sqrt()


def normal_factor(dim: int, size: float) -> float:
    r""":math:`(4 / ((d + 2) n))^{1/(d+4)}`: the best Gaussian bandwidth for normal data of unit variance."""
    return (4 / ((dim + 2) * size)) ** (1 / (dim + 4))


def sample_of(x: Tensor, weights: Tensor | None, *, constant_columns: bool = False) -> Sample:
    """Check points and weights, and drop the points of weight 0.

    Args:
        x: the points.
        weights: their weights, or None.
        constant_columns: accept columns that hold one value only.
    """
    _checks.floating("x", x)
    _checks.finite("x", x)
    points = x.detach().to(accumulation_dtype(x.dtype))
    shares = None if weights is None else _checked_weights(weights, x)
    if shares is not None:
        points, shares = points[shares > 0], shares[shares > 0]
    if points.shape[0] < 2:
        kept = "" if weights is None else f" of which {points.shape[0]} of positive weight"
        raise ValueError(f"x: want at least 2 points to choose a bandwidth, got {_checks.describe(x)}{kept}")
    if shares is not None and not 1 - float(shares.square().sum()) > 1e-15:
        raise ValueError(
            "weights: want at least two points that count to choose a bandwidth, got one with all of the weight but "
            "for what float64 rounds away"
        )
    constant = (points.amin(dim=0) == points.amax(dim=0)).nonzero().flatten().tolist()
    if constant and not constant_columns:
        raise ValueError(
            "x: want points that differ in every column to choose a bandwidth (elsewhere there is no density), got "
            f"constant {'column' if len(constant) == 1 else 'columns'} {', '.join(map(str, constant))} "
            f"of {points.shape[1]}"
        )
    return Sample(points, shares)


def _checked_weights(weights: Tensor, x: Tensor) -> Tensor:
    _checks.floating("weights", weights, ndim=1)
    if weights.shape[0] != x.shape[0]:
        raise ValueError(f"weights: want one value per point ({x.shape[0]}), got {_checks.describe(weights)}")
    if weights.device != x.device:
        raise ValueError(f"weights: want the device of x ({x.device}), got {_checks.describe(weights)}")
    wide = weights.detach().to(torch.float64)
    lowest, total = float(wide.min()), float(wide.sum())
    if not (lowest >= 0 and math.isfinite(total)):
        raise ValueError(f"weights: want finite values >= 0, got a smallest of {lowest} and a sum of {total}")
    if not total > 0:
        raise ValueError("weights: want at least one value > 0, got zeros only")
    return wide / total


def may_be_rounding(sample: Sample, mean_square: float) -> bool:
    r"""Whether bandwidths are so narrow, by the mean of :math:`\sigma_k^2 / h_k^2`, that rounding may have chosen them.

    Squared distances from products are off by a share of the points' own squares, also where points coincide: a search
    stops there instead of at its floor, and finds a bandwidth that is the rounding's.
    """
    return 4 * torch.finfo(sample.x.dtype).eps * mean_square >= 1


def unweighted(rule: str, weights: Tensor | None, why: str) -> None:
    """Refuse weights for a rule in which they have no meaning."""
    if weights is not None:
        raise ValueError(f"weights: want None for rule {rule!r}, as {why}; got {_checks.describe(weights)}")


def warn_of_duplicates(rule: str, stopped_at: str) -> None:
    """Say that the criterion has no optimum, and where the search stopped."""
    warnings.warn(
        f"bandwidth {rule!r}: the criterion improves without bound as kernels narrow (duplicate points?); "
        f"stopped at {stopped_at}",
        RuntimeWarning,
        stacklevel=2,
    )
