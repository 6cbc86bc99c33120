r"""Rows of all processes, with gradients: what a loss over the joined batch needs under ``torch.distributed``.

**Whose gradient.** Let rank r compute a loss :math:`L_r` from its own rows and from gathered ones. The backward of
:func:`gather_with_gradient` adds up what all ranks send to a row, so the gradient at a row of rank s is that of
:math:`\sum_r L_r`. DistributedDataParallel and FSDP then average over the P ranks, and the parameters receive the
gradient of

.. math::
    \frac1P \sum_r L_r .

That is the gradient of one process with the joined batch in both usual cases: where every rank computes the loss of the
whole batch (:math:`L_r = L`), and where each computes the mean over its own anchors (their mean is :math:`L`). No
factor of P has to be multiplied in. Whoever sums gradients over ranks instead of averaging them has to divide by P.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_SIZES_SEEN: weakref.WeakSet[Any] = weakref.WeakSet()  # groups whose sizes on a GPU have been compared once


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Number of processes of a group, 1 where ``torch.distributed`` is not initialised.

    Raises:
        ValueError: this process is not in the group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    size = dist.get_world_size(group)
    if size < 1:
        raise ValueError("group: want a process group that holds this process, got one that does not")
    return size


def rank(group: dist.ProcessGroup | None = None) -> int:
    """Number of this process within a group, 0 where ``torch.distributed`` is not initialised."""
    return dist.get_rank(group) if world_size(group) > 1 else 0


def gather_with_gradient(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    r"""The rows of all ranks, concatenated in rank order; gradients flow back to the rank a row came from.

    The gradient of a row is the sum over all ranks of what each sends to it: averaged by DistributedDataParallel, the
    gradient of the mean of the ranks' losses, as for one process with the joined batch. Every rank therefore has to
    run the backward. It can be differentiated again. Returns ``tensor`` itself where ``torch.distributed`` is not
    initialised, or the group has one process.

    Args:
        tensor: rows of this rank, as many on every rank. Integers (labels) are gathered without a gradient.
        group: process group; ``None`` is the default one.

    Shape:
        - tensor: :math:`(N, *)`; Output: :math:`(P N, *)` for P processes, in the dtype of ``tensor``.

    Raises:
        TypeError: not a tensor.
        ValueError: no rows, a scalar, or sizes that differ between ranks; then every rank raises, naming all sizes. On
            the CPU sizes are compared at each call. On a GPU this would wait for the forward pass, so it is done at
            the first call of a group only: later differences (a smaller last batch on one rank; use ``drop_last``)
            are left to ``TORCH_DISTRIBUTED_DEBUG=DETAIL``.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"tensor: want a torch.Tensor, got {type(tensor).__name__}")
    if tensor.ndim == 0:
        raise ValueError("tensor: want at least one dimension, got a scalar")
    if world_size(group) == 1:
        return tensor
    _check_sizes(tensor, group)
    return _Gather.apply(tensor, group)


def rows_of_other_ranks(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The rows of all ranks but this one, in rank order, with gradients as by :func:`gather_with_gradient`.

    Shape:
        - tensor: :math:`(N, *)`; Output: :math:`((P - 1) N, *)`.

    Raises:
        TypeError, ValueError: as :func:`gather_with_gradient`.
    """
    start, rows = rank(group) * tensor.shape[0], tensor.shape[0]
    gathered = gather_with_gradient(tensor, group)
    return torch.cat([gathered[:start], gathered[start + rows :]])


def average_gradient(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The tensor itself, whose gradient is averaged over all ranks.

    For a parameter that each rank holds outside DistributedDataParallel, as a temperature inside a loss: its copies
    then stay equal. Averaging twice changes nothing, so it may be wrapped as well.
    """
    return _AverageGradient.apply(tensor, group) if world_size(group) > 1 else tensor


def _check_sizes(tensor: Tensor, group: dist.ProcessGroup | None) -> None:
    """Compare row counts and widths over ranks: differing ones make the gather hang, or hand out garbage."""
    if torch.compiler.is_compiling():
        return
    if tensor.device.type != "cpu":
        key = dist.group.WORLD if group is None else group
        if key in _SIZES_SEEN:
            return
        _SIZES_SEEN.add(key)
    own = torch.tensor([tensor.shape[0], tensor.shape[1:].numel()], device=tensor.device)
    rows, widths = _all_gather(own, group).view(-1, 2).T.tolist()
    if len(set(rows)) > 1:
        raise ValueError(
            f"tensor: want as many rows on every rank, got {rows}; drop_last=True leaves out short batches"
        )
    if len(set(widths)) > 1:
        raise ValueError(f"tensor: want rows of one size on every rank, got {widths}")
    if rows[0] == 0:
        raise ValueError("tensor: want at least one row, got none on every rank")


def _all_gather(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    gathered = tensor.new_empty((world_size(group) * tensor.shape[0], *tensor.shape[1:]))
    # torch 2.13 renamed it; older ones know the old name only.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(gathered, tensor.contiguous(), group=group)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return _all_gather(tensor, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _SumOfOwnRows.apply(gradient, ctx.group), None


class _SumOfOwnRows(torch.autograd.Function):
    """The transpose of the gather: rows of this rank, summed over what all ranks hold for them."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        own = tensor.new_empty((tensor.shape[0] // world_size(group), *tensor.shape[1:]))
        scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        scatter(own, tensor.contiguous(), group=group)
        return own

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(gradient, ctx.group), None


class _AverageGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        mean = gradient / world_size(ctx.group)
        dist.all_reduce(mean, group=ctx.group)
        return mean, None
