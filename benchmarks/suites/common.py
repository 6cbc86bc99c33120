"""What suites share: the shape of a suite, inputs, and the two contenders that every operation has in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.bars import Bar
from benchmarks.harness import COMPILE, EAGER, OURS, Case, Contender, Entry, Forward, Params, State, Tensors


@dataclass(frozen=True)
class Suite:
    """Entries to run together, the bars they must reach, and the packages whose versions belong to the numbers.

    ``patience_s``: a contender that would take longer a call is not called in a whole run; as long as it may take to
    be alternated where this is not given.
    """

    entries: tuple[Entry, ...]
    bars: tuple[Bar, ...] = ()
    packages: tuple[str, ...] = ()
    patience_s: float | None = None


# --------------------------------------------------------------------------------------------------------------- setup
# On torch's default device: within torch.device("cuda"), on the GPU.


def points(params: Params, count: int) -> Tensors:
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    dtype = getattr(torch, params.get("dtype", "float32"))
    return tuple(
        torch.randn(params["n"], params["d"], generator=generator).to(dtype).requires_grad_() for _ in range(count)
    )


def weights(params: Params, count: int) -> Tensors:
    """Gradients of outputs of shape [n]: distinct, so that a backward that ignores them is caught."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(1)
    return tuple(torch.rand(params["n"], generator=generator) for _ in range(count))


def two_sets(params: Params) -> State:
    """Two sets of points; row and column results."""
    return State(points(params, 2), weights(params, 2))


def one_set(params: Params) -> State:
    """One set of points; row results."""
    return State(points(params, 1), weights(params, 1))


def two_views(params: Params) -> State:
    """Two sets of points, the second a noisy copy of the first; a scalar loss."""
    x, noise = points(params, 2)
    y = (x.detach() + 2 * noise.detach()).requires_grad_()  # not so close that the loss is near 0
    return State((x, y), (torch.tensor(1.7),))


# ---------------------------------------------------------------------------------------------------------- contenders


def compiled(forward: Forward) -> Forward:
    return torch.compile(forward, dynamic=False)


def against_torch(ours: Forward, eager: Forward) -> tuple[Contender, ...]:
    """Ours, the operation as users write it in torch, and that compiled."""
    return (Contender(OURS, ours), Contender(EAGER, eager), Contender(COMPILE, eager, compiled))


# --------------------------------------------------------------------------------------------------------------- cases


def cases(
    *sizes: tuple[int, int],
    modes: tuple[str, ...] = ("both",),
    threads: int | None = None,
    memory: bool = False,
    alone: bool = False,
    **params: Any,
) -> tuple[Case, ...]:
    """A case for every (n, d), with the same other parameters."""
    return tuple(Case({"n": n, "d": d, **params}, modes, threads, memory, alone) for n, d in sizes)
