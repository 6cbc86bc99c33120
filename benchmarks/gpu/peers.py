"""Losses of libraries that run on a GPU only, as contenders: each is called as its documentation says.

One that is not installed fails when it is first called, and is reported and left out. benchmarks/peers-gpu.txt has the
versions they were written for.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Contender, Params, Tensors

PACKAGES = ("triton", "inf-cl", "cut-cross-entropy", "liger-kernel", "siglip-kernel", "flash-sinkhorn")


def _unit(inputs: Tensors) -> tuple[Tensor, Tensor]:
    x, y = (F.normalize(t, dim=1) for t in inputs)
    return x, y


def _targets(x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device)


# ------------------------------------------------------------------------- InfoNCE, both directions, one after another


def inf_cl(params: Params, inputs: Tensors) -> Tensors:
    from inf_cl import cal_inf_loss

    x, y = _unit(inputs)
    block = next(size for size in (256, 128, 64, 32, 16) if x.shape[1] % size == 0)
    scale = 1 / params["temperature"]
    both = (cal_inf_loss(scale * a, b, head_dim=block) for a, b in ((x, y), (y, x)))
    return (sum(both) / 2,)


def cut_cross_entropy(params: Params, inputs: Tensors) -> Tensors:
    from cut_cross_entropy import linear_cross_entropy

    x, y = _unit(inputs)
    targets, scale = _targets(x), 1 / params["temperature"]
    # Its filter leaves probabilities below 2.4e-4 out of the gradient: of so many candidates, nearly all of them.
    both = (linear_cross_entropy(scale * a, b, targets, filter_eps=None) for a, b in ((x, y), (y, x)))
    return (sum(both) / 2,)


@functools.cache
def _liger() -> Any:
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    # Hundreds of chunks are added up: in bfloat16 that gradient would be lost in rounding.
    return LigerFusedLinearCrossEntropyLoss(accum_dtype=torch.float32)


def liger(params: Params, inputs: Tensors) -> Tensors:
    x, y = _unit(inputs)
    targets, scale = _targets(x), 1 / params["temperature"]
    both = (_liger()(b, scale * a, targets) for a, b in ((x, y), (y, x)))  # the weight comes first
    return (sum(both) / 2,)


INF_CL = Contender("inf-cl", inf_cl)
CUT_CROSS_ENTROPY = Contender("cut-cross-entropy", cut_cross_entropy)
LIGER = Contender("Liger", liger)

# -------------------------------------------------------------------------------------------------------- sigmoid loss


def siglip_kernel(params: Params, inputs: Tensors) -> Tensors:
    from siglip_kernel import fused_siglip_loss

    x, y = _unit(inputs)
    scale, bias = (torch.full((), params[name], device=x.device) for name in ("scale", "bias"))
    return (fused_siglip_loss(x, y, scale.log(), bias),)


SIGLIP_KERNEL = Contender("siglip-kernel", siglip_kernel)

# ----------------------------------------------------------------------------------------------------------- transport


def _flash_sinkhorn(params: Params, inputs: Tensors, tf32: bool) -> Tensors:
    from flash_sinkhorn import SamplesLoss

    loss = SamplesLoss(
        "sinkhorn",
        backend="alternating",
        use_epsilon_scaling=False,
        eps=params["epsilon"],
        n_iters=params["iterations"],
        allow_tf32=tf32,
    )
    return (loss(*inputs),)


def flash_sinkhorn(params: Params, inputs: Tensors) -> Tensors:
    return _flash_sinkhorn(params, inputs, tf32=False)


def flash_sinkhorn_tf32(params: Params, inputs: Tensors) -> Tensors:
    return _flash_sinkhorn(params, inputs, tf32=True)


FLASH_SINKHORN = Contender("flash-sinkhorn", flash_sinkhorn)
FLASH_SINKHORN_TF32 = Contender("flash-sinkhorn, TF32", flash_sinkhorn_tf32)
