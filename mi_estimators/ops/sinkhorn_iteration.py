r"""One alternating iteration of Sinkhorn from points, in one sweep over the pairs.

With potentials :math:`\varphi, \psi` in units of epsilon and scores :math:`s_{ij} = \mathrm{scale} \cdot
\mathrm{score}(x_i, y_j)`,

.. math::
    \mathrm{row}_i = \log \sum_j b_j e^{s_{ij} + \psi_j}, \qquad
    \varphi'_i = (1 - \omega)\, \varphi_i - \omega\, \delta\, \mathrm{row}_i, \qquad
    \mathrm{col}_j = \log \sum_i a_i e^{s_{ij} + \varphi'_i}

A new row potential multiplies its row of exponentials by one number. So the kernel takes one product and one
exponential a pair for both sums, from potentials that are near: those of the last iteration.

This file holds the operator whole: schema, torch reference, shape function and the function that calls it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mi_estimators.ops.pairwise_lse import accumulation_dtype, blocks, pair_scores, widened

_NAME = "mi_estimators::sinkhorn_iteration"

_library = torch.library.Library("mi_estimators", "FRAGMENT")
_library.define(
    "sinkhorn_iteration(Tensor x, Tensor y, Tensor scale, Tensor a, Tensor b, Tensor phi, Tensor psi, Tensor damping,"
    " Tensor? products, float relaxation, str score) -> (Tensor row_lse, Tensor new_phi, Tensor col_lse)"
)


def reference(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    a: Tensor,
    b: Tensor,
    phi: Tensor,
    psi: Tensor,
    damping: Tensor,
    products: Tensor | None,
    relaxation: float,
    score: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator in torch, by blocks of rows."""
    wide_x, wide_y = widened(x, y, score)
    log_a, log_b = a.log(), b.log()
    row_lse, new_phi = torch.empty_like(phi), torch.empty_like(phi)
    col_lse = torch.full_like(psi, -torch.inf)
    for rows in blocks(wide_x.shape[0], wide_y.shape[0]):
        scores = scale * pair_scores(wide_x[rows], wide_y, score)
        row_lse[rows] = torch.logsumexp(scores + (psi + log_b), dim=1)
        new_phi[rows] = -relaxation * damping * row_lse[rows]
        if relaxation != 1:
            new_phi[rows] += (1 - relaxation) * phi[rows]
        part = torch.logsumexp(scores + (new_phi[rows] + log_a[rows])[:, None], dim=0)
        col_lse = torch.logaddexp(col_lse, part)
    return row_lse, new_phi, col_lse


@torch.library.register_fake(_NAME, lib=_library)
def _fake(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    a: Tensor,
    b: Tensor,
    phi: Tensor,
    psi: Tensor,
    damping: Tensor,
    products: Tensor | None,
    relaxation: float,
    score: str,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(x.dtype)
    n, m = x.shape[0], y.shape[0]
    return x.new_empty(n, dtype=dtype), x.new_empty(n, dtype=dtype), x.new_empty(m, dtype=dtype)


_library.impl("sinkhorn_iteration", reference, "CompositeExplicitAutograd")


@torch.no_grad()
def sinkhorn_iteration(
    x: Tensor,
    y: Tensor,
    *,
    scale: Tensor,
    a: Tensor,
    b: Tensor,
    phi: Tensor,
    psi: Tensor,
    damping: Tensor,
    products: Tensor | None = None,
    relaxation: float = 1.0,
    score: str = "sqeuclidean",
) -> tuple[Tensor, Tensor, Tensor]:
    r"""One alternating Sinkhorn iteration: row sums, the row potential they give, and column sums at that potential.

    The formula is that of this module. It looks at no values, so it never waits for a device, and has no gradients: it
    is the step of :func:`~mi_estimators.sinkhorn`, which has.

    Args:
        x: the rows.
        y: the columns.
        scale: one number, 1 / epsilon for costs.
        a: weights of the rows, >= 0. A point of weight 0 is in no sum, and has a sum of its own.
        b: weights of the columns.
        phi: potential of the rows, over epsilon; finite.
        psi: potential of the columns, over epsilon; finite.
        damping: one number :math:`\delta`: 1 where the marginal of the rows is held,
            :math:`\rho / (\varepsilon + \rho)` where leaving it costs :math:`\rho`.
        products: :math:`x_i \cdot y_j` of all pairs, where they are at hand: a kernel may use them instead of
            computing them again. For ``"sqeuclidean"`` they lose fewer digits if the points lie around the origin.
        relaxation: the part :math:`\omega` of the step that is gone.
        score: ``"sqeuclidean"`` for :math:`-|x_i - y_j|^2`, ``"dot"`` for :math:`x_i \cdot y_j`.

    Shape:
        - x: :math:`(N, d)`, y: :math:`(M, d)`, a, phi: :math:`(N,)`, b, psi: :math:`(M,)`,
          products: :math:`(N, M)`, scale, damping: one element
        - Output: row :math:`(N,)`, new phi :math:`(N,)`, col :math:`(M,)`; float32 for float32, bfloat16 and float16
          points, float64 for float64. All inputs but the points have that dtype.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not match.
    """
    row_lse, new_phi, col_lse = torch.ops.mi_estimators.sinkhorn_iteration(
        x, y, scale, a, b, phi, psi, damping, products, relaxation, score
    )
    return row_lse, new_phi, col_lse
