r"""InfoNCE and NT-Xent of a batch of pairs: the loss and its gradients from one visit of the scores.

.. math::
    s_{ij} = \mathrm{scale} \cdot x_i \cdot y_j, \qquad
    n_i = \log \sum_{j \in N(i)} e^{s_{ij}}, \qquad
    \ell_i = \log (1 + e^{n_i - s_{ii}}) = -\log \frac{e^{s_{ii}}}{e^{s_{ii}} + \sum_{j \in N(i)} e^{s_{ij}}}

with the negatives :math:`N(i)` of an anchor, and :math:`\ell_i = n_i - s_{ii}` when decoupled. The positive stays out
of the log-sum-exp: that sum less the positive would cancel once the pairs are told apart, while here a loss of 1e-6
and its gradient, which is a multiple of :math:`\sigma(n_i - s_{ii})`, keep all their digits.

The loss is a fixed weighted sum of the :math:`\ell_i`, so the gradient that arrives at each :math:`n_i` is known as
soon as the :math:`n_i` are, before anybody calls backward: a kernel that still holds the scores need not form them
again. The operator therefore returns the gradients beside the loss, and its backward only scales them.

This file holds the operator whole: schema, torch reference on :mod:`~mi_estimators.ops.pairwise_lse`, shape function,
autograd, second derivatives. The compiled libraries add the ``CPU`` and the ``CUDA`` kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_estimators.ops.pairwise_lse import (
    accumulation_dtype,
    allows_tf32,
    in_functorch,
    unchecked_pairwise_lse,
)

CANDIDATES = ("other", "both")

_SMALLEST_NORM = 1e-12  # torch.nn.functional.normalize's
_NAME = "mi_estimators::info_nce"

_library = torch.library.Library("mi_estimators", "FRAGMENT")
_library.define(
    "info_nce(Tensor x, Tensor y, Tensor scale, Tensor? weights, Tensor? groups, str candidates, bool symmetric,"
    " bool normalize, bool decoupled, float factor, bool need_x, bool need_y, bool need_scale,"
    " bool allow_tf32=False)"
    " -> (Tensor loss, Tensor dx, Tensor dy, Tensor dscale)"
)


# ------------------------------------------------------------------------------------------------- differentiable


def negative_lse(
    x: Tensor, y: Tensor, *, scale: Tensor, candidates: str, symmetric: bool, groups: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Log-sum-exp over the negatives of each anchor of x, and of each anchor of y; -inf where there are none.

    ``candidates="other"``: the negatives of x_i are the y_j with j != i, those of y_i (if ``symmetric``) the x_j.
    ``candidates="both"``: all points of both sides but the anchor and its partner, for the anchors of both sides.
    With ``groups``, points of the anchor's own group are no negatives.
    """
    if candidates == "other":
        found = unchecked_pairwise_lse(
            x, y, scale=scale, exclude_diagonal=True, row_groups=groups, col_groups=groups, columns=symmetric
        )
        return found if symmetric else (found, None)
    own = torch.arange(x.shape[0], device=x.device) if groups is None else groups
    lse = unchecked_pairwise_lse(
        torch.cat([x, y]), scale=scale, exclude_diagonal=True, row_groups=torch.cat([own, own])
    )
    return lse[: x.shape[0]], lse[x.shape[0] :]


def _loss_of(lse: Tensor, positives: Tensor, decoupled: bool) -> Tensor:
    gap = lse - positives
    return gap if decoupled else torch.logaddexp(gap, torch.zeros_like(gap))


