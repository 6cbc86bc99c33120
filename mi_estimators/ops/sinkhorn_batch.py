r"""Many small entropic transport problems in one call, with the derivative of their iterations.

For each problem of a batch, with :math:`z = s / \epsilon` and potentials that start at 0, ``n_iter`` times,

.. math::
    \varphi_i = \log a_i - \log \sum_j e^{z_{ij} + \psi_j}, \qquad
    \psi_j = \log b_j - \log \sum_i e^{z_{ij} + \varphi_i}, \qquad
    P_{ij} = e^{z_{ij} + \varphi_i + \psi_j} .

With the row-normalised :math:`R^k_{ij} = e^{z_{ij} + \varphi^k_i + \psi^{k-1}_j} / a_i` and the column-normalised
:math:`C^k_{ij} = e^{z_{ij} + \varphi^k_i + \psi^k_j} / b_j` of iteration k, gradients g at the potentials flow back as

.. math::
    g^\varphi_i \mathrel{-}= \sum_j C^k_{ij} g^\psi_j, \quad g^\psi_j \gets -\sum_i R^k_{ij} g^\varphi_i, \quad
    g^z_{ij} \mathrel{-}= C^k_{ij} g^\psi_j + R^k_{ij} g^\varphi_i .

Nothing is kept between forward and backward but the inputs: the backward runs the iterations again.

This file holds the operator whole: schema, torch reference in the log domain, shape functions, autograd, second
derivatives, public function. The compiled library adds kernels.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import accumulation_dtype, in_functorch

FIRST = ("rows", "columns")
GRADIENTS = ("unrolled", "envelope")

_NAME = "mi_estimators::sinkhorn_batch"
_BACKWARD_NAME = "mi_estimators::sinkhorn_batch_backward"

_library = torch.library.Library("mi_estimators", "FRAGMENT")
_library.define(
    "sinkhorn_batch(Tensor scores, Tensor? log_a, Tensor? log_b, float epsilon, int n_iter, bool rows_first,"
    " bool potentials) -> (Tensor plan, Tensor phi, Tensor psi)"
)
_library.define(
    "sinkhorn_batch_backward(Tensor grad_plan, Tensor? grad_phi, Tensor? grad_psi, Tensor scores, Tensor? log_a,"
    " Tensor? log_b, float epsilon, int n_iter, bool rows_first) -> (Tensor dscores, Tensor dlog_a, Tensor dlog_b)"
)


# ------------------------------------------------------------------------------------------------- differentiable


def _potential(log_weight: Tensor, t: Tensor, dim: int) -> Tensor:
    """log weight - logsumexp(t), and -inf where either is -inf; with gradient 0 there, and never NaN."""
    top = t.detach().amax(dim, keepdim=True)
    empty = (top == -torch.inf) | (log_weight.unsqueeze(dim) == -torch.inf)
    top = top.masked_fill(top == -torch.inf, 0)
    total = (t - top).exp().sum(dim, keepdim=True).masked_fill(empty, 1)
    return (log_weight.unsqueeze(dim).masked_fill(empty, 0) - top - total.log()).masked_fill(empty, -torch.inf)


def _history(
    scores: Tensor, log_a: Tensor | None, log_b: Tensor | None, epsilon: float, n_iter: int, rows_first: bool
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """z, log weights with the side that is scaled first as rows, and the potentials of all iterations, in float64."""
    batch, n, m = scores.shape
    z = scores.double() / epsilon  # at sharp temperatures the gradient is a small difference of large terms
    if log_a is None or log_b is None:
        log_a, log_b = z.new_zeros(batch, n), z.new_full((batch, m), math.log(n / m))
    log_a, log_b = log_a.double(), log_b.double()
    first, second = (log_a, log_b) if rows_first else (log_b, log_a)
    if not rows_first:
        z = z.mT
    z = z.masked_fill((first == -torch.inf)[:, :, None] | (second == -torch.inf)[:, None, :], -torch.inf)
    xs, ys = [torch.zeros_like(first)[:, :, None]], [torch.zeros_like(second)[:, None, :]]
    for _ in range(n_iter):
        xs.append(_potential(first, z + ys[-1], 2))
        ys.append(_potential(second, z + xs[-1], 1))
    return z, first, second, xs, ys


def _differentiable(
    scores: Tensor, log_a: Tensor | None, log_b: Tensor | None, epsilon: float, n_iter: int, rows_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    z, _, _, xs, ys = _history(scores, log_a, log_b, epsilon, n_iter, rows_first)
    plan, x, y = (z + xs[-1] + ys[-1]).exp(), xs[-1][:, :, 0], ys[-1][:, 0, :]
    return (plan, x, y) if rows_first else (plan.mT, y, x)


# ------------------------------------------------------------------------------------------------------ reference


def reference(
    scores: Tensor,
    log_a: Tensor | None,
    log_b: Tensor | None,
    epsilon: float,
    n_iter: int,
    rows_first: bool,
    potentials: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Plan and potentials in the log domain."""
    plan, phi, psi = _differentiable(scores, log_a, log_b, epsilon, n_iter, rows_first)
    wide = accumulation_dtype(scores.dtype)
    plan = plan.to(wide).contiguous()
    if not potentials:
        return plan, plan.new_empty(0), plan.new_empty(0)
    return plan, phi.to(wide).contiguous(), psi.to(wide).contiguous()


