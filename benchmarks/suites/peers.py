"""Contrastive losses of other libraries, as contenders: each is called as its documentation says.

A library is imported when its contender is first called. One that is not installed fails there, and the harness reports
why and leaves it out. benchmarks/peers.txt has the versions; ``make bench-peers`` installs them.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Contender, Params, Tensors
from benchmarks.torchvision_stub import ensure_torchvision


def _unit(inputs: Tensors) -> tuple[Tensor, Tensor]:
    x, y = (F.normalize(t, dim=1) for t in inputs)
    return x, y


# --------------------------------------------------------------------------------------------------------------- torch


def _linear_cross_entropy(x: Tensor, y: Tensor, params: Params) -> Tensor:
    # With options: the path by chunks. Without, it is what the eager contender does.
    target = torch.arange(len(x), device=x.device)
    return F.linear_cross_entropy(x / params["temperature"], y, target, options=torch.nn.LinearCrossEntropyOptions())


def linear_cross_entropy(params: Params, inputs: Tensors) -> Tensors:
    x, y = _unit(inputs)
    return (_linear_cross_entropy(x, y, params),)


def linear_cross_entropy_both(params: Params, inputs: Tensors) -> Tensors:
    x, y = _unit(inputs)
    return ((_linear_cross_entropy(x, y, params) + _linear_cross_entropy(y, x, params)) / 2,)


LINEAR_CROSS_ENTROPY = Contender("F.linear_cross_entropy", linear_cross_entropy)
LINEAR_CROSS_ENTROPY_BOTH = Contender("F.linear_cross_entropy", linear_cross_entropy_both)

# ----------------------------------------------------------------------------------------------------------- libraries


def open_clip_loss(params: Params, inputs: Tensors) -> Tensors:
    ensure_torchvision()
    from open_clip.loss import ClipLoss

    x, y = _unit(inputs)
    return (ClipLoss()(x, y, 1 / params["temperature"]),)


def lightly_nt_xent(params: Params, inputs: Tensors) -> Tensors:
    ensure_torchvision()
    from lightly.loss import NTXentLoss

    return (NTXentLoss(temperature=params["temperature"])(*inputs),)


def metric_learning_nt_xent(params: Params, inputs: Tensors) -> Tensors:
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    return (SelfSupervisedLoss(NTXentLoss(temperature=params["temperature"]))(*inputs),)


def info_nce_pytorch(params: Params, inputs: Tensors) -> Tensors:
    from info_nce import InfoNCE

    return (InfoNCE(temperature=params["temperature"])(*inputs),)


OPEN_CLIP = Contender("open_clip", open_clip_loss)
LIGHTLY = Contender("lightly", lightly_nt_xent)
METRIC_LEARNING = Contender(
    "pytorch-metric-learning",
    metric_learning_nt_xent,
    max_n=128,
    because="it takes memory in proportion to n³: tens of GB at n=512",
)
INFO_NCE_PYTORCH = Contender("info-nce-pytorch", info_nce_pytorch)

# --------------------------------------------------------------------------------------------------------------- KeOps


@functools.cache
def set_openmp_threads() -> Callable[[int], Any]:
    """omp_set_num_threads of the system's libgomp, which KeOps links; torch brings its own, with its own number."""
    return ctypes.CDLL(ctypes.util.find_library("gomp") or "libgomp.so.1").omp_set_num_threads


def _keops_scores(x: Tensor, y: Tensor, params: Params) -> Any:
    import pykeops
    from pykeops.torch import LazyTensor

    pykeops.set_verbose(False)
    set_openmp_threads()(torch.get_num_threads())
    return (LazyTensor(x[:, None, :]) | LazyTensor(y[None, :, :])) / params["temperature"]


def _positives(x: Tensor, y: Tensor, params: Params) -> Tensor:
    return (x * y).sum(1) / params["temperature"]


def keops(params: Params, inputs: Tensors) -> Tensors:
    x, y = _unit(inputs)
    rows = _keops_scores(x, y, params).logsumexp(dim=1).flatten()
    return ((rows - _positives(x, y, params)).mean(),)


def keops_both(params: Params, inputs: Tensors) -> Tensors:
    x, y = _unit(inputs)
    scores = _keops_scores(x, y, params)
    rows, columns = (scores.logsumexp(dim=dim).flatten() for dim in (1, 0))
    return (((rows + columns) / 2 - _positives(x, y, params)).mean(),)


# Costly: each formula and dimension is compiled by g++ when first used, a minute for those of one entry.
KEOPS = Contender("KeOps", keops, costly=True)
KEOPS_BOTH = Contender("KeOps", keops_both, costly=True)

PACKAGES = (
    "lightly",
    "pytorch-metric-learning",
    "open_clip_torch",
    "info-nce-pytorch",
    "pykeops",
    "torchvision",
    "numpy",
)
