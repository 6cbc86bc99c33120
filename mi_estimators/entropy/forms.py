r"""The forms of a bandwidth, and what each makes of a kernel density: one pass of the pairwise log-sum-exp.

==================  ==============  ==========================================================================
form                shape           density of a radial kernel
==================  ==============  ==========================================================================
``"scalar"``        number, [], [1]  :math:`k_h(q - x_j)`
``"dimension"``     [d]             coordinates over :math:`h_k`; the constant over :math:`\prod_k h_k`
``"covariance"``    [d, d]          :math:`L^{-1}` times the points, :math:`H = L L^\top`; the constant over :math:`|L|`
``"point"``         [M, 1]          :math:`k_{h_j}(q - x_j)`
==================  ==============  ==========================================================================

A bandwidth of its own for each point is still one pass for the Gaussian: with centred points,

.. math::
    -\frac{|q - x_j|^2}{2 h_j^2} = (q, |q|^2) \cdot \Bigl(\frac{x_j}{h_j^2}, -\frac{1}{2 h_j^2}\Bigr)
    - \frac{|x_j|^2}{2 h_j^2}

is a dot product in d + 1 dimensions and a bias. Its terms cancel where points are many bandwidths from their mean, so
it is computed in float64 whatever the dtype. The von Mises-Fisher kernel's :math:`\kappa_j\, q \cdot x_j` needs no such
care. For the other kernels :mod:`mi_estimators.entropy.per_point` forms the sums by blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.entropy.kernels import Kernel
from mi_estimators.entropy.per_point import lse_with_scales
from mi_estimators.entropy.vmf import log_vmf_normalizer
from mi_estimators.ops.pairwise_lse import unchecked_pairwise_lse

Bandwidth: TypeAlias = float | Tensor
"""A bandwidth that has been chosen, in one of the forms above; of the kernel ``"vmf"`` the concentration."""


@dataclass(frozen=True)
class Sum:
    """A kernel sum as a row log-sum-exp: over j of the score of ``rows(q)`` and column j, times scale, plus bias.

    Attributes:
        score, scale, bias: of :func:`~mi_estimators.pairwise_lse`; the bias is None or [M], the scale one or [M].
        constant: added to the log-sum-exp; with it, the logarithm of the sum of normalised kernels.
        rows: what becomes of query points before they enter.
        columns: what has become of the support; None where it is ``rows(support)``.
    """

    score: str
    scale: float | Tensor
    bias: Tensor | None
    constant: float | Tensor
    rows: Callable[[Tensor], Tensor]
    columns: Tensor | None

    def log_sum(self, rows: Tensor, columns: Tensor | None, *, exclude_diagonal: bool = False) -> Tensor:
        """The row log-sum-exps, without the constant; ``columns=None`` pairs the rows with themselves."""
        if isinstance(self.scale, Tensor) and self.scale.ndim:
            others = rows if columns is None else columns
            return lse_with_scales(rows, others, self.scale, self.score, self.bias, exclude_diagonal=exclude_diagonal)
        return unchecked_pairwise_lse(
            rows, columns, scale=self.scale, score=self.score, bias=self.bias, exclude_diagonal=exclude_diagonal
        )

    def turned(self, first: int) -> Sum:
        """The same with column ``first`` in front."""
        if not first:
            return self
        bias = None if self.bias is None else self.bias.roll(-first, dims=0)
        scale = self.scale
        if isinstance(scale, Tensor) and scale.ndim:
            scale = scale.roll(-first, dims=0)
        return replace(self, bias=bias, scale=scale)


def bandwidth_form(bandwidth: Bandwidth, kernel: Kernel, count: int, dim: int, name: str = "bandwidth") -> str:
    """The form of a bandwidth for ``count`` support points in ``dim`` dimensions, checked.

    A matrix with one element is a covariance in one dimension, and otherwise the bandwidth of a single point.

    Raises:
        TypeError, ValueError: neither number nor floating-point tensor, a shape that is none of the forms, values that
            are not positive and finite, a matrix that is not symmetric; dimensions without variance are named.
    """
    if not isinstance(bandwidth, Tensor):
        _checks.positive(name, bandwidth)
        return "scalar"
    shape = tuple(bandwidth.shape)
    if kernel.radial and shape == (dim, dim):
        _check_covariance(bandwidth, name)
        return "covariance"
    _checks.positive(name, bandwidth)
    if bandwidth.numel() == 1:
        return "scalar"
    if shape == (count, 1):
        return "point"
    if kernel.radial and shape == (dim,):
        return "dimension"
    others = f"[{dim}] for one per dimension, [{dim}, {dim}] for a covariance, " if kernel.radial else ""
    raise ValueError(
        f"{name}: want a number, {others}or [{count}, 1] for one per support point, got {_checks.describe(bandwidth)}"
    )


def _check_covariance(bandwidth: Tensor, name: str) -> None:
    if not bandwidth.is_floating_point():
        raise TypeError(f"{name}: want a floating-point tensor, got {_checks.describe(bandwidth)}")
    _checks.finite(name, bandwidth)
    if not _checks.concrete(bandwidth):
        return
    with torch.no_grad():
        variances = bandwidth.diagonal()
        empty = (variances <= 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"{name}: want a positive variance in every dimension, got none in dimensions {empty}")
        skew = (bandwidth - bandwidth.T).abs().max()
        if not bool(skew <= 1e-4 * variances.max()):
            raise ValueError(
                f"{name}: want a symmetric covariance, got one that differs from its transpose by {skew:.3g}"
            )


def _cholesky(bandwidth: Tensor, name: str) -> Tensor:
    wide = bandwidth.to(torch.float64)
    factor, info = torch.linalg.cholesky_ex((wide + wide.T) / 2)
    if _checks.concrete(bandwidth):
        with torch.no_grad():
            # What variance is left in a dimension once those before it are known, to the rounding of the dtype.
            left = factor.diagonal().square() / wide.diagonal()
            dependent = (~(left > len(wide) * torch.finfo(bandwidth.dtype).eps)).nonzero().flatten().tolist()
        if int(info) or dependent:
            raise ValueError(
                f"{name}: want a positive definite covariance, got a singular one: dimensions "
                f"{[int(info) - 1] if int(info) else dependent} follow linearly from those before them"
            )
    return factor


def _identity(points: Tensor) -> Tensor:
    return points


def _check_range(name: str, scale: float | Tensor, dtype: torch.dtype) -> None:
    if isinstance(scale, Tensor):
        return
    held = torch.finfo(dtype)
    if not held.tiny <= scale <= held.max:
        which = "larger" if scale < held.tiny else "smaller"
        raise ValueError(f"{name}: want one whose inverse square {dtype} can hold, got a {which} one")


def kernel_sum(bandwidth: Bandwidth, kernel: Kernel, support: Tensor, name: str = "bandwidth") -> Sum:
    """The kernel sum over the support points [M, d], at a bandwidth that a rule or a caller has chosen.

    Raises:
        TypeError, ValueError: as :func:`bandwidth_form`; a covariance that is not positive definite.
    """
    count, dim = support.shape
    form = bandwidth_form(bandwidth, kernel, count, dim, name)
    if isinstance(bandwidth, Tensor):
        bandwidth = bandwidth.to(support.device)
    if form == "scalar":
        h = bandwidth.reshape(()) if isinstance(bandwidth, Tensor) else bandwidth
        if not isinstance(h, Tensor) and torch.compiler.is_compiling():
            # A number that changes from call to call is a symbol there, which math.log does not take.
            h = torch.full((), h, dtype=torch.float64, device=support.device)
        scale = kernel.scale(h)
        _check_range(name, scale, support.dtype)
        return Sum(kernel.score, scale, None, kernel.log_normalizer(dim, h), _identity, None)
    assert isinstance(bandwidth, Tensor)
    if form == "point":
        return _point_sum(bandwidth.reshape(-1), kernel, support)
    # Centred first: the quotient of a coordinate far from 0 would lose the digits that tell points apart.
    centre = support.detach().mean(dim=0)
    constant = kernel.log_normalizer(dim, 1.0)
    if form == "dimension":
        widths = bandwidth.to(support.dtype)

        def rows(points: Tensor) -> Tensor:
            return (points - centre) / widths

        return Sum(kernel.score, kernel.scale(1.0), None, constant - bandwidth.double().log().sum(), rows, None)
    factor = _cholesky(bandwidth, name)

    def whitened(points: Tensor) -> Tensor:
        centred = (points - centre).to(torch.float64)
        return torch.linalg.solve_triangular(factor, centred.T, upper=False).T.to(points.dtype)

    return Sum(kernel.score, kernel.scale(1.0), None, constant - factor.diagonal().log().sum(), whitened, None)


def _point_sum(widths: Tensor, kernel: Kernel, support: Tensor) -> Sum:
    dim = support.shape[1]
    if not kernel.radial:
        constants = log_vmf_normalizer(dim, widths)
        assert isinstance(constants, Tensor)
        return Sum("dot", 1.0, constants, 0.0, _identity, widths.to(support.dtype)[:, None] * support)
    widths = widths.to(torch.float64)
    if kernel.name != "gaussian":
        bias = kernel.log_normalizer(dim, widths)
        assert isinstance(bias, Tensor)
        return Sum(kernel.score, kernel.scale(widths), bias, 0.0, _identity, None)
    centre = support.detach().to(torch.float64).mean(dim=0)
    points = support.to(torch.float64) - centre
    rates = 0.5 / widths**2
    bias = -rates * points.square().sum(dim=1) - dim * widths.log()

    def rows(queries: Tensor) -> Tensor:
        centred = queries.to(torch.float64) - centre
        return torch.cat([centred, centred.square().sum(dim=1, keepdim=True)], dim=1)

    columns = torch.cat([2 * rates[:, None] * points, -rates[:, None]], dim=1)
    return Sum("dot", 1.0, bias, -dim / 2 * math.log(2 * math.pi), rows, columns)


def effective_bandwidth(bandwidth: Bandwidth, kernel: Kernel, count: int, dim: int) -> float:
    """The number that stands for a bandwidth of any form: of the same volume; over points the geometric mean."""
    form = bandwidth_form(bandwidth, kernel, count, dim)
    if not isinstance(bandwidth, Tensor):
        return float(bandwidth)
    wide = bandwidth.detach().to("cpu", torch.float64)
    if form == "covariance":
        return float((wide.slogdet()[1] / (2 * dim)).exp())
    return float(wide.log().mean().exp())