def reference_backward(
    grad_plan: Tensor,
    grad_phi: Tensor | None,
    grad_psi: Tensor | None,
    scores: Tensor,
    log_a: Tensor | None,
    log_b: Tensor | None,
    epsilon: float,
    n_iter: int,
    rows_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by scores and log weights (empty where there are none), as at the head of this file."""
    z, first, second, xs, ys = _history(scores, log_a, log_b, epsilon, n_iter, rows_first)
    if not rows_first:
        grad_plan, grad_phi, grad_psi = grad_plan.mT, grad_psi, grad_phi
    dz = grad_plan * (z + xs[-1] + ys[-1]).exp()
    dx, dy = dz.sum(2, keepdim=True), dz.sum(1, keepdim=True)
    if grad_phi is not None and grad_psi is not None:
        dx, dy = dx + grad_phi[:, :, None], dy + grad_psi[:, None, :]
    d_first, d_second = torch.zeros_like(dx), torch.zeros_like(dy)
    # Where a weight is -inf so is its potential, and a finite number in its place still gives exp(-inf) = 0.
    log_first = first.masked_fill(first == -torch.inf, 0)[:, :, None]
    log_second = second.masked_fill(second == -torch.inf, 0)[:, None, :]
    for k in range(n_iter, 0, -1):
        by_columns = (z + xs[k] + ys[k] - log_second).exp() * dy
        d_second = d_second + dy
        dx = dx - by_columns.sum(2, keepdim=True)
        by_rows = (z + xs[k] + ys[k - 1] - log_first).exp() * dx
        d_first = d_first + dx
        dz = dz - by_columns - by_rows
        dx, dy = torch.zeros_like(dx), -by_rows.sum(1, keepdim=True)
    dz, d_first, d_second = dz / epsilon, d_first[:, :, 0], d_second[:, 0, :]
    dscores, dlog_a, dlog_b = (dz, d_first, d_second) if rows_first else (dz.mT, d_second, d_first)
    dscores = dscores.to(scores.dtype).contiguous()
    if log_a is None:
        return dscores, grad_plan.new_empty(0), grad_plan.new_empty(0)
    return dscores, dlog_a.to(log_a.dtype).contiguous(), dlog_b.to(log_a.dtype).contiguous()


_library.impl("sinkhorn_batch", reference, "CompositeExplicitAutograd")
_library.impl("sinkhorn_batch_backward", reference_backward, "CompositeExplicitAutograd")


@torch.library.register_fake(_NAME, lib=_library)
def _fake(
    scores: Tensor,
    log_a: Tensor | None,
    log_b: Tensor | None,
    epsilon: float,
    n_iter: int,
    rows_first: bool,
    potentials: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, n, m = scores.shape
    plan = scores.new_empty((batch, n, m), dtype=accumulation_dtype(scores.dtype))
    return plan, plan.new_empty((batch, n) if potentials else 0), plan.new_empty((batch, m) if potentials else 0)


@torch.library.register_fake(_BACKWARD_NAME, lib=_library)
def _fake_backward(
    grad_plan: Tensor,
    grad_phi: Tensor | None,
    grad_psi: Tensor | None,
    scores: Tensor,
    log_a: Tensor | None,
    log_b: Tensor | None,
    epsilon: float,
    n_iter: int,
    rows_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    weights = [grad_plan.new_empty(0) if t is None else grad_plan.new_empty(t.shape) for t in (log_a, log_b)]
    return scores.new_empty(scores.shape), weights[0], weights[1]


# ------------------------------------------------------------------------------------------------------- autograd


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.options, ctx.potentials = inputs[3:6], inputs[6]
    ctx.set_materialize_grads(False)


def _gradients(
    ctx: Any, grad_plan: Tensor | None, grad_phi: Tensor | None, grad_psi: Tensor | None
) -> tuple[Tensor | None, ...]:
    scores, log_a, log_b = ctx.saved_tensors
    wide = accumulation_dtype(scores.dtype)
    if not ctx.potentials:
        grad_phi = grad_psi = None
    if grad_plan is None and grad_phi is None and grad_psi is None:
        return (None,) * 7
    if grad_plan is None:
        grad_plan = scores.new_zeros(scores.shape, dtype=wide)
    if grad_phi is not None or grad_psi is not None:
        grad_phi = scores.new_zeros(scores.shape[:2], dtype=wide) if grad_phi is None else grad_phi
        grad_psi = scores.new_zeros(scores.shape[::2], dtype=wide) if grad_psi is None else grad_psi
    dscores, dlog_a, dlog_b = torch.ops.mi_estimators.sinkhorn_batch_backward(
        grad_plan, grad_phi, grad_psi, scores, log_a, log_b, *ctx.options
    )
    if log_a is None:
        dlog_a = dlog_b = None
    return dscores, dlog_a, dlog_b, None, None, None, None


def _setup_backward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.options = inputs[6:]
    ctx.set_materialize_grads(False)


def _second_gradients(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    """By autograd through the iterations written out in torch; with memory for all of them."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        saved: list[Any] = [
            None if t is None else t.view_as(t) if create_graph and t.requires_grad else t.detach().requires_grad_()
            for t in ctx.saved_tensors
        ]
        grad_plan, grad_phi, grad_psi, scores, log_a, log_b = saved
        outputs = _differentiable(scores, log_a, log_b, *ctx.options)
        upstream = [(o, g) for o, g in zip(outputs, (grad_plan, grad_phi, grad_psi), strict=True) if g is not None]
        leaves = [t for t in (scores, log_a, log_b) if t is not None]
        first = torch.autograd.grad(
            [o for o, _ in upstream], leaves, [g.to(o.dtype) for o, g in upstream], create_graph=True
        )
        pairs = [(f, g) for f, g in zip(first, grads, strict=False) if g is not None]
        wanted = [t for t in saved if t is not None]
        second = iter(
            torch.autograd.grad(
                [f for f, _ in pairs],
                wanted,
                [g.to(f.dtype) for f, g in pairs],
                create_graph=create_graph,
                allow_unused=True,
            )
        )
    return (*(None if t is None else next(second) for t in saved), None, None, None)


