"""What is measured on a GPU and what must be reached, most important first: a run that ends early has measured those.

The minimum of floating-point operations is that of the products an operation cannot do without when it keeps no scores:
8 N^2 d for InfoNCE of both directions with its gradients (scores; scores again, and one for each gradient), 4 M^2 d for
NT-Xent of M rows (half of each, by symmetry), 2 N^2 d for each half step of Sinkhorn, 6 N^2 d for the sigmoid loss,
whose gradient needs no sums and so no second scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import mi_estimators as mi
from benchmarks.bars import FASTEST, Bar
from benchmarks.floor import DX, DY, SCORES, Products
from benchmarks.gpu import peers
from benchmarks.harness import COMPILE, EAGER, FLOOR, OURS, Check, Contender, Entry, Params, Row, Tensors
from benchmarks.suites import infonce, sinkhorn
from benchmarks.suites.common import compiled, two_views
from benchmarks.suites.peers import LINEAR_CROSS_ENTROPY_BOTH


@dataclass(frozen=True)
class Item:
    """One problem of an entry, and the contenders that take part; all of the entry's where none are named.

    ``launches``: count the kernels of a call. ``alone``: too large for a reference, one call of the only contender.
    ``precision``: that torch is set to for products of float32, also its own.
    """

    entry: Entry
    params: Params
    only: tuple[str, ...] = ()
    mode: str = "both"
    launches: bool = False
    alone: bool = False
    precision: str = "highest"

    @property
    def contenders(self) -> tuple[Contender, ...]:
        return tuple(c for c in self.entry.contenders if not self.only or c.name in self.only)

    @property
    def key(self) -> str:
        return " ".join([self.entry.name, *(f"{key}={value}" for key, value in self.params.items())])


# ---------------------------------------------------------------------------------------------------------- operations

COMPILED = Contender(COMPILE, infonce.symmetric_eager, compiled, costly=True)

SYMMETRIC = replace(
    infonce.ENTRIES[0],
    name="info_nce",
    cases=(),
    quick=(),
    contenders=(
        Contender(OURS, infonce.symmetric_ours),
        Contender(EAGER, infonce.symmetric_eager),
        COMPILED,
        LINEAR_CROSS_ENTROPY_BOTH,
        peers.INF_CL,
        peers.CUT_CROSS_ENTROPY,
        peers.LIGER,
    ),
)

SYMMETRIC_TF32 = replace(SYMMETRIC, name="info_nce, TF32", check=Check(at_most=1e-2))

NO_TRIANGLE = f"{OURS}, without the triangle"


def nt_xent_without_triangle(params: Params, inputs: Tensors) -> Tensors:
    """The same loss from all points against all of them as two sets, both directions of every pair."""
    z = F.normalize(torch.cat(inputs), dim=1)
    scale = 1 / params["temperature"]
    row, column = mi.pairwise_lse(z, z.clone(), scale=scale, exclude_diagonal=True, columns=True)
    first, second = z.float().chunk(2)
    return ((row + column).mean() / 2 - scale * (first * second).sum(1).mean(),)


NT_XENT = replace(
    infonce.ENTRIES[2],
    name="nt_xent",
    cases=(),
    quick=(),
    contenders=(
        Contender(OURS, infonce.nt_xent_ours),
        Contender(NO_TRIANGLE, nt_xent_without_triangle),
        Contender(EAGER, infonce.nt_xent_eager),
    ),
)

SINKHORN = replace(
    sinkhorn.ENTRIES[0],
    cases=(),
    quick=(),
    contenders=(
        Contender(OURS, sinkhorn.ours),
        Contender(EAGER, sinkhorn.eager),
        peers.FLASH_SINKHORN,
        peers.FLASH_SINKHORN_TF32,
    ),
)


def sigmoid_eager(params: Params, inputs: Tensors) -> Tensors:
    x, y = (F.normalize(t, dim=1) for t in inputs)
    logits = params["scale"] * (x @ y.T) + params["bias"]
    signs = 2 * torch.eye(len(x), device=x.device, dtype=x.dtype) - 1
    return (-F.logsigmoid(signs * logits).sum() / len(x),)


def _sigmoid_block(x: Tensor, y: Tensor, positives: Tensor, scale: float, bias: float) -> Tensor:
    """The losses of a block of rows: of all pairs as negatives, and what the positives change of that."""
    positive = scale * (x * positives).sum(1) + bias
    return F.softplus(scale * (x @ y.T) + bias).sum() - positive.sum()


def sigmoid_reference(params: Params, inputs: Tensors) -> Tensors:
    x, y = (t / t.norm(dim=1, keepdim=True) for t in inputs)
    blocks = zip(x.split(infonce.BLOCK), y.split(infonce.BLOCK), strict=True)
    scale, bias = params["scale"], params["bias"]
    parts = [checkpoint(_sigmoid_block, a, y, b, scale, bias, use_reentrant=False) for a, b in blocks]
    return (torch.stack(parts).sum() / len(x),)


def sigmoid_products(params: Params) -> Products:
    n, d = params["n"], params["d"]
    return Products(n, n, d, forward=((SCORES,),), both=((SCORES, DX, DY),))


SIGMOID = Entry(
    name="sigmoid loss",
    cases=(),
    quick=(),
    setup=two_views,
    contenders=(Contender(EAGER, sigmoid_eager), peers.SIGLIP_KERNEL),
    reference=sigmoid_reference,
    floor=sigmoid_products,
)

ENTRIES = (SYMMETRIC, SYMMETRIC_TF32, NT_XENT, SINKHORN, SIGMOID)

# --------------------------------------------------------------------------------------------------------------- table


def _half(n: int, d: int, **more: Any) -> Params:
    return {"n": n, "d": d, "temperature": 0.1, "dtype": "bfloat16", **more}


def _full(n: int, d: int) -> Params:
    return {"n": n, "d": d, "temperature": 0.1, "dtype": "float32"}


SIGLIP: Params = {"n": 32768, "d": 768, "scale": 10.0, "bias": -10.0, "dtype": "bfloat16"}
TRANSPORT: Params = {"n": 10_000, "d": 64, "epsilon": 0.1, "iterations": 100}
LARGEST = _half(1 << 20, 128)

PLAN: tuple[Item, ...] = (
    *(Item(SYMMETRIC, _half(32768, d)) for d in (128, 256, 512, 768)),
    Item(SYMMETRIC, _half(1024, 128), only=(OURS, EAGER), launches=True),
    Item(NT_XENT, _half(32768, 128)),
    Item(SYMMETRIC, _half(65536, 256), only=(OURS, EAGER)),
    *(Item(SYMMETRIC, _full(n, 128), only=(OURS, EAGER)) for n in (4096, 8192, 16384)),
    Item(SYMMETRIC_TF32, _full(16384, 128), only=(OURS, EAGER), precision="high"),
    Item(SYMMETRIC, LARGEST, only=(OURS,), alone=True),
    Item(SINKHORN, TRANSPORT, mode="forward"),
    Item(SIGMOID, SIGLIP),
)


def _large(d: int, compiled: float, share: float) -> tuple[Bar, ...]:
    where = _half(32768, d)
    return (
        Bar("info_nce", where, COMPILE, OURS, at_least=compiled),
        Bar("info_nce", where, FASTEST, OURS, at_least=1.0),
        Bar("info_nce", where, FLOOR, OURS, at_least=share),
    )


BARS: tuple[Bar, ...] = (
    *(bar for d in (128, 256) for bar in _large(d, 2.5, 0.45)),
    *(bar for d in (512, 768) for bar in _large(d, 1.8, 0.35)),
    Bar("info_nce", _half(1024, 128), EAGER, OURS, at_least=1.5),
    Bar("info_nce", _half(1024, 128), OURS, of="launches", at_most=8),
    Bar("nt_xent", _half(32768, 128), NO_TRIANGLE, OURS, at_least=1.6),
    Bar("info_nce", _half(65536, 256), OURS, EAGER, of="memory", at_most=0.01),
    Bar("info_nce", LARGEST, OURS, of="time", at_most=60.0),
    Bar("info_nce", _full(4096, 128), OURS, EAGER, of="error", at_most=2.0),
    *(Bar("info_nce", _full(n, 128), EAGER, OURS, at_least=1.3) for n in (8192, 16384)),
    Bar("info_nce, TF32", _full(16384, 128), EAGER, OURS, at_least=1.3),
    Bar("sinkhorn", TRANSPORT, OURS, peers.FLASH_SINKHORN.name, mode="forward", at_most=1.2),
)

# ------------------------------------------------------------------------------------------------- derived from others


def with_memory_of_eager(rows: Sequence[Row]) -> list[Row]:
    """The rows, where eager could not take a size with the memory that N^2 makes of a smaller one's."""
    taken = [row for row in rows if row.contender == EAGER and row.peak_extra_bytes is not None]

    def completed(row: Row) -> Row:
        if row.contender != EAGER or row.peak_extra_bytes is not None:
            return row
        alike = [
            other
            for other in taken
            if (other.entry, other.mode) == (row.entry, row.mode)
            and {**other.params, "n": 0} == {**row.params, "n": 0}
            and other.params["n"] < row.params["n"]
        ]
        if not alike:
            return row
        base = max(alike, key=lambda other: other.params["n"])
        assert base.peak_extra_bytes is not None
        factor = (row.params["n"] / base.params["n"]) ** 2
        how = f"computed: {factor:g} times that of n={base.params['n']}"
        note = "; ".join(filter(None, (row.note, f"memory {how}")))
        return replace(row, peak_extra_bytes=round(factor * base.peak_extra_bytes), memory_method=how, note=note)

    return [completed(row) for row in rows]


def expected_seconds(item: Item, rows: Sequence[Row]) -> float | None:
    """What one call of ours should take at the rate of the largest case of its dtype and dimension; None if unknown."""
    alike = [
        row
        for row in rows
        if row.contender == OURS
        and (row.entry, row.mode) == (item.entry.name, item.mode)
        and all(row.params.get(key) == item.params.get(key) for key in ("d", "dtype"))
        and row.median_s is not None
        and row.flops is not None
    ]
    if not alike:
        return None
    base = max(alike, key=lambda row: row.params["n"])
    assert base.median_s is not None
    assert base.flops is not None
    return base.median_s * item.entry.floor(item.params).flops(item.mode) / base.flops
