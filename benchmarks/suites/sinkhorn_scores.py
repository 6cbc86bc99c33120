"""The suite ``sinkhorn_scores``: Sinkhorn-Knopp on given scores, and batches of small problems, against torch."""

from __future__ import annotations

import torch
from torch import Tensor

import mi_estimators as mi
from benchmarks.bars import Bar
from benchmarks.floor import Products
from benchmarks.harness import EAGER, OURS, Contender, Entry, Params, State, Tensors
from benchmarks.suites.common import Suite, against_torch, cases

# ---------------------------------------------------------------------------------------------------------- operations


def scores(params: Params) -> State:
    """Cosines of n samples to d prototypes."""
    generator = torch.Generator().manual_seed(0)
    return State((2 * torch.rand(params["n"], params["d"], generator=generator) - 1,), ())


def problems(params: Params) -> State:
    """n problems of d x d scores."""
    generator = torch.Generator().manual_seed(0)
    shape = (params["n"], params["d"], params["d"])
    return State((torch.randn(shape, generator=generator).requires_grad_(),), (torch.rand(shape, generator=generator),))


def knopp_ours(params: Params, inputs: Tensors) -> Tensors:
    return (mi.sinkhorn_knopp(inputs[0], epsilon=params["epsilon"], n_iter=params["n_iter"]),)


def knopp_eager(params: Params, inputs: Tensors) -> Tensors:
    """As training scripts write it, with divisions in place."""
    q = torch.exp(inputs[0] / params["epsilon"]).T
    prototypes, samples = q.shape
    q /= q.sum()
    for _ in range(params["n_iter"]):
        q /= q.sum(1, keepdim=True)
        q /= prototypes
        q /= q.sum(0, keepdim=True)
        q /= samples
    q *= samples
    return (q.T,)


def batch_ours(params: Params, inputs: Tensors) -> Tensors:
    return (mi.sinkhorn_batch(inputs[0], n_iter=params["n_iter"]),)


def batch_eager(params: Params, inputs: Tensors) -> Tensors:
    """The cheapest way in torch: exponentials once, then divisions."""
    plan = inputs[0].exp()
    for _ in range(params["n_iter"]):
        plan = plan / plan.sum(2, keepdim=True)
        plan = plan / plan.sum(1, keepdim=True)
    return (plan,)


def batch_eager_log(params: Params, inputs: Tensors) -> Tensors:
    plan: Tensor = inputs[0]
    for _ in range(params["n_iter"]):
        plan = plan - plan.logsumexp(2, keepdim=True)
        plan = plan - plan.logsumexp(1, keepdim=True)
    return (plan.exp(),)


# ------------------------------------------------------------------------------------------------- products they need


def no_products(params: Params) -> Products:
    """None: scores are given."""
    return Products(1, 1, 1, forward=(), both=())


# --------------------------------------------------------------------------------------------------------------- table

ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="sinkhorn_knopp",
        cases=cases((512, 3000), (8192, 3000), modes=("forward",), epsilon=0.05, n_iter=3),
        quick=cases((512, 300), modes=("forward",), epsilon=0.05, n_iter=3),
        setup=scores,
        contenders=against_torch(knopp_ours, knopp_eager),
        reference=knopp_eager,
        floor=no_products,
    ),
    Entry(
        name="sinkhorn_batch",
        cases=(
            *cases((256, 64), n_iter=20),
            *cases((4096, 4), (65536, 4), modes=("forward", "both"), n_iter=20),
        ),
        quick=cases((1024, 4), n_iter=20),
        setup=problems,
        contenders=(*against_torch(batch_ours, batch_eager)[:2], Contender("torch eager, logs", batch_eager_log)),
        reference=batch_eager_log,
        floor=no_products,
    ),
)

BARS: tuple[Bar, ...] = (
    Bar("sinkhorn_knopp", {"n": 8192, "d": 3000}, EAGER, OURS, mode="forward", at_least=3.0),
    Bar("sinkhorn_batch", {"n": 65536, "d": 4}, EAGER, OURS, at_least=10.0),
)

# Times here grow with n, not with its square, as the limit on a call assumes.
SUITE = Suite(ENTRIES, BARS, patience_s=120.0)
