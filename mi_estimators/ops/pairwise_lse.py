r"""Pairwise log-sum-exp and its gradient, without the matrix of scores.

.. math::
    s_{ij} &= \phi(x_i, y_j) + \mathrm{bias}_j \\
    \mathrm{row}_i &= \log \sum_j e^{s_{ij}} \qquad \mathrm{col}_j = \log \sum_i e^{s_{ij}} \\
    G_{ij} &= g^{row}_i e^{s_{ij} - \mathrm{row}_i} + g^{col}_j e^{s_{ij} - \mathrm{col}_j}

with the gradients :math:`dx_i = \sum_j G_{ij}\, \partial s_{ij} / \partial x_i` and so on. :math:`\phi` is the scaled
dot product or a function of the scaled distance: see :func:`pairwise_lse`.

This file holds the operator whole: schema, torch reference (by blocks of rows, so that it needs no N x N memory
either), shape function, autograd, batching rule and the public function. The compiled library adds the ``CPU`` and
``CUDA`` kernels for the same two schemas.
"""

from __future__ import annotations

import functools
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, overload

import torch
from torch import Tensor

from mi_estimators import _checks

_EXPONENTS = {"tophat": 0, "epanechnikov": 1, "biweight": 2, "triweight": 3}  # logit = exponent * log(1 - scale r^2)
SCORES = ("dot", "sqeuclidean", "euclidean", *_EXPONENTS, "triangular", "cosine")

_BLOCK_ELEMENTS = 1 << 22  # scores that the reference holds at a time: 16 MiB in float32
_NAME = "mi_estimators::pairwise_lse"
_BACKWARD_NAME = "mi_estimators::pairwise_lse_backward"