torch.library.register_autograd(_NAME, _gradients, setup_context=_setup_context, lib=_library)
torch.library.register_autograd(_BACKWARD_NAME, _second_gradients, setup_context=_setup_backward_context, lib=_library)


# ------------------------------------------------------------------------------------------------ public function


class BatchPlans(NamedTuple):
    r"""What :func:`sinkhorn_batch` returns with ``details=True``.

    Attributes:
        plan: the plans, :math:`(B, n, m)`.
        row_potentials: f, :math:`(B, n)`; with g, ``plan = exp((scores + f + g) / epsilon)``. ``-inf`` where masked.
        col_potentials: g, :math:`(B, m)`.
        value: :math:`\max_P \langle P, s \rangle + \epsilon H(P)` over plans with these marginals, :math:`(B,)`: the
            dual objective :math:`-\langle a, f \rangle - \langle b, g \rangle`, from above.
        marginal_error: largest absolute difference between a problem's plan and its marginals, :math:`(B,)`; what tells
            whether ``n_iter`` was enough. Without a gradient.
    """

    plan: Tensor
    row_potentials: Tensor
    col_potentials: Tensor
    value: Tensor
    marginal_error: Tensor


def _check_weights(name: str, weights: Tensor, scores: Tensor, dim: int) -> Tensor:
    """Marginals as one row a problem, in the accumulation dtype."""
    _checks.floating(name, weights, ndim=(1, 2))
    batch, size = scores.shape[0], scores.shape[dim]
    if weights.shape not in ((size,), (batch, size), (1, size)) or weights.device != scores.device:
        raise ValueError(
            f"{name}: want the shape ({size},) or ({batch}, {size}) on {scores.device}, got {_checks.describe(weights)}"
        )
    _checks.finite(name, weights)
    if _checks.concrete(weights) and bool((weights < 0).any()):
        raise ValueError(f"{name}: want values >= 0, got {float(weights.min())}")
    return weights.to(accumulation_dtype(scores.dtype)).expand(batch, size)


