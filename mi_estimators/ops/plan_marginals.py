r"""Row and column log-sums of a transport plan given by its potentials, in one sweep over the pairs.

.. math::
    P_{ij} = e^{\mathrm{scale} \cdot \mathrm{score}(x_i, y_j) + u_i + v_j}, \qquad
    \mathrm{row}_i = \log \sum_j P_{ij}, \qquad \mathrm{col}_j = \log \sum_i P_{ij}

One exponential a pair serves both sums. With potentials near those of the plan sought, which is what an iteration
hands in, the sums are of the size of the marginals and need no shift: that is what the kernel counts on, and checks.

This file holds the operator whole: schema, torch reference, shape function and the public function.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import accumulation_dtype, as_scale, blocks, check_bias, pair_scores, widened

MARGINAL_SCORES = ("dot", "sqeuclidean")

_NAME = "mi_estimators::plan_marginals"

_library = torch.library.Library("mi_estimators", "FRAGMENT")
_library.define(
    "plan_marginals(Tensor x, Tensor y, Tensor scale, Tensor log_u, Tensor log_v, str score)"
    " -> (Tensor row_lse, Tensor col_lse)"
)


def reference(x: Tensor, y: Tensor, scale: Tensor, log_u: Tensor, log_v: Tensor, score: str) -> tuple[Tensor, Tensor]:
    """The operator in torch, by blocks of rows."""
    wide_x, wide_y = widened(x, y, score)
    row_lse = torch.empty_like(log_u)
    col_lse = torch.full_like(log_v, -torch.inf)
    for rows in blocks(wide_x.shape[0], wide_y.shape[0]):
        logits = scale * pair_scores(wide_x[rows], wide_y, score) + log_u[rows, None] + log_v
        row_lse[rows] = torch.logsumexp(logits, dim=1)
        col_lse = torch.logaddexp(col_lse, torch.logsumexp(logits, dim=0))
    return row_lse, col_lse


@torch.library.register_fake(_NAME, lib=_library)
def _fake(x: Tensor, y: Tensor, scale: Tensor, log_u: Tensor, log_v: Tensor, score: str) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(x.dtype)
    return x.new_empty(x.shape[0], dtype=dtype), x.new_empty(y.shape[0], dtype=dtype)


_library.impl("plan_marginals", reference, "CompositeExplicitAutograd")


@torch.no_grad()
def plan_marginals(
    x: Tensor,
    y: Tensor,
    *,
    scale: float | Tensor,
    log_u: Tensor,
    log_v: Tensor,
    score: str = "sqeuclidean",
) -> tuple[Tensor, Tensor]:
    r"""Logarithms of the row and column sums of a plan given by potentials, without the plan and without gradients.

    .. math::
        \mathrm{row}_i = \log \sum_j e^{\mathrm{scale} \cdot \mathrm{score}(x_i, y_j) + u_i + v_j}, \qquad
        \mathrm{col}_j = \log \sum_i e^{\mathrm{scale} \cdot \mathrm{score}(x_i, y_j) + u_i + v_j}

    Both sums come from one sweep over the pairs with one exponential each. Memory is O((N + M) d).

    Args:
        x: the rows.
        y: the columns.
        scale: a number, or a tensor with one element.
        log_u: added to every score of a row; ``-inf`` leaves the row out of the column sums.
        log_v: added to every score of a column; ``-inf`` leaves the column out of the row sums.
        score: ``"sqeuclidean"`` for :math:`-|x_i - y_j|^2`, ``"dot"`` for :math:`x_i \cdot y_j`.

    Shape:
        - x: :math:`(N, d)`, y: :math:`(M, d)`, log_u: :math:`(N,)`, log_v: :math:`(M,)`
        - Output: row :math:`(N,)`, col :math:`(M,)`; float32 for float32, bfloat16 and float16 inputs, float64 for
          float64.

    Raises:
        TypeError: not floating-point tensors, or dtypes that differ.
        ValueError: shapes or devices that do not match, an empty side, NaN or infinite values (looked at as
            :func:`~mi_estimators.value_checks` says), or an unknown score.
    """
    _checks.choice("score", score, MARGINAL_SCORES)
    _checks.floating("x", x)
    _checks.floating("y", y)
    _checks.alike("y", y, "x", x)
    _checks.finite("x", x)
    _checks.finite("y", y)
    log_u = check_bias(log_u, x, x.shape[0], name="log_u", counted="row")
    log_v = check_bias(log_v, x, y.shape[0], name="log_v")
    row_lse, col_lse = torch.ops.mi_estimators.plan_marginals(x, y, as_scale(scale, x), log_u, log_v, score)
    return row_lse, col_lse