_library = torch.library.Library("mi_estimators", "DEF")
_library.define(
    "pairwise_lse(Tensor x, Tensor? y, Tensor scale, Tensor? bias, Tensor? row_groups, Tensor? col_groups, str score,"
    " bool exclude_diagonal, bool columns, bool allow_tf32=False) -> (Tensor row_lse, Tensor col_lse)"
)
_library.define(
    "pairwise_lse_backward(Tensor? grad_row, Tensor? grad_col, Tensor row_lse, Tensor col_lse, Tensor x, Tensor? y,"
    " Tensor scale, Tensor? bias, Tensor? row_groups, Tensor? col_groups, str score, bool exclude_diagonal,"
    " bool need_x, bool need_y, bool need_scale, bool need_bias, bool allow_tf32=False)"
    " -> (Tensor dx, Tensor dy, Tensor dscale, Tensor dbias)"
)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are held in: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def accumulated(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of possibly different dtypes in the one dtype that holds the sums of all of them."""
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    return tuple(tensor.to(torch.float64 if wide else torch.float32) for tensor in tensors)


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Autocast off for the tensor's device: inside, operations run in the dtype of their inputs."""
    return torch.autocast(tensor.device.type, enabled=False) if _checks.autocast_is_on(tensor) else nullcontext()


# ---------------------------------------------------------------------------------------------------- reference


def blocks(n: int, m: int) -> list[slice]:
    """Runs of rows against all columns, of at most so many scores that the reference holds."""
    rows = max(1, _BLOCK_ELEMENTS // max(1, m))
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def widened(x: Tensor, y: Tensor | None, score: str) -> tuple[Tensor, Tensor]:
    """Both sides in the accumulation dtype; for distances, moved so that their common mean is the origin."""
    dtype = accumulation_dtype(x.dtype)
    x = x.to(dtype)
    y = x if y is None else y.to(dtype)
    if score != "dot":
        centre = y.mean(dim=0)  # |x - y| is unchanged, but |x|^2 + |y|^2 - 2 x.y loses fewer digits
        x, y = x - centre, y - centre
    return x, y


def pair_scores(x: Tensor, y: Tensor, score: str) -> Tensor:
    """The dot products, or the distances as -r^2."""
    product = x @ y.T
    if score == "dot":
        return product
    scores = 2 * product - x.square().sum(1, keepdim=True) - y.square().sum(1)
    if score == "sqeuclidean":
        return scores.clamp(max=0)
    # A product leaves no digits of a small r. It only gives the derivatives: those of differences need O(N M d) memory.
    r = torch.cdist(x.detach(), y.detach(), compute_mode="donot_use_mm_for_euclid_dist")
    return (scores - scores.detach()) - r.square()


def profile(scores: Tensor, scale: Tensor, score: str) -> tuple[Tensor, Tensor | None, int]:
    r"""Logits of :func:`pair_scores`, and what their gradients take besides.

    With :math:`p = -r^2` and the logit :math:`\phi(p)`, the second result is the pull
    :math:`\partial\phi/\partial p \,/\, \mathrm{scale}` (``None``: 1). The gradients of the points are those of the
    score p with the weights G pull in place of G, and scale has the gradient :math:`c \sum G\, \mathrm{pull}\, p`
    with the third result c: 1 if the logit depends on :math:`\mathrm{scale}\, r^2`, 2 if on
    :math:`\mathrm{scale}\, r`. Where a logit is not smooth, and outside of a compact support, the pull is 0, and
    derivatives of both are 0 and not NaN.
    """
    if score in ("dot", "sqeuclidean"):
        return scale * scores, None, 1
    if score in _EXPONENTS:
        height = 1 + scale * scores
        inside = ~(height <= 0)  # NaN counts as inside, and travels on
        height = torch.where(inside, height, 1)
        logits = torch.where(inside, _EXPONENTS[score] * torch.log(height), -math.inf)
        return logits, torch.where(inside, _EXPONENTS[score] / height, 0), 1
    apart = ~(scores == 0)
    r = torch.where(apart, -scores, 1).sqrt()
    reach = torch.where(apart, scale * r, 0)
    if score == "euclidean":
        return -reach, torch.where(apart, 0.5 / r, 0), 2
    inside = ~(reach >= 1)
    left = torch.where(inside, 1 - reach, 1)
    if score == "triangular":
        height, pull = left, torch.where(inside & apart, 0.5 / (r * left), 0)
    else:
        height = torch.sin(math.pi / 2 * left)  # cos(pi/2 reach), and never below 0
        slope = math.pi / 4 * torch.sin(math.pi / 2 * reach) / (r * height)
        pull = torch.where(inside, torch.where(apart, slope, math.pi**2 / 8 * scale), 0)
    return torch.where(inside, torch.log(height), -math.inf), pull, 2


def _block_logits(
    rows: slice,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    row_groups: Tensor | None,
    col_groups: Tensor | None,
    score: str,
    exclude_diagonal: bool,
) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Scores and logits of a block of rows against every column, and the rest of :func:`profile`.

    Excluded pairs have the logit -inf.
    """
    scores = pair_scores(x[rows], y, score)
    logits, pull, degree = profile(scores, scale, score)
    if bias is not None:
        logits = logits + bias
    if exclude_diagonal:
        own = torch.arange(rows.start, rows.stop, device=x.device)[:, None]
        logits = logits.masked_fill(own == torch.arange(y.shape[0], device=x.device), -math.inf)
    if row_groups is not None:
        other_groups = row_groups if col_groups is None else col_groups  # None in self mode
        logits = logits.masked_fill(row_groups[rows, None] == other_groups, -math.inf)
    return scores, logits, pull, degree


def reference_forward(
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    row_groups: Tensor | None,
    col_groups: Tensor | None,
    score: str,
    exclude_diagonal: bool,
    columns: bool,
    allow_tf32: bool = False,
) -> tuple[Tensor, Tensor]:
    """The operator in torch: what the kernels are compared with, and what runs where there is no kernel.

    Its products are torch's own, which look at torch's settings themselves: ``allow_tf32`` is for the kernels.
    """
    wide_x, wide_y = widened(x, y, score)
    row_parts = []
    col_lse = wide_x.new_full((wide_y.shape[0],), -math.inf) if columns else wide_x.new_empty(0)
    for rows in blocks(wide_x.shape[0], wide_y.shape[0]):
        logits = _block_logits(rows, wide_x, wide_y, scale, bias, row_groups, col_groups, score, exclude_diagonal)[1]
        row_parts.append(torch.logsumexp(logits, dim=1))
        if columns:
            col_lse = torch.logaddexp(col_lse, torch.logsumexp(logits, dim=0))
    return torch.cat(row_parts), col_lse


def reference_backward(
    grad_row: Tensor | None,
    grad_col: Tensor | None,
    row_lse: Tensor,
    col_lse: Tensor,
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    row_groups: Tensor | None,
    col_groups: Tensor | None,
    score: str,
    exclude_diagonal: bool,
    need_x: bool,
    need_y: bool,
    need_scale: bool,
    need_bias: bool,
    allow_tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients in torch operations that autograd can differentiate again; unwanted ones come back empty."""
    wide_x, wide_y = widened(x, y, score)
    self_mode = y is None
    want_rows, want_cols = need_x, need_x if self_mode else need_y
    # A row or column without a finite score has the value -inf and gets the gradient 0, not NaN.
    row_lse = row_lse.masked_fill(row_lse == -math.inf, math.inf)
    col_lse = col_lse.masked_fill(col_lse == -math.inf, math.inf)

    row_parts: list[Tensor] = []
    dy = torch.zeros_like(wide_y) if want_cols else wide_x.new_empty(0)
    dscale = wide_x.new_zeros(()) if need_scale else wide_x.new_empty(0)
    dbias = wide_x.new_zeros(wide_y.shape[0]) if need_bias else wide_x.new_empty(0)
    mass = wide_x.new_zeros(wide_y.shape[0])  # column sums of G pull
    for rows in blocks(wide_x.shape[0], wide_y.shape[0]):
        scores, logits, pull, degree = _block_logits(
            rows, wide_x, wide_y, scale, bias, row_groups, col_groups, score, exclude_diagonal
        )
        g = torch.zeros_like(logits)
        if grad_row is not None:
            g = g + grad_row[rows, None] * torch.exp(logits - row_lse[rows, None])
        if grad_col is not None:
            g = g + grad_col * torch.exp(logits - col_lse)
        if need_bias:
            dbias = dbias + g.sum(0)
        if pull is not None:
            g = g * pull
        if want_rows:
            part = g @ wide_y
            row_parts.append(part if score == "dot" else 2 * (part - g.sum(1, keepdim=True) * wide_x[rows]))
        if want_cols:
            dy = dy + g.T @ wide_x[rows]
            mass = mass + g.sum(0)
        if need_scale:
            dscale = dscale + degree * (g * scores).sum()
    dx = wide_x.new_empty(0)
    if want_rows:
        dx = scale * torch.cat(row_parts)
    if want_cols:
        dy = scale * (dy if score == "dot" else 2 * (dy - mass[:, None] * wide_y))
    if self_mode and want_rows:
        dx, dy = dx + dy, wide_x.new_empty(0)
    return dx.to(x.dtype), dy.to(x.dtype), dscale.reshape(scale.shape) if need_scale else dscale, dbias


_library.impl("pairwise_lse", reference_forward, "CompositeExplicitAutograd")
_library.impl("pairwise_lse_backward", reference_backward, "CompositeExplicitAutograd")


# ----------------------------------------------------------------------------------------- shapes, autograd, vmap


@torch.library.register_fake(_NAME, lib=_library)
def _fake_forward(
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    row_groups: Tensor | None,
    col_groups: Tensor | None,
    score: str,
    exclude_diagonal: bool,
    columns: bool,
    allow_tf32: bool = False,
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(x.dtype)
    m = (x if y is None else y).shape[0]
    return x.new_empty(x.shape[0], dtype=dtype), x.new_empty(m if columns else 0, dtype=dtype)


@torch.library.register_fake(_BACKWARD_NAME, lib=_library)
def _fake_backward(
    grad_row: Tensor | None,
    grad_col: Tensor | None,
    row_lse: Tensor,
    col_lse: Tensor,
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    row_groups: Tensor | None,
    col_groups: Tensor | None,
    score: str,
    exclude_diagonal: bool,
    need_x: bool,
    need_y: bool,
    need_scale: bool,
    need_bias: bool,
    allow_tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(x.dtype)
    m = (x if y is None else y).shape[0]
    return (
        x.new_empty(x.shape if need_x else 0),
        x.new_empty(y.shape if need_y and y is not None else 0),
        x.new_empty(scale.shape if need_scale else 0, dtype=dtype),
        x.new_empty(m if need_bias else 0, dtype=dtype),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, y, scale, bias, row_groups, col_groups, score, exclude_diagonal, columns, allow_tf32 = inputs
    row_lse, col_lse = output
    ctx.save_for_backward(x, y, scale, bias, row_groups, col_groups, row_lse, col_lse)
    ctx.options = (score, exclude_diagonal, columns, allow_tf32)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad_row: Tensor | None, grad_col: Tensor | None) -> tuple[Tensor | None, ...]:
    x, y, scale, bias, row_groups, col_groups, row_lse, col_lse = ctx.saved_tensors
    score, exclude_diagonal, columns, allow_tf32 = ctx.options
    if not columns:
        grad_col = None
    if grad_row is None and grad_col is None:
        return (None,) * 10
    need_x, need_y, need_scale, need_bias = ctx.needs_input_grad[:4]
    need = (need_x, need_y and y is not None, need_scale, need_bias and bias is not None)
    backward = _BackwardFunction.apply if in_functorch() else torch.ops.mi_estimators.pairwise_lse_backward
    pairs = (x, y, scale, bias, row_groups, col_groups, score, exclude_diagonal)
    found = backward(grad_row, grad_col, row_lse, col_lse, *pairs, *need, allow_tf32)
    return (*(gradient if wanted else None for gradient, wanted in zip(found, need, strict=True)), *(None,) * 6)


def _setup_backward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:10])
    ctx.options = inputs[10:]
    ctx.set_materialize_grads(False)


def _second_gradients(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    """Second derivatives through the reference: differentiable at any order, but with O(N M) memory."""
    inputs = ctx.saved_tensors
    wanted = [i for i, tensor in enumerate(inputs) if tensor is not None and ctx.needs_input_grad[i]]
    used = [i for i, gradient in enumerate(grads) if gradient is not None]
    if not wanted or not used:
        return (None,) * 17

    def of_wanted(*tensors: Tensor) -> tuple[Tensor, ...]:
        arguments = dict(enumerate(inputs)) | dict(zip(wanted, tensors, strict=True))
        outputs = reference_backward(*arguments.values(), *ctx.options)
        return tuple(outputs[i] for i in used)

    pull_back = torch.func.vjp(of_wanted, *(inputs[i] for i in wanted))[1]
    found = pull_back(tuple(grads[i] for i in used))
    result: list[Tensor | None] = [None] * 17
    for i, gradient in zip(wanted, found, strict=True):
        result[i] = gradient
    return tuple(result)


torch.library.register_autograd(_NAME, _gradients, setup_context=_setup_context, lib=_library)
torch.library.register_autograd(_BACKWARD_NAME, _second_gradients, setup_context=_setup_backward_context, lib=_library)


class _ForwardFunction(torch.autograd.Function):
    """The same gradients for torch.func transforms, which accept no operator registered by register_autograd."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Any:
        return torch.ops.mi_estimators.pairwise_lse(*args)

    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_gradients)


class _BackwardFunction(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Any:
        return torch.ops.mi_estimators.pairwise_lse_backward(*args)

    setup_context = staticmethod(_setup_backward_context)
    backward = staticmethod(_second_gradients)


def in_functorch() -> bool:
    """Whether a torch.func transform is running; its transforms accept only autograd.Functions, not operators."""
    return torch._C._are_functorch_transforms_active()


def _batched(op: Any, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
    """Batching rule: one call per batch element. The kernels have no batch dimension."""
    results = [
        op(*(a.select(d, b) if d is not None else a for a, d in zip(args, in_dims, strict=True)))
        for b in range(info.batch_size)
    ]
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


torch.library.register_vmap(_NAME, functools.partial(_batched, torch.ops.mi_estimators.pairwise_lse), lib=_library)
torch.library.register_vmap(
    _BACKWARD_NAME, functools.partial(_batched, torch.ops.mi_estimators.pairwise_lse_backward), lib=_library
)


# ------------------------------------------------------------------------------------------------ public function


def tf32_is_allowed() -> bool:
    """Whether torch may round its own float32 products on CUDA to TF32, whichever of its settings says so.

    The newest of them, which is this one, follows the others; those raise an error once it has been used.
    """
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


# torch.compile cannot trace the look, so it takes the answer for a constant, as torch.compiler.assume_constant_result
# asks it to (at the price of importing the compiler). Its guards compile again when the setting changes.
tf32_is_allowed._dynamo_marked_constant = True  # type: ignore[attr-defined]


def allows_tf32(x: Tensor) -> bool:
    """Whether products of this tensor may be rounded to TF32: the operators' last argument."""
    return x.dtype == torch.float32 and x.is_cuda and tf32_is_allowed()


def _autocast(x: Tensor, y: Tensor | None, score: str) -> tuple[Tensor, Tensor | None]:
    """Under autocast: products in the autocast dtype, as for matmul; distances in float32, as for cdist."""
    if not _checks.autocast_is_on(x):
        return x, y
    dtype = torch.get_autocast_dtype(x.device.type) if score == "dot" else torch.float32
    x = x if x.dtype == torch.float64 else x.to(dtype)
    return x, y if y is None or y.dtype == torch.float64 else y.to(dtype)


def as_scale(scale: float | Tensor, x: Tensor, *, positive: bool = False) -> Tensor:
    """A checked scale as a scalar tensor in the dtype of the sums."""
    dtype = accumulation_dtype(x.dtype)
    if not isinstance(scale, Tensor):
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise TypeError(f"scale: want a number or a tensor with one element, got {_checks.describe(scale)}")
        if not -math.inf < scale < math.inf:
            raise ValueError(f"scale: want a finite number, got {scale!r}")
        if positive:
            _checks.positive("scale", scale)
        return torch.full((), scale, dtype=dtype, device=x.device)
    if scale.numel() != 1:
        raise ValueError(f"scale: want a number or a tensor with one element, got {_checks.describe(scale)}")
    if not scale.is_floating_point():
        raise TypeError(f"scale: want a floating-point tensor, got {_checks.describe(scale)}")
    _checks.finite("scale", scale)
    if positive:
        _checks.positive("scale", scale)
    return scale.to(device=x.device, dtype=dtype).reshape(())


def check_bias(bias: Tensor, x: Tensor, size: int, *, name: str = "bias", counted: str = "column") -> Tensor:
    """A checked vector of one number, or -inf, for each row or column, in the dtype of the sums."""
    _checks.floating(name, bias, ndim=1)
    if bias.shape[0] != size:
        raise ValueError(f"{name}: want one value per {counted} ({size}), got {_checks.describe(bias)}")
    if bias.device != x.device:
        raise ValueError(f"{name}: want the device of x ({x.device}), got {_checks.describe(bias)}")
    if _checks.concrete(bias) and bool((bias.isnan() | (bias == math.inf)).any()):
        raise ValueError(f"{name}: want finite values or -inf, got NaN or +inf in {_checks.describe(bias)}")
    return bias.to(accumulation_dtype(x.dtype))


def _check_groups(name: str, groups: Tensor, x: Tensor, size: int, counted: str) -> Tensor:
    _checks.integer(name, groups, ndim=1)
    if groups.shape[0] != size:
        raise ValueError(f"{name}: want one value per {counted} ({size}), got {_checks.describe(groups)}")
    if groups.device != x.device:
        raise ValueError(f"{name}: want the device of x ({x.device}), got {_checks.describe(groups)}")
    return groups.to(torch.int64)


def _check_both_groups(
    row_groups: Tensor | None, col_groups: Tensor | None, x: Tensor, y: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    if y is None:
        if col_groups is not None:
            raise ValueError("col_groups: want None where y is None, as row_groups then serves both sides")
    elif (row_groups is None) != (col_groups is None):
        absent, given = ("row_groups", "col_groups") if row_groups is None else ("col_groups", "row_groups")
        raise ValueError(f"{absent}: want the groups of both sides or of neither, got {given} alone")
    if row_groups is not None:
        row_groups = _check_groups("row_groups", row_groups, x, x.shape[0], "row")
    if col_groups is not None and y is not None:
        col_groups = _check_groups("col_groups", col_groups, x, y.shape[0], "column")
    return row_groups, col_groups


@overload
def pairwise_lse(
    x: Tensor,
    y: Tensor | None = None,
    *,
    scale: float | Tensor = 1.0,
    score: str = "dot",
    bias: Tensor | None = None,
    row_groups: Tensor | None = None,
    col_groups: Tensor | None = None,
    exclude_diagonal: bool = False,
    columns: Literal[False] = False,
) -> Tensor: ...


@overload
def pairwise_lse(
    x: Tensor,
    y: Tensor | None = None,
    *,
    scale: float | Tensor = 1.0,
    score: str = "dot",
    bias: Tensor | None = None,
    row_groups: Tensor | None = None,
    col_groups: Tensor | None = None,
    exclude_diagonal: bool = False,
    columns: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@overload
def pairwise_lse(
    x: Tensor,
    y: Tensor | None = None,
    *,
    scale: float | Tensor = 1.0,
    score: str = "dot",
    bias: Tensor | None = None,
    row_groups: Tensor | None = None,
    col_groups: Tensor | None = None,
    exclude_diagonal: bool = False,
    columns: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...


def pairwise_lse(
    x: Tensor,
    y: Tensor | None = None,
    *,
    scale: float | Tensor = 1.0,
    score: str = "dot",
    bias: Tensor | None = None,
    row_groups: Tensor | None = None,
    col_groups: Tensor | None = None,
    exclude_diagonal: bool = False,
    columns: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Log-sum-exp over all pairs of rows of two matrices; the N x M scores are never stored.

    .. math::
        s_{ij} = \phi(x_i, y_j) + \mathrm{bias}_j, \qquad
        \mathrm{row}_i = \log \sum_j e^{s_{ij}}, \qquad \mathrm{col}_j = \log \sum_i e^{s_{ij}}

    with one of these scores, where :math:`r = |x_i - y_j|` and :math:`\alpha` is ``scale``:

    ==================  ===============================================  ==============================
    ``score``           :math:`\phi`                                     finite where
    ==================  ===============================================  ==============================
    ``"dot"``           :math:`\alpha\, x_i \cdot y_j`                   everywhere
    ``"sqeuclidean"``   :math:`-\alpha r^2`                              everywhere
    ``"euclidean"``     :math:`-\alpha r`                                everywhere
    ``"tophat"``        0                                                :math:`\alpha r^2 < 1`
    ``"epanechnikov"``  :math:`\log(1 - \alpha r^2)`                     :math:`\alpha r^2 < 1`
    ``"biweight"``      :math:`2 \log(1 - \alpha r^2)`                   :math:`\alpha r^2 < 1`
    ``"triweight"``     :math:`3 \log(1 - \alpha r^2)`                   :math:`\alpha r^2 < 1`
    ``"triangular"``    :math:`\log(1 - \alpha r)`                       :math:`\alpha r < 1`
    ``"cosine"``        :math:`\log \cos(\tfrac{\pi}{2} \alpha r)`       :math:`\alpha r < 1`
    ==================  ===============================================  ==============================

    Elsewhere :math:`\phi = -\infty`. Where :math:`\phi` has a kink, at r = 0 and at the edge of a support, its
    gradient is taken as 0; so is that of ``"tophat"`` everywhere.

    Memory is O((N + M) d) forward and backward. Gradients flow to ``x``, ``y``, ``scale`` and ``bias``. Sums are held
    in float32 for half types (float64 for float64) and shifted by their maximum, so any finite score is safe. A row
    or column whose scores are all ``-inf``, or left out, has the value ``-inf`` and gradient 0. Second derivatives
    are supported through the torch reference and need O(N M) memory. Under autocast, dot products run in the autocast
    dtype and distances in float32. On CUDA, dot products of float32 and their gradients are rounded to TF32 (11
    significant bits) where torch's own are, by ``torch.set_float32_matmul_precision("high")`` or
    ``torch.backends.cuda.matmul``; not unless that is set. The setting at the call counts for its gradients too.

    Args:
        x: the rows.
        y: the columns; ``None`` pairs ``x`` with itself (and costs less than passing it twice).
        scale: a number, or a tensor with one element, which may require a gradient; > 0 for all scores but ``"dot"``
            and ``"sqeuclidean"``.
        score: one of the table.
        bias: added to every score of a column; ``-inf`` leaves a column out.
        row_groups: integers, one for each row; a pair whose row and column have equal groups is left out of every
            sum. With ``y=None`` they are the groups of both sides.
        col_groups: integers, one for each column; wanted with ``row_groups`` unless ``y`` is ``None``.
        exclude_diagonal: leave the pairs ``i == j`` out of every sum.
        columns: return the column results too, from the same pass.

    Shape:
        - x: :math:`(N, d)`, y: :math:`(M, d)`, scale: one element, bias: :math:`(M,)`, row_groups: :math:`(N,)`,
          col_groups: :math:`(M,)`
        - Output: row :math:`(N,)`, or the pair row :math:`(N,)`, col :math:`(M,)` if ``columns``; float32 for
          float32, bfloat16 and float16 inputs, float64 for float64.

    Raises:
        TypeError: not floating-point tensors, dtypes that differ, or groups that are not integers.
        ValueError: shapes or devices that do not match, an empty side, groups of one side only, NaN or infinite
            values (looked at as :func:`~mi_estimators.value_checks` says), an unknown score, a scale <= 0 for a score
            that wants more, or one point paired with itself alone while the diagonal is excluded.

    Example:
        >>> x, y = torch.randn(8, 3), torch.randn(5, 3)
        >>> torch.allclose(pairwise_lse(x, y), torch.logsumexp(x @ y.T, dim=1))
        True
    """
    _checks.choice("score", score, SCORES)
    _checks.floating("x", x)
    if y is not None:
        _checks.floating("y", y)
        _checks.alike("y", y, "x", x)
    m = x.shape[0] if y is None else y.shape[0]
    if exclude_diagonal and (x.shape[0] == 1 or m == 1):
        raise ValueError(
            f"exclude_diagonal: want at least 2 rows and 2 columns to leave the diagonal out, got {x.shape[0]} x {m}"
        )
    _checks.finite("x", x)
    if y is not None:
        _checks.finite("y", y)
    return unchecked_pairwise_lse(
        x,
        y,
        scale=scale,
        score=score,
        bias=bias,
        row_groups=row_groups,
        col_groups=col_groups,
        exclude_diagonal=exclude_diagonal,
        columns=columns,
    )


def unchecked_pairwise_lse(
    x: Tensor,
    y: Tensor | None = None,
    *,
    scale: float | Tensor = 1.0,
    score: str = "dot",
    bias: Tensor | None = None,
    row_groups: Tensor | None = None,
    col_groups: Tensor | None = None,
    exclude_diagonal: bool = False,
    columns: bool = False,
) -> Any:
    """:func:`pairwise_lse` for callers that have checked ``x`` and ``y`` under their own argument names."""
    x, y = _autocast(x, y, score)
    scale = as_scale(scale, x, positive=score not in ("dot", "sqeuclidean"))
    if bias is not None:
        bias = check_bias(bias, x, x.shape[0] if y is None else y.shape[0])
    row_groups, col_groups = _check_both_groups(row_groups, col_groups, x, y)
    operator = _ForwardFunction.apply if in_functorch() else torch.ops.mi_estimators.pairwise_lse
    row_lse, col_lse = operator(
        x, y, scale, bias, row_groups, col_groups, score, exclude_diagonal, columns, allows_tf32(x)
    )
    return (row_lse, col_lse) if columns else row_lse
