r"""First and last layer of a network that scores all pairs, each one visit of the pairs forward and one backward.

The first layer of a network on ``[x, y]`` is a sum of a part of x and one of y, so that its output for all pairs is

.. math::
    h_{ijk} = \max(a_{ik} + b_{jk}, 0),

and its last a product with a vector, :math:`s_p = \sum_k w_k \max(z_{pk}, 0)`, the ReLU of the layer in front included.
Between them stand products of matrices. What is of the size of the pairs may be bfloat16, and its sums are float32.

Autograd would visit the pairs once for each of the sum, the ReLU, the rounding, the mask and the sums over pairs. Here
each layer visits them once, and once backward. This file holds the operators whole: schemas, torch references, shape
functions, autograd and public functions; the compiled library adds the ``CPU`` kernels.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import accumulation_dtype

_library = torch.library.Library("mi_estimators", "FRAGMENT")
_library.define("pair_relu(Tensor a, Tensor b, bool narrow) -> Tensor")
_library.define("pair_relu_backward(Tensor grad, Tensor out, int rows) -> (Tensor da, Tensor db)")
_library.define("relu_dot(Tensor z, Tensor weight) -> Tensor")
_library.define("relu_dot_backward(Tensor grad, Tensor z, Tensor weight) -> (Tensor dz, Tensor dweight, Tensor sums)")


# ------------------------------------------------------------------------------------------------------ reference


def reference_pair_relu(a: Tensor, b: Tensor, narrow: bool) -> Tensor:
    """The first layer."""
    out = (a.unsqueeze(1) + b).flatten(0, 1).relu_()
    return out.bfloat16() if narrow else out


def reference_pair_relu_backward(grad: Tensor, out: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Its gradient, summed over the pairs of each row and of each column."""
    passed = torch.where(out <= 0, 0, grad).to(accumulation_dtype(out.dtype)).unflatten(0, (rows, -1))
    return passed.sum(1), passed.sum(0)


def reference_relu_dot(z: Tensor, weight: Tensor) -> Tensor:
    """The last layer."""
    return z.to(weight.dtype).relu_() @ weight if z.dtype != weight.dtype else z.relu() @ weight


def reference_relu_dot_backward(grad: Tensor, z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of what came in and of the weights, and the sums of the first over the pairs."""
    passed = torch.where(z <= 0, 0, grad.unsqueeze(1))
    dz = (passed * weight).to(z.dtype)
    return dz, grad @ z.to(weight.dtype).relu(), passed.sum(0) * weight


_library.impl("pair_relu", reference_pair_relu, "CompositeExplicitAutograd")
_library.impl("pair_relu_backward", reference_pair_relu_backward, "CompositeExplicitAutograd")
_library.impl("relu_dot", reference_relu_dot, "CompositeExplicitAutograd")
_library.impl("relu_dot_backward", reference_relu_dot_backward, "CompositeExplicitAutograd")


@torch.library.register_fake("mi_estimators::pair_relu", lib=_library)
def _fake_pair_relu(a: Tensor, b: Tensor, narrow: bool) -> Tensor:
    shape = (a.shape[0] * b.shape[0], a.shape[1])
    return a.new_empty(shape, dtype=torch.bfloat16 if narrow else a.dtype)


@torch.library.register_fake("mi_estimators::pair_relu_backward", lib=_library)
def _fake_pair_relu_backward(grad: Tensor, out: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    wide = accumulation_dtype(out.dtype)
    pairs, width = out.shape
    return out.new_empty((rows, width), dtype=wide), out.new_empty((pairs // rows, width), dtype=wide)


@torch.library.register_fake("mi_estimators::relu_dot", lib=_library)
def _fake_relu_dot(z: Tensor, weight: Tensor) -> Tensor:
    return weight.new_empty(z.shape[0])


@torch.library.register_fake("mi_estimators::relu_dot_backward", lib=_library)
def _fake_relu_dot_backward(grad: Tensor, z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return z.new_empty(z.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


# ------------------------------------------------------------------------------------------------------- autograd


class _PairRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, narrow: bool) -> Tensor:
        out: Tensor = torch.ops.mi_estimators.pair_relu(a, b, narrow)
        ctx.save_for_backward(out)
        ctx.rows = a.shape[0]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        da, db = torch.ops.mi_estimators.pair_relu_backward(grad, *ctx.saved_tensors, ctx.rows)
        return da, db, None


class _ReluDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(z, weight)
        return cast(Tensor, torch.ops.mi_estimators.relu_dot(z, weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        dz, dweight, _ = torch.ops.mi_estimators.relu_dot_backward(grad, *ctx.saved_tensors)
        return dz, dweight


# ------------------------------------------------------------------------------------------------ public functions

_STORED = (torch.float64, torch.float32, torch.bfloat16)


def pair_relu(a: Tensor, b: Tensor, *, narrow: bool = False) -> Tensor:
    r"""ReLU of the sums of all pairs of rows, :math:`\max(a_{ik} + b_{jk}, 0)`. First derivatives only.

    Args:
        a: one side.
        b: the other.
        narrow: round the result to bfloat16; for float32.

    Shape:
        - a: :math:`(N, h)`, b: :math:`(M, h)`, float32 or float64
        - Output: :math:`(N M, h)`; pair (i, j) is row :math:`i M + j`.

    Raises:
        TypeError: not tensors of float32 or float64, or dtypes that differ; ``narrow`` with float64.
        ValueError: shapes or devices that do not match, an empty side.
    """
    _checks.floating("a", a)
    _checks.floating("b", b)
    _checks.alike("b", b, "a", a)
    if a.dtype not in ((torch.float32,) if narrow else (torch.float32, torch.float64)):
        raise TypeError(f"a: want float32, or float64 that is not narrowed, got {_checks.describe(a)}")
    return cast(Tensor, _PairRelu.apply(a, b, narrow))


def relu_dot(z: Tensor, weight: Tensor) -> Tensor:
    r"""Product of ReLUs with a vector, :math:`\sum_k w_k \max(z_{pk}, 0)`. First derivatives only.

    Args:
        z: rows; those of bfloat16 are widened to float32.
        weight: the vector.

    Shape:
        - z: :math:`(P, h)`, float64, float32 or bfloat16; weight: :math:`(h,)`, float64 with float64 and float32
          otherwise
        - Output: :math:`(P,)`, in the dtype of ``weight``.

    Raises:
        TypeError: not floating-point tensors of these dtypes.
        ValueError: shapes or devices that do not match, no rows.
    """
    _checks.floating("z", z)
    _checks.floating("weight", weight, ndim=1)
    if z.dtype not in _STORED:
        raise TypeError(f"z: want float64, float32 or bfloat16, got {_checks.describe(z)}")
    if weight.dtype != accumulation_dtype(z.dtype):
        raise TypeError(f"weight: want {accumulation_dtype(z.dtype)} beside {z.dtype}, got {_checks.describe(weight)}")
    if weight.shape[0] != z.shape[1] or weight.device != z.device:
        raise ValueError(f"weight: want {z.shape[1]} numbers on {z.device}, got {_checks.describe(weight)}")
    return cast(Tensor, _ReluDot.apply(z, weight))