def _check_mask(name: str, mask: Tensor, scores: Tensor, dim: int) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"{name}: want a torch.bool tensor, got {_checks.describe(mask)}")
    shape = (scores.shape[0], scores.shape[dim])
    if tuple(mask.shape) != shape or mask.device != scores.device:
        raise ValueError(f"{name}: want the shape {shape} on {scores.device}, got {_checks.describe(mask)}")
    return mask


def _marginals(
    scores: Tensor,
    row_marginals: Tensor | None,
    col_marginals: Tensor | None,
    row_mask: Tensor | None,
    col_mask: Tensor | None,
) -> tuple[Tensor, Tensor] | None:
    """Weights of both sides, 0 where masked; None for the default, 1 for each row and n / m for each column."""
    if row_marginals is None and col_marginals is None and row_mask is None and col_mask is None:
        return None
    batch, n, m = scores.shape
    wide = accumulation_dtype(scores.dtype)
    rows = torch.ones(batch, n, dtype=wide, device=scores.device)
    cols = torch.ones(batch, m, dtype=wide, device=scores.device)
    if row_mask is not None:
        rows = rows * _check_mask("row_mask", row_mask, scores, 1)
    if col_mask is not None:
        cols = cols * _check_mask("col_mask", col_mask, scores, 2)
    row_count, col_count = rows.sum(1, keepdim=True), cols.sum(1, keepdim=True)
    if row_marginals is not None:
        rows = rows * _check_weights("row_marginals", row_marginals, scores, 1)
    if col_marginals is not None:
        cols = cols * _check_weights("col_marginals", col_marginals, scores, 2)
        if row_marginals is None:
            rows = rows * (cols.sum(1, keepdim=True) / row_count)
    else:
        cols = cols * (rows.sum(1, keepdim=True) / col_count)
    if _checks.concrete(scores):
        totals = rows.detach().sum(1).double(), cols.detach().sum(1).double()
        if not bool((totals[0] > 0).all()) or not bool((totals[1] > 0).all()):
            raise ValueError("row_mask, col_mask: want a row and a column of weight > 0 in every problem")
        apart = (totals[0] - totals[1]).abs() > 1e-4 * totals[0]
        if bool(apart.any()):
            index = int(apart.nonzero()[0])
            raise ValueError(
                f"col_marginals: want the sum of row_marginals in every problem, got {float(totals[1][index]):.6g} "
                f"against {float(totals[0][index]):.6g} in problem {index}"
            )
    return rows, cols


def _log(weights: Tensor) -> Tensor:
    """Logarithm with -inf, and gradient 0, at 0."""
    none = weights == 0
    return weights.masked_fill(none, 1).log().masked_fill(none, -torch.inf)


def _check_scores(scores: Tensor, marginals: tuple[Tensor, Tensor] | None) -> None:
    """NaN, +inf, and rows or columns of -inf, where :func:`concrete` allows a look."""
    if not _checks.concrete(scores) or math.isfinite(scores.detach().sum().item()):
        return
    values = scores.detach()
    rows = torch.ones_like(values[:, :, 0], dtype=torch.bool) if marginals is None else marginals[0].detach() > 0
    cols = torch.ones_like(values[:, 0, :], dtype=torch.bool) if marginals is None else marginals[1].detach() > 0
    part = rows[:, :, None] & cols[:, None, :]
    bad = part & (values.isnan() | (values == torch.inf))
    if bool(bad.any()):
        raise ValueError(f"scores: want finite values or -inf, got {int(bad.sum())} NaN or +inf")
    finite = part & (values > -torch.inf)
    for name, side, found in (("row", rows, finite.any(2)), ("column", cols, finite.any(1))):
        empty = side & ~found
        if bool(empty.any()):
            where = tuple(empty.nonzero()[0].tolist())
            raise ValueError(f"scores: want a finite score in every {name}, got none in (problem, {name}) {where}")