def info_nce_terms(
    x: Tensor,
    y: Tensor,
    *,
    scale: Tensor,
    candidates: str,
    symmetric: bool,
    decoupled: bool,
    groups: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """The loss of each anchor of x, and of each anchor of y (or None): differentiable, for points as they are.

    Points are expected in their accumulation dtype and, if that is wanted, normalised.
    """
    row, col = negative_lse(x, y, scale=scale, candidates=candidates, symmetric=symmetric, groups=groups)
    positives = scale * (x * y).sum(dim=1)
    return _loss_of(row, positives, decoupled), None if col is None else _loss_of(col, positives, decoupled)


def _prepared(points: Tensor, normalize: bool) -> Tensor:
    wide = points.to(accumulation_dtype(points.dtype))
    return torch.nn.functional.normalize(wide, dim=1, eps=_SMALLEST_NORM) if normalize else wide


def _differentiable_loss(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    weights: Tensor | None,
    groups: Tensor | None,
    candidates: str,
    symmetric: bool,
    normalize: bool,
    decoupled: bool,
    factor: float,
) -> Tensor:
    row, col = info_nce_terms(
        _prepared(x, normalize),
        _prepared(y, normalize),
        scale=scale.to(x.device),
        candidates=candidates,
        symmetric=symmetric,
        decoupled=decoupled,
        groups=groups,
    )
    losses = row if col is None else row + col
    return factor * (losses if weights is None else losses * weights).sum()


# ------------------------------------------------------------------------------------------------------ reference


def _unprepare(gradient: Tensor, points: Tensor, prepared: Tensor, normalize: bool) -> Tensor:
    """The gradient at the points as they came, from the gradient at the prepared ones."""
    if normalize:
        norms = points.to(prepared.dtype).norm(dim=1, keepdim=True)
        radial = (gradient * prepared).sum(dim=1, keepdim=True) * prepared
        gradient = torch.where(norms > _SMALLEST_NORM, gradient - radial, gradient) / norms.clamp(min=_SMALLEST_NORM)
    return gradient.to(points.dtype)


def reference(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    weights: Tensor | None,
    groups: Tensor | None,
    candidates: str,
    symmetric: bool,
    normalize: bool,
    decoupled: bool,
    factor: float,
    need_x: bool,
    need_y: bool,
    need_scale: bool,
    allow_tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and gradients by the pairwise log-sum-exp and its backward; unwanted gradients come back empty."""
    n, both = x.shape[0], candidates == "both"
    px, py, scale = _prepared(x, normalize), _prepared(y, normalize), scale.to(x.device)
    products = (px * py).sum(dim=1)
    positives = scale * products
    # The pairs of pairwise_lse: its rows and columns, or all points against themselves.
    pairs: tuple[Any, ...]
    if both:
        own = torch.arange(n, device=x.device) if groups is None else groups
        pairs = (torch.cat([px, py]), None, scale, None, torch.cat([own, own]), None, "dot", True)
        joint, none = torch.ops.mi_estimators.pairwise_lse(*pairs, False, allow_tf32)
        row, col = joint[:n], joint[n:]
    else:
        pairs = (px, py, scale, None, groups, groups, "dot", True)
        row, none = torch.ops.mi_estimators.pairwise_lse(*pairs, symmetric, allow_tf32)
        col = none

    loss = px.new_zeros(())
    slopes = []  # of the whole loss, by each negative log-sum-exp
    for lse in (row, col) if both or symmetric else (row,):
        gap = lse - positives
        loss = loss + (_loss_of(lse, positives, decoupled) * (1 if weights is None else weights)).sum()
        slope = torch.ones_like(gap) if decoupled else torch.sigmoid(gap)
        slopes.append(factor * (slope if weights is None else slope * weights))
    total = slopes[0] if len(slopes) == 1 else slopes[0] + slopes[1]
    empty = (x.new_empty(0), x.new_empty(0), px.new_empty(0))
    if not (need_x or need_y or need_scale):
        return factor * loss, *empty

    backward = torch.ops.mi_estimators.pairwise_lse_backward
    if both:
        dz, _, dscale, _ = backward(
            torch.cat(slopes), None, joint, none, *pairs, need_x or need_y, False, need_scale, False, allow_tf32
        )
        dx, dy = dz[:n], dz[n:]
    else:
        slope_of_columns = slopes[1] if symmetric else None
        needs = (need_x, need_y, need_scale, False)
        dx, dy, dscale, _ = backward(slopes[0], slope_of_columns, row, col, *pairs, *needs, allow_tf32)
    from_positives = (scale * total)[:, None]
    return (
        factor * loss,
        _unprepare(dx - from_positives * py, x, px, normalize) if need_x else empty[0],
        _unprepare(dy - from_positives * px, y, py, normalize) if need_y else empty[1],
        dscale - (total * products).sum() if need_scale else empty[2],
    )


_library.impl("info_nce", reference, "CompositeExplicitAutograd")


@torch.library.register_fake(_NAME, lib=_library)
def _fake(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    weights: Tensor | None,
    groups: Tensor | None,
    candidates: str,
    symmetric: bool,
    normalize: bool,
    decoupled: bool,
    factor: float,
    need_x: bool,
    need_y: bool,
    need_scale: bool,
    allow_tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wide = accumulation_dtype(x.dtype)
    return (
        x.new_empty((), dtype=wide),
        x.new_empty(x.shape if need_x else 0),
        y.new_empty(y.shape if need_y else 0),
        x.new_empty(scale.shape if need_scale else 0, dtype=wide),
    )


# ------------------------------------------------------------------------------------------------------- autograd


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, dx, dy, dscale = output
    ctx.save_for_backward(*inputs[:5], dx, dy, dscale)
    ctx.options = inputs[5:10]
    ctx.needs = inputs[10:13]
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad_loss: Tensor | None, *grad_gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, dx, dy, dscale = ctx.saved_tensors
    found: list[Tensor | None] = [None] * 14
    if grad_loss is not None:
        for i, gradient in enumerate((dx, dy, dscale)):
            if ctx.needs[i]:
                product = grad_loss * gradient
                found[i] = product if product.dtype == gradient.dtype else product.to(gradient.dtype)
    if any(gradient is not None for gradient in grad_gradients):  # somebody differentiates the gradients again
        for i, gradient in enumerate(_second_gradients(inputs, ctx.options, ctx.needs, grad_gradients)):
            if gradient is not None:
                first = found[i]
                found[i] = gradient if first is None else first + gradient
    return tuple(found)


def _second_gradients(
    inputs: list[Tensor], options: tuple[Any, ...], needs: tuple[bool, ...], grads: tuple[Tensor | None, ...]
) -> list[Tensor | None]:
    """Second derivatives, by autograd through the differentiable composition; with O(N^2) memory."""
    *points, weights, groups = inputs
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x, y, scale = aliases = [tensor.view_as(tensor) for tensor in points]  # x and y may be one tensor in two roles
        loss = _differentiable_loss(x, y, scale, weights, groups, *options)
        wanted = [alias for alias, need in zip(aliases, needs, strict=True) if need]
        first = torch.autograd.grad(loss, wanted, create_graph=True)
        used = [grad for grad, need in zip(grads, needs, strict=True) if need]
        paired = [(f, g) for f, g in zip(first, used, strict=True) if g is not None]
        second = iter(
            torch.autograd.grad(
                [f for f, _ in paired],
                wanted,
                [g.to(f.dtype) for f, g in paired],
                create_graph=create_graph,
                allow_unused=True,
            )
        )
    return [next(second) if need else None for need in needs]


torch.library.register_autograd(_NAME, _gradients, setup_context=_setup_context, lib=_library)


class _Fused(torch.autograd.Function):
    """The same gradients without the Python layers that serve a registered backward: half the cost of a small batch.

    What is no tensor comes as one argument: ``apply`` looks at each.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        weights: Tensor | None,
        groups: Tensor | None,
        settings: tuple[Any, ...],
    ) -> Any:
        inputs = (x, y, scale, weights, groups, *settings)
        with torch._C._AutoDispatchBelowAutograd():
            output = torch.ops.mi_estimators.info_nce(*inputs)
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        return _gradients(ctx, *grads)[:6]  # one for each argument: the last has none


# ------------------------------------------------------------------------------------------------ public function


def fused_info_nce(
    x: Tensor,
    y: Tensor,
    *,
    scale: float | Tensor,
    candidates: str = "other",
    symmetric: bool = True,
    normalize: bool = True,
    decoupled: bool = False,
    weights: Tensor | None = None,
    groups: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""The reduced loss of a batch of pairs, its gradients formed in the same call. For callers that have checked.

    With ``symmetric`` or ``candidates="both"`` the losses of both sides count, else those of x's anchors only. The
    mean is :math:`\sum w_i \ell_i / \sum w_i`; a sum of both sides is halved for ``candidates="other"``, so that it is
    the sum over pairs of a pair's mean loss.

    Args:
        x: one point of each pair.
        y: the other, of the same dtype.
        scale: :math:`1 / \tau`; a tensor without dimensions, in the accumulation dtype, may require a gradient.
        candidates: which points are negatives, see :func:`negative_lse`.
        symmetric: anchors on both sides (always so for ``"both"``).
        normalize: scale rows to unit length first.
        decoupled: leave the positive out of the denominator.
        weights: of the pairs; constants.
        groups: pairs of one group are no negatives of each other.
        reduction: ``"mean"`` or ``"sum"``.

    Shape:
        - x, y: :math:`(N, d)`; weights, groups: :math:`(N,)`; Output: scalar, in nats; float32 for half inputs,
          float64 for float64.
    """
    factor = 1.0 if candidates == "both" or not symmetric else 0.5
    transformed = in_functorch()  # its transforms differentiate compositions, not operators with a registered backward
    dtype = accumulation_dtype(x.dtype)
    if not isinstance(scale, Tensor):
        # The kernels read it on the host: no launch to write it on the device. What is compiled should have no part
        # there, or torch would not make a CUDA graph of it.
        on_device = transformed or torch.compiler.is_compiling()
        scale = torch.full((), scale, dtype=dtype, device=x.device if on_device else "cpu")
    if weights is not None:
        weights = weights.detach().to(dtype)
    if reduction == "mean":
        if candidates == "both":
            factor /= 2
        if weights is None:
            factor /= x.shape[0]
        else:
            weights = weights / weights.sum()
    options = (candidates, symmetric, normalize, decoupled, factor)
    if transformed:
        return _differentiable_loss(x, y, scale, weights, groups, *options)
    graph = torch.is_grad_enabled()
    needs = (graph and x.requires_grad, graph and y.requires_grad, graph and scale.requires_grad)
    settings = (*options, *needs, allows_tf32(x))
    if any(needs) and not torch.compiler.is_compiling():
        return _Fused.apply(x, y, scale, weights, groups, settings)[0]
    return torch.ops.mi_estimators.info_nce(x, y, scale, weights, groups, *settings)[0]
