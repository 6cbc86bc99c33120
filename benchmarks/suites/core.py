"""The suite ``core``: the pairwise log-sum-exp and the symmetric InfoNCE loss against torch.

Everything in an entry is a module-level function, because the memory of a call is taken in a fresh process. The fp64
reference and the eager contender are one function where the way a user writes the operation in torch is also right.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

import mi_estimators as mi
from benchmarks.floor import DX, DY, SCORES, Products
from benchmarks.harness import Entry, Params, Tensors
from benchmarks.suites.common import Suite, against_torch, cases, one_set, two_sets, two_views

# ---------------------------------------------------------------------------------------------------------- operations


def lse_dot_ours(params: Params, inputs: Tensors) -> Tensors:
    x, y = inputs
    return mi.pairwise_lse(x, y, scale=params["scale"], columns=True)


def lse_dot_eager(params: Params, inputs: Tensors) -> Tensors:
    x, y = inputs
    scores = params["scale"] * (x @ y.T)
    return torch.logsumexp(scores, 1), torch.logsumexp(scores, 0)


def lse_loo_ours(params: Params, inputs: Tensors) -> Tensors:
    (x,) = inputs
    return (mi.pairwise_lse(x, score="sqeuclidean", scale=params["scale"], exclude_diagonal=True),)


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
    n, d = params["n"], params["d"]
    return Products(n, n, d, forward=((SCORES,),), both=((SCORES,), (SCORES, DX, DY)))


def one_set_products(params: Params) -> Products:
    """Scores; then scores again and one product for both roles. Halving by symmetry is not taken into account."""
    n, d = params["n"], params["d"]
    return Products(n, n, d, forward=((SCORES,),), both=((SCORES,), (SCORES, DX)))


# --------------------------------------------------------------------------------------------------------------- table

PASSES = ("forward", "both")

ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="info_nce symmetric",
        cases=(
            *cases((128, 128), modes=PASSES, temperature=0.1),
            *cases((512, 128), (2048, 128), (4096, 128), modes=PASSES, memory=True, temperature=0.1),
            *cases((16384, 128), alone=True, temperature=0.1),
        ),
        quick=cases((1024, 128), temperature=0.1),
        setup=two_views,
        contenders=against_torch(info_nce_ours, info_nce_eager),
        reference=info_nce_eager,
        floor=two_sets_products,
    ),
    Entry(
        name="pairwise_lse dot rows+columns",
        cases=cases((512, 128), (4096, 128), modes=PASSES, memory=True, scale=0.1),
        quick=cases((1024, 128), scale=0.1),
        setup=two_sets,
        contenders=against_torch(lse_dot_ours, lse_dot_eager),
        reference=lse_dot_eager,
        floor=two_sets_products,
    ),
    Entry(
        name="pairwise_lse sqeuclidean self leave-one-out",
        cases=(
            *cases((512, 8), (4096, 8), modes=PASSES, memory=True, scale=0.5),
            *cases((512, 128), (4096, 128), modes=PASSES, memory=True, scale=0.01),
        ),
        quick=cases((1024, 8), scale=0.5),
        setup=one_set,
        contenders=against_torch(lse_loo_ours, lse_loo_eager),
        reference=lse_loo_eager,
        floor=one_set_products,
    ),
)

SUITE = Suite(ENTRIES)
