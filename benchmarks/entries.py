"""The table of entries: what is benchmarked. A new operation, size or contender is one entry, or one line of one, here.

Everything in an entry is a module-level function, because the memory of a call is taken in a fresh process. The fp64
reference and the eager contender are one function where the way a user writes the operation in torch is also right.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

import mi_estimators as mi
from benchmarks.harness import OURS, Contender, Entry, Forward, Params, Products, State, Tensors

# --------------------------------------------------------------------------------------------------------------- setup


def _points(params: Params, count: int) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, params.get("dtype", "float32"))
    return tuple(
        torch.randn(params["n"], params["d"], generator=generator).to(dtype).requires_grad_() for _ in range(count)
    )


def _weights(params: Params, count: int) -> Tensors:
    """Gradients of outputs of shape [n]: distinct, so that a backward that ignores them is caught."""
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(params["n"], generator=generator) for _ in range(count))


def two_sets(params: Params) -> State:
    """Two sets of points; row and column results."""
    return State(_points(params, 2), _weights(params, 2))


def one_set(params: Params) -> State:
    """One set of points; row results."""
    return State(_points(params, 1), _weights(params, 1))


def two_views(params: Params) -> State:
    """Two sets of points, the second a noisy copy of the first; a scalar loss."""
    x, noise = _points(params, 2)
    y = (x.detach() + 2 * noise.detach()).requires_grad_()  # not so close that the loss is near 0
    return State((x, y), (torch.tensor(1.7),))


# ---------------------------------------------------------------------------------------------------------- operations


def compiled(forward: Forward) -> Forward:
    return torch.compile(forward, dynamic=False)


def lse_dot_ours(params: Params, inputs: Tensors) -> Tensors:
    x, y = inputs
    return cast(Tensors, mi.pairwise_lse(x, y, scale=params["scale"], columns=True))


def lse_dot_eager(params: Params, inputs: Tensors) -> Tensors:
    x, y = inputs
    scores = params["scale"] * (x @ y.T)
    return torch.logsumexp(scores, 1), torch.logsumexp(scores, 0)


def lse_loo_ours(params: Params, inputs: Tensors) -> Tensors:
    (x,) = inputs
    lse = mi.pairwise_lse(x, score="sqeuclidean", scale=params["scale"], exclude_diagonal=True)
    return (cast(Tensor, lse),)


def lse_loo_eager(params: Params, inputs: Tensors) -> Tensors:
    (x,) = inputs
    norms = (x * x).sum(1)
    scores = -params["scale"] * (norms[:, None] + norms - 2 * (x @ x.T))
    diagonal = torch.eye(len(x), dtype=torch.bool)
    return (torch.logsumexp(scores.masked_fill(diagonal, -torch.inf), 1),)


def info_nce_ours(params: Params, inputs: Tensors) -> Tensors:
    x, y = inputs
    return (mi.info_nce(x, y, temperature=params["temperature"]),)


def info_nce_eager(params: Params, inputs: Tensors) -> Tensors:
    x, y = (F.normalize(t, dim=1) for t in inputs)
    logits = x @ y.T / params["temperature"]
    target = torch.arange(len(x))
    return ((F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2,)


# ------------------------------------------------------------------------------------------------- products they need


def two_sets_products(params: Params) -> Products:
    """Scores; then scores again, dx and dy."""
    return Products(params["n"], params["n"], params["d"], forward=1, both=4)


def one_set_products(params: Params) -> Products:
    """Scores; then scores again and one product for both roles. Halving by symmetry is not taken into account."""
    return Products(params["n"], params["n"], params["d"], forward=1, both=3)


# --------------------------------------------------------------------------------------------------------------- table


def _against_torch(ours: Forward, eager: Forward) -> tuple[Contender, ...]:
    return (Contender(OURS, ours), Contender("torch eager", eager), Contender("torch.compile", eager, compiled))


def _cases(*sizes: tuple[int, int], **more: float) -> tuple[Params, ...]:
    return tuple({"n": n, "d": d, **more} for n, d in sizes)


ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="info_nce symmetric",
        suite="core",
        cases=_cases((128, 128), (512, 128), (2048, 128), (4096, 128), temperature=0.1),
        quick=_cases((1024, 128), temperature=0.1),
        memory_cases=_cases((16384, 128), temperature=0.1),
        setup=two_views,
        contenders=_against_torch(info_nce_ours, info_nce_eager),
        reference=info_nce_eager,
        floor=two_sets_products,
    ),
    Entry(
        name="pairwise_lse dot rows+columns",
        suite="core",
        cases=_cases((512, 128), (4096, 128), scale=0.1),
        quick=_cases((1024, 128), scale=0.1),
        setup=two_sets,
        contenders=_against_torch(lse_dot_ours, lse_dot_eager),
        reference=lse_dot_eager,
        floor=two_sets_products,
    ),
    Entry(
        name="pairwise_lse sqeuclidean self leave-one-out",
        suite="core",
        cases=_cases((512, 8), (4096, 8), scale=0.5) + _cases((512, 128), (4096, 128), scale=0.01),
        quick=_cases((1024, 8), scale=0.5),
        setup=one_set,
        contenders=_against_torch(lse_loo_ours, lse_loo_eager),
        reference=lse_loo_eager,
        floor=one_set_products,
    ),
)