@overload
def sinkhorn_batch(
    scores: Tensor,
    *,
    epsilon: float | Tensor = 1.0,
    n_iter: int = 20,
    row_marginals: Tensor | None = None,
    col_marginals: Tensor | None = None,
    row_mask: Tensor | None = None,
    col_mask: Tensor | None = None,
    first: str = "rows",
    gradient: str = "unrolled",
    details: Literal[False] = False,
) -> Tensor: ...


@overload
def sinkhorn_batch(
    scores: Tensor,
    *,
    epsilon: float | Tensor = 1.0,
    n_iter: int = 20,
    row_marginals: Tensor | None = None,
    col_marginals: Tensor | None = None,
    row_mask: Tensor | None = None,
    col_mask: Tensor | None = None,
    first: str = "rows",
    gradient: str = "unrolled",
    details: Literal[True],
) -> BatchPlans: ...


def sinkhorn_batch(
    scores: Tensor,
    *,
    epsilon: float | Tensor = 1.0,
    n_iter: int = 20,
    row_marginals: Tensor | None = None,
    col_marginals: Tensor | None = None,
    row_mask: Tensor | None = None,
    col_mask: Tensor | None = None,
    first: str = "rows",
    gradient: str = "unrolled",
    details: bool = False,
) -> Tensor | BatchPlans:
    r"""Sinkhorn's iteration on many small problems at once, differentiable: plans with given row and column sums.

    .. math::
        P = \mathrm{diag}(e^{f / \epsilon})\, e^{S / \epsilon}\, \mathrm{diag}(e^{g / \epsilon})

    after ``n_iter`` times scaling rows and then columns to their marginals, from f = g = 0. By default the row sums
    are 1 and the column sums n / m: a square problem becomes doubly stochastic, as hyper-connections, routing and
    matching use it. A cost C goes in as ``-C``. Problems may be ragged (masks). Exact at any range of scores: where
    exponentials would overflow the log domain takes over. One kernel forward and one backward; nothing is kept between
    them but the inputs.

    **Gradients.** ``"unrolled"``: the exact derivative of the ``n_iter`` iterations, converged or not, by ``scores``,
    both marginals and a tensor ``epsilon``; second derivatives go through the torch reference and need memory for all
    iterations. ``"envelope"`` (with ``details``): the gradient of the optimal ``value`` at convergence, which is the
    plan by the scores, -f and -g by the marginals, and costs no backward; plan and potentials are constants then. It is
    off by as much as ``marginal_error`` says.

    Args:
        scores: of rows for columns, larger for more mass. ``-inf`` rules a pair out.
        epsilon: strength of the entropy, a number or a tensor with one element (a learned temperature).
        n_iter: iterations, at least 1.
        row_marginals: wanted row sums, :math:`\ge 0`. With one side given the other is uniform and sums alike.
        col_marginals: wanted column sums; they must sum to what the row sums sum to.
        row_mask: which rows are part of a problem. Others may hold anything, and their plan is 0.
        col_mask: which columns are.
        first: the side that is scaled first; the other's sums are exact in the end. ``"rows"`` as in POT, OTT and most
            hyper-connection code; ``"columns"`` as in SwAV and in the mHC paper.
        gradient: ``"unrolled"`` or ``"envelope"``.
        details: return potentials, value and marginal error too.

    Shape:
        - scores: :math:`(B, n, m)`; row_marginals: :math:`(n,)` or :math:`(B, n)`; col_marginals: :math:`(m,)` or
          :math:`(B, m)`; row_mask: :math:`(B, n)`; col_mask: :math:`(B, m)`
        - Output: :math:`(B, n, m)`, or :class:`BatchPlans`; float32 for float32, bfloat16 and float16 scores, float64
          for float64. Potentials and value are in the unit of the scores.

    Raises:
        TypeError: not floating-point tensors, masks that are not boolean.
        ValueError: ``epsilon <= 0``, ``n_iter < 1``, empty or mismatched shapes, an unknown option, ``"envelope"``
            without ``details``; on the CPU also NaN or ``+inf`` scores, a row or column without a finite score, and
            marginals that are negative or do not sum alike.
        RuntimeError: inside a ``torch.func`` transform; the function takes batches itself.

    Source:
        Cuturi, *Sinkhorn distances*, 2013, algorithm 1; Peyré and Cuturi, *Computational optimal transport*, 2019,
        section 4.4 (log domain) and proposition 9.2 (envelope); Xie et al., *mHC*, 2025, equation 9 (doubly stochastic
        connections).

    Example:
        >>> plan = sinkhorn_batch(torch.randn(1000, 4, 4), n_iter=50)
        >>> torch.allclose(plan.sum(1), torch.ones(1000, 4)), torch.allclose(plan.sum(2), torch.ones(1000, 4), 1e-3)
        (True, True)
    """
    if in_functorch():
        raise RuntimeError("sinkhorn_batch: takes no torch.func transform; it takes batches itself, as [B, n, m]")
    _checks.floating("scores", scores, ndim=3)
    _checks.positive("epsilon", epsilon)
    _checks.count("n_iter", n_iter)
    _checks.choice("first", first, FIRST)
    _checks.choice("gradient", gradient, GRADIENTS)
    if gradient == "envelope" and not details:
        raise ValueError("gradient: want details=True with 'envelope', which differentiates the value and not the plan")
    marginals = _marginals(scores, row_marginals, col_marginals, row_mask, col_mask)
    _check_scores(scores, marginals)
    divided, divisor = scores, epsilon
    if isinstance(epsilon, Tensor):
        if epsilon.numel() != 1:
            raise ValueError(f"epsilon: want a number or a tensor with one element, got {_checks.describe(epsilon)}")
        epsilon = epsilon.to(device=scores.device, dtype=accumulation_dtype(scores.dtype)).reshape(())
        divided, divisor = scores.to(epsilon.dtype) / epsilon, 1.0
    logs = (None, None) if marginals is None else tuple(_log(weights).contiguous() for weights in marginals)
    inputs = (divided, *logs)
    constant = gradient == "envelope"
    if constant:
        inputs = tuple(None if t is None else t.detach() for t in inputs)
    plan, phi, psi = torch.ops.mi_estimators.sinkhorn_batch(
        *inputs, float(divisor) if not isinstance(divisor, (int, float)) else divisor, n_iter, first == "rows", details
    )
    if not details:
        return plan
    if constant and isinstance(epsilon, Tensor):
        f, g = epsilon.detach() * phi, epsilon.detach() * psi
    else:
        f, g = epsilon * phi, epsilon * psi
    rows, cols = (
        marginals
        if marginals is not None
        else (
            plan.new_ones(plan.shape[:2]),
            plan.new_full(plan.shape[::2], plan.shape[1] / plan.shape[2]),
        )
    )
    value = -(_weighted(rows, f) + _weighted(cols, g))
    if constant:
        # Worth nothing, but its gradients are those of the value: the plan by the scores, the entropy by epsilon.
        wide = scores.to(plan.dtype)
        kept = plan > 0
        value = value + torch.where(kept, plan * (wide - wide.detach()).masked_fill(~kept, 0), 0).sum((1, 2))
        if isinstance(epsilon, Tensor):
            entropy = -torch.special.xlogy(plan, plan).sum((1, 2))
            value = value + entropy * (epsilon - epsilon.detach())
    with torch.no_grad():
        error = torch.maximum(
            (plan.sum(2) - rows).abs().amax(1),
            (plan.sum(1) - cols).abs().amax(1),
        )
    return BatchPlans(plan, f, g, value, error)


def _weighted(weights: Tensor, potentials: Tensor) -> Tensor:
    """<weights, potentials>, where 0 times -inf is 0."""
    return (weights * potentials.masked_fill(weights == 0, 0)).sum(1)
