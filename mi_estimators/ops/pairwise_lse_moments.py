r"""Pairwise log-sum-exp at several scales in one sweep over the pairs, with the first moment of the scores.

.. math::
    \mathrm{lse}_{bi} = \log \sum_j e^{s^{(b)}_{ij}}, \qquad
    \mathrm{moment}_{bi} = \frac{\sum_j e^{s^{(b)}_{ij}}\, \mathrm{score}_{ij}}{\sum_j e^{s^{(b)}_{ij}}}, \qquad
    s^{(b)}_{ij} = \mathrm{scale}_b \cdot \mathrm{score}(x_i, y_j) + \mathrm{bias}_j

The moment is the derivative of lse by the scale. Both together are what a search for a bandwidth asks for at every
step, and the scores, which cost the product, do not depend on the bandwidth. Nothing here has a gradient.

This file holds the operator whole: schema, torch reference, shape function and the public function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import accumulation_dtype, blocks, check_bias, pair_scores, widened

MOMENT_SCORES = ("dot", "sqeuclidean")

_NAME = "mi_estimators::pairwise_lse_moments"

_library = torch.library.Library("mi_estimators", "FRAGMENT")
_library.define(
    "pairwise_lse_moments(Tensor x, Tensor? y, Tensor scales, Tensor? bias, str score, bool exclude_diagonal)"
    " -> (Tensor lse, Tensor moment)"
)


def reference(
    x: Tensor, y: Tensor | None, scales: Tensor, bias: Tensor | None, score: str, exclude_diagonal: bool
) -> tuple[Tensor, Tensor]:
    """The operator in torch, by blocks of rows."""
    wide_x, wide_y = widened(x, y, score)
    lse = wide_x.new_empty(scales.shape[0], wide_x.shape[0])
    moment = torch.empty_like(lse)
    for rows in blocks(wide_x.shape[0], wide_y.shape[0]):
        scores = pair_scores(wide_x[rows], wide_y, score)
        for b, scale in enumerate(scales):
            logits = scale * scores if bias is None else scale * scores + bias
            if exclude_diagonal:
                logits.diagonal(rows.start).fill_(-math.inf)
            lse[b, rows] = top = torch.logsumexp(logits, dim=1)
            # A row without a finite score has no weights: exp(-inf - 0) = 0.
            weights = torch.exp(logits - top.masked_fill(top == -math.inf, 0)[:, None])
            moment[b, rows] = (weights * scores).sum(dim=1)
    return lse, moment


@torch.library.register_fake(_NAME, lib=_library)
def _fake(
    x: Tensor, y: Tensor | None, scales: Tensor, bias: Tensor | None, score: str, exclude_diagonal: bool
) -> tuple[Tensor, Tensor]:
    shape, dtype = (scales.shape[0], x.shape[0]), accumulation_dtype(x.dtype)
    return x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


_library.impl("pairwise_lse_moments", reference, "CompositeExplicitAutograd")


@torch.no_grad()
def pairwise_lse_moments(
    x: Tensor,
    y: Tensor | None = None,
    *,
    scales: Tensor | Sequence[float],
    score: str = "sqeuclidean",
    bias: Tensor | None = None,
    exclude_diagonal: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Log-sum-exp of the pairs at each of several scales, and the mean score under the softmax; without gradients.

    .. math::
        \mathrm{lse}_{bi} = \log \sum_j e^{s^{(b)}_{ij}}, \qquad
        \mathrm{moment}_{bi} = \sum_j \mathrm{softmax}_j(s^{(b)}_{ij})\, \mathrm{score}_{ij} =
        \frac{\partial\, \mathrm{lse}_{bi}}{\partial\, \mathrm{scale}_b}, \qquad
        s^{(b)}_{ij} = \mathrm{scale}_b \cdot \mathrm{score}(x_i, y_j) + \mathrm{bias}_j

    The scores of a pair are computed once for all scales. Memory is O((N + M) d + B N).

    Args:
        x: the rows.
        y: the columns; ``None`` pairs ``x`` with itself.
        scales: one number or more.
        score: ``"dot"`` for :math:`x_i \cdot y_j`, ``"sqeuclidean"`` for :math:`-|x_i - y_j|^2`.
        bias: added to every score of a column; ``-inf`` leaves a column out.
        exclude_diagonal: leave the pairs ``i == j`` out of every sum.

    Shape:
        - x: :math:`(N, d)`, y: :math:`(M, d)`, scales: :math:`(B,)`, bias: :math:`(M,)`
        - Output: lse :math:`(B, N)`, moment :math:`(B, N)`; float32 for float32, bfloat16 and float16 inputs, float64
          for float64. A row without a finite score has lse ``-inf`` and moment 0.

    Raises:
        TypeError: not floating-point tensors, or dtypes that differ.
        ValueError: shapes or devices that do not match, an empty side, no scale, NaN or infinite values (looked at as
            :func:`~mi_estimators.value_checks` says), an unknown score, or one point paired with itself alone while
            the diagonal is excluded.
    """
    _checks.choice("score", score, MOMENT_SCORES)
    _checks.floating("x", x)
    _checks.finite("x", x)
    if y is not None:
        _checks.floating("y", y)
        _checks.alike("y", y, "x", x)
        _checks.finite("y", y)
    m = x.shape[0] if y is None else y.shape[0]
    if exclude_diagonal and (x.shape[0] == 1 or m == 1):
        raise ValueError(
            f"exclude_diagonal: want at least 2 rows and 2 columns to leave the diagonal out, got {x.shape[0]} x {m}"
        )
    dtype = accumulation_dtype(x.dtype)
    scales = torch.as_tensor(scales, dtype=dtype, device=x.device)
    if scales.dim() != 1 or scales.shape[0] == 0:
        raise ValueError(f"scales: want a sequence of one number or more, got {_checks.describe(scales)}")
    _checks.finite("scales", scales)
    if bias is not None:
        bias = check_bias(bias, x, m)
    lse, moment = torch.ops.mi_estimators.pairwise_lse_moments(x, y, scales, bias, score, exclude_diagonal)
    return lse, moment
