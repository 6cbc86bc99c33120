"""The suite ``infonce``: the contrastive losses on the CPU against every library that has them.

The references work by blocks of rows and recompute a block in the backward, so that fp64 scores are never held whole.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import mi_estimators as mi
from benchmarks.bars import FASTEST, Bar
from benchmarks.floor import DX, DY, SCORES, Products
from benchmarks.harness import COMPILE, EAGER, FLOOR, OURS, Contender, Entry, Params, State, Tensors
from benchmarks.suites import peers
from benchmarks.suites.common import Suite, against_torch, cases, two_views

# ---------------------------------------------------------------------------------------------------------- operations


def symmetric_ours(params: Params, inputs: Tensors) -> Tensors:
    x, y = inputs
    return (mi.info_nce(x, y, temperature=params["temperature"], symmetric=True),)


def symmetric_eager(params: Params, inputs: Tensors) -> Tensors:
    x, y = (F.normalize(t, dim=1) for t in inputs)
    logits = x @ y.T / params["temperature"]
    target = torch.arange(len(x), device=x.device)
    return ((F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2,)


def one_direction_ours(params: Params, inputs: Tensors) -> Tensors:
    x, y = inputs
    return (mi.info_nce(x, y, temperature=params["temperature"], symmetric=False),)


def one_direction_eager(params: Params, inputs: Tensors) -> Tensors:
    x, y = (F.normalize(t, dim=1) for t in inputs)
    return (F.cross_entropy(x @ y.T / params["temperature"], torch.arange(len(x), device=x.device)),)


def nt_xent_ours(params: Params, inputs: Tensors) -> Tensors:
    z1, z2 = inputs
    return (mi.nt_xent(z1, z2, temperature=params["temperature"]),)


def nt_xent_eager(params: Params, inputs: Tensors) -> Tensors:
    z = F.normalize(torch.cat(inputs), dim=1)
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / params["temperature"]).masked_fill(own, -torch.inf)
    return (F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z) // 2)),)


def widened(state: State) -> State:
    """The same numbers in float32."""
    return State(tuple(t.detach().float().requires_grad_() for t in state.inputs), state.cotangents)


# ---------------------------------------------------------------------------------------------------------- references

BLOCK = 512  # rows of scores that a reference holds at a time


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def _block_lse(x: Tensor, y: Tensor, temperature: float) -> Tensors:
    """Row log-sum-exps of a block, and what its rows contribute to those of the columns."""
    scores = x @ y.T / temperature
    return scores.logsumexp(1), scores.logsumexp(0)


def _row_and_column_lse(x: Tensor, y: Tensor, temperature: float) -> Tensors:
    parts = [checkpoint(_block_lse, block, y, temperature, use_reentrant=False) for block in x.split(BLOCK)]
    return torch.cat([row for row, _ in parts]), torch.stack([column for _, column in parts]).logsumexp(0)


def symmetric_reference(params: Params, inputs: Tensors) -> Tensors:
    x, y = (_unit(t) for t in inputs)
    rows, columns = _row_and_column_lse(x, y, params["temperature"])
    return (((rows + columns) / 2 - (x * y).sum(1) / params["temperature"]).mean(),)


def one_direction_reference(params: Params, inputs: Tensors) -> Tensors:
    x, y = (_unit(t) for t in inputs)
    rows, _ = _row_and_column_lse(x, y, params["temperature"])
    return ((rows - (x * y).sum(1) / params["temperature"]).mean(),)


def _block_lse_of_others(x: Tensor, start: int, z: Tensor, temperature: float) -> Tensor:
    places = torch.arange(len(z), device=z.device)
    own = places[start : start + len(x), None] == places
    return (x @ z.T / temperature).masked_fill(own, -torch.inf).logsumexp(1)


def nt_xent_reference(params: Params, inputs: Tensors) -> Tensors:
    temperature = params["temperature"]
    z1, z2 = (_unit(t) for t in inputs)
    z = torch.cat([z1, z2])
    rows, start = [], 0
    for block in z.split(BLOCK):
        rows.append(checkpoint(_block_lse_of_others, block, start, z, temperature, use_reentrant=False))
        start += len(block)
    return (torch.cat(rows).mean() - (z1 * z2).sum(1).mean() / temperature,)


# ------------------------------------------------------------------------------------------------- products they need


def symmetric_products(params: Params) -> Products:
    """Forward: scores. Both: the gradient needs the sums of whole rows and whole columns, so scores are taken twice.

    Four products; a computation that kept all scores would need three, and memory for them.
    """
    n, d = params["n"], params["d"]
    return Products(n, n, d, forward=((SCORES,),), both=((SCORES,), (SCORES, DX, DY)))


def one_direction_products(params: Params) -> Products:
    """Forward: scores. Both: a block of rows has its sums as soon as it has its scores, so three products do."""
    n, d = params["n"], params["d"]
    return Products(n, n, d, forward=((SCORES,),), both=((SCORES, DX, DY),))


def nt_xent_products(params: Params) -> Products:
    """All 2n views against each other, by symmetry only the blocks on and above the diagonal.

    Forward: half a product. Both: the gradient needs the sums of a row and of its mirror image, so the half is taken
    twice, and each block then serves two blocks of gradients: four halves. Kept scores would make it three.
    """
    m, d = 2 * params["n"], params["d"]
    return Products(m, m, d, forward=((SCORES,),), both=((SCORES,), (SCORES, DX, DY)), triangle=True)


# --------------------------------------------------------------------------------------------------------------- table

PASSES = ("both", "forward")
SIZES = ((512, 128), (2048, 128))

ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="info_nce symmetric",
        cases=(
            *cases((128, 128), temperature=0.1),
            *cases(*SIZES, memory=True, temperature=0.1),
            *cases((4096, 128), (8192, 128), modes=PASSES, memory=True, temperature=0.1),
            *cases((4096, 32), (4096, 256), (4096, 512), (4096, 1024), temperature=0.1),
            *cases((512, 128), (4096, 128), threads=1, temperature=0.1),
            *cases((16384, 128), (32768, 128), (65536, 128), alone=True, temperature=0.1),
            *cases((131072, 64), modes=("forward",), alone=True, temperature=0.1),
        ),
        quick=cases((512, 128), temperature=0.1),
        setup=two_views,
        contenders=(
            *against_torch(symmetric_ours, symmetric_eager),
            peers.LINEAR_CROSS_ENTROPY_BOTH,
            peers.OPEN_CLIP,
            peers.KEOPS_BOTH,
        ),
        reference=symmetric_reference,
        floor=symmetric_products,
    ),
    Entry(
        name="info_nce one direction",
        cases=(
            *cases((128, 128), temperature=0.1),
            *cases(*SIZES, (4096, 128), (8192, 128), memory=True, temperature=0.1),
            *cases((32768, 128), alone=True, temperature=0.1),
        ),
        quick=cases((512, 128), temperature=0.1),
        setup=two_views,
        contenders=(
            *against_torch(one_direction_ours, one_direction_eager),
            peers.LINEAR_CROSS_ENTROPY,
            peers.INFO_NCE_PYTORCH,
            peers.KEOPS,
        ),
        reference=one_direction_reference,
        floor=one_direction_products,
    ),
    Entry(
        name="nt_xent",
        cases=(
            *cases((128, 128), temperature=0.5),
            *cases(*SIZES, (4096, 128), memory=True, temperature=0.5),
            *cases((8192, 128), temperature=0.5),
            *cases((16384, 128), alone=True, temperature=0.5),
        ),
        quick=cases((128, 128), temperature=0.5),
        setup=two_views,
        contenders=(
            *against_torch(nt_xent_ours, nt_xent_eager),
            peers.LIGHTLY,
            peers.METRIC_LEARNING,
        ),
        reference=nt_xent_reference,
        floor=nt_xent_products,
    ),
    Entry(
        name="info_nce symmetric bfloat16",
        cases=cases((512, 128), (4096, 128), (4096, 256), temperature=0.1, dtype="bfloat16"),
        quick=cases((512, 128), temperature=0.1, dtype="bfloat16"),
        setup=two_views,
        contenders=(
            *against_torch(symmetric_ours, symmetric_eager),
            Contender(f"{OURS}, float32", symmetric_ours, prepare=widened),
            peers.LINEAR_CROSS_ENTROPY_BOTH,
            peers.OPEN_CLIP,
        ),
        reference=symmetric_reference,
        floor=symmetric_products,
    ),
)

# ---------------------------------------------------------------------------------------------------------------- bars


def _size(n: int, d: int = 128) -> Params:
    return {"n": n, "d": d}


def _large() -> tuple[Bar, ...]:
    """Where the scores do not fit in cache: far from eager and compiled, near the products."""
    return tuple(
        bar
        for where in (_size(4096), _size(8192))
        for bar in (
            Bar("info_nce symmetric", where, EAGER, OURS, at_least=4.5),
            Bar("info_nce symmetric", where, COMPILE, OURS, at_least=2.0),
            Bar("info_nce symmetric", where, OURS, FLOOR, at_most=1.2),
            Bar("info_nce one direction", where, EAGER, OURS, at_least=2.5),
            Bar("info_nce one direction", where, FASTEST, OURS, at_least=1.5),
            Bar("info_nce one direction", where, OURS, FLOOR, at_most=1.2),
        )
    )


BARS: tuple[Bar, ...] = (
    *(Bar(name, _size(128), EAGER, OURS, at_least=1.2) for name in ("info_nce symmetric", "info_nce one direction")),
    Bar("nt_xent", _size(128), EAGER, OURS, at_least=1.2),
    Bar("info_nce symmetric", _size(512), EAGER, OURS, at_least=2.5),
    Bar("info_nce symmetric", _size(512), COMPILE, OURS, at_least=1.6),
    Bar("info_nce symmetric", _size(2048), EAGER, OURS, at_least=2.5),
    Bar("info_nce symmetric", _size(2048), COMPILE, OURS, at_least=1.6),
    *_large(),
    Bar("info_nce symmetric", _size(4096, 512), EAGER, OURS, at_least=2.0),
    Bar("info_nce symmetric", _size(4096, 512), COMPILE, OURS, at_least=1.3),
    Bar("info_nce symmetric", _size(8192), OURS, FLOOR, mode="forward", at_most=1.3),
    Bar("nt_xent", _size(2048), peers.LIGHTLY.name, OURS, at_least=6.0),
    Bar("nt_xent", _size(2048), EAGER, OURS, at_least=3.0),
    Bar("nt_xent", _size(2048), COMPILE, OURS, at_least=1.8),
    Bar("info_nce symmetric bfloat16", _size(4096, 256), f"{OURS}, float32", OURS, at_least=2.5, needs="amx"),
    Bar("info_nce symmetric", _size(32768), OURS, at_most=300e6),
    Bar("info_nce symmetric", _size(131072, 64), OURS, mode="forward", at_most=1e9),
)

SUITE = Suite(ENTRIES, BARS, peers.PACKAGES)
