"""The processes of torchrun that train together, each on its share of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mi_estimators.distributed import gather_with_gradient


def started(devices: int | None) -> tuple[int, int]:
    """How many processes train, and how many of them on this machine: as torchrun started them, else this one alone.

    Args:
        devices: how many are wanted; None takes what there is.

    Raises:
        ValueError: there are others.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if devices is not None and devices != world:
        raise ValueError(
            f"devices: want the number of processes that torchrun started, {world}, got {devices}; start "
            f"`torchrun --nproc-per-node {devices} -m mi_estimators train ...`"
        )
    return world, int(os.environ.get("LOCAL_WORLD_SIZE", world))


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return int(os.environ.get("RANK", 0)) == 0


@contextmanager
def together(module: nn.Module) -> Iterator[None]:
    """Have all losses and memories of a module compare and take in the rows of all processes.

    Outside of it a process is alone, as the one that evaluates is.
    """
    held = [part for part in module.modules() if hasattr(part, "gather_distributed")]
    for part in held:
        part.gather_distributed = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for part in held:
            part.gather_distributed = False  # type: ignore[assignment]


@torch.no_grad()
def broadcast_state(module: nn.Module) -> None:
    """Give every process the parameters and buffers of the first."""
    for tensor in module.state_dict().values():
        dist.broadcast(tensor, src=0)


class JoinedBatchNorm(_BatchNorm):
    r"""Batch norm whose statistics in training are those of the rows of all processes, on any device.

    With mean :math:`m_r` and variance :math:`v_r` of the rows of rank r, as many on every rank:
    :math:`m = \frac1P \sum_r m_r`, :math:`v = \frac1P \sum_r v_r + (m_r - m)^2`. ``nn.SyncBatchNorm`` is the same, on
    GPUs alone.

    Shape:
        - images: :math:`(N, C, *)`; Output: the same.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"input: want at least 2 dimensions, got {input.ndim}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, and in training follow the statistics."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        x = input.float()
        dims = [dim for dim in range(x.ndim) if dim != 1]
        own = torch.stack([x.mean(dim=dims), x.var(dim=dims, unbiased=False)])  # [2, C]
        means, variances = gather_with_gradient(own[None]).unbind(dim=1)  # [P, C] each
        mean = means.mean(dim=0)
        variance = (variances + (means - mean) ** 2).mean(dim=0)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self._follow(mean.detach(), variance.detach(), len(means) * x.numel() // x.shape[1])
        shape = [1, -1] + [1] * (x.ndim - 2)
        out = (x - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), share)


def with_joined_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with statistics of all processes in place of each batch norm's own; parameters stay the same."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            options = (child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            joined = JoinedBatchNorm(*options)
            joined._parameters, joined._buffers = child._parameters, child._buffers
            setattr(module, name, joined.train(child.training))
        else:
            with_joined_batch_norm(child, device)
    return module
