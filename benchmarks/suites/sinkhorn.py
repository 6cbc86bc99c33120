"""The suite ``sinkhorn``: a number of Sinkhorn iterations from points, on the CPU, against every library that has them.

All contenders take one epsilon, a twentieth of the mean cost, and one number of alternating iterations without
acceleration or stopping, but for geomloss, which anneals: its ``scaling`` is set so that it takes as many.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

import mi_estimators as mi
from benchmarks.bars import LIBRARY, Bar
from benchmarks.floor import EXP, SCORES, Products
from benchmarks.harness import EAGER, OURS, Check, Contender, Entry, Params, State, Tensors, relative_error
from benchmarks.suites.common import Suite, cases
from benchmarks.suites.peers import set_openmp_threads

BLOCK = 1024  # rows of scores that the reference holds at a time


def two_clouds(params: Params) -> State:
    """Normal points of mean squared distance 2, the second set a little apart."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    x, y = (torch.randn(params["n"], params["d"], generator=generator) / params["d"] ** 0.5 for _ in range(2))
    return State((x, y + 0.3 / params["d"] ** 0.5), ())


def _uniform(x: Tensor) -> Tensor:
    return torch.full((len(x),), 1 / len(x), dtype=x.dtype)


# ----------------------------------------------------------------------------------------------------------------- ours


def ours(params: Params, inputs: Tensors) -> Tensors:
    x, y = inputs
    return (mi.sinkhorn(x, y, epsilon=params["epsilon"], tol=0, max_iter=params["iterations"], anderson=0).value,)


# ---------------------------------------------------------------------------------------------------------------- torch


def eager(params: Params, inputs: Tensors) -> Tensors:
    x, y = inputs
    epsilon, n = params["epsilon"], len(x)
    scores = -torch.cdist(x, y).square() / epsilon - math.log(n)
    v = scores.new_zeros(len(y))
    for _ in range(params["iterations"]):
        u = -torch.logsumexp(scores + v, 1)
        v = -torch.logsumexp(scores + u[:, None], 0)
    return (epsilon * (u.mean() + v.mean()),)


def reference(params: Params, inputs: Tensors) -> Tensors:
    """By blocks of rows."""
    x, y = inputs
    epsilon, n, m = params["epsilon"], len(x), len(y)
    u, v = x.new_zeros(n), y.new_zeros(m)

    def half_step(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        bias = v - math.log(len(y)) - y.square().sum(1) / epsilon
        rows = [torch.logsumexp(block @ y.T * (2 / epsilon) + bias, 1) for block in x.split(BLOCK)]
        return x.square().sum(1) / epsilon - torch.cat(rows)

    for _ in range(params["iterations"]):
        u = half_step(x, y, v)
        v = half_step(y, x, u)
    return (epsilon * (u.mean() + v.mean()),)


# ------------------------------------------------------------------------------------------------------------ libraries


def pot(params: Params, inputs: Tensors) -> Tensors:
    import ot

    x, y = inputs
    a, b = _uniform(x), _uniform(y)
    cost = torch.cdist(x, y).square()
    _, log = ot.bregman.sinkhorn_log(
        a, b, cost, params["epsilon"], numItermax=params["iterations"], stopThr=0, warn=False, log=True
    )
    # Its potentials are those of a plan without weights in front.
    u, v = log["log_u"] - a.log(), log["log_v"] - b.log()
    return (params["epsilon"] * ((a * u).sum() + (b * v).sum()),)


def pot_lazy(params: Params, inputs: Tensors) -> Tensors:
    import ot

    x, y = inputs
    u, v = ot.bregman.empirical_sinkhorn(
        x, y, params["epsilon"], isLazy=True, batchSize=1024, numIterMax=params["iterations"], stopThr=0, warn=False
    )
    return (params["epsilon"] * (u.mean() + v.mean() + math.log(len(x)) + math.log(len(y))),)


@functools.cache
def _ott_solver(iterations: int) -> Any:
    import jax
    from ott.geometry import pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    solver = sinkhorn.Sinkhorn(threshold=-1.0, max_iterations=iterations, min_iterations=iterations)

    @functools.partial(jax.jit, static_argnames="batch_size")
    def value(x, y, epsilon, batch_size):  # type: ignore[no-untyped-def]
        geometry = pointcloud.PointCloud(x, y, epsilon=epsilon, batch_size=batch_size)
        return solver(linear_problem.LinearProblem(geometry)).reg_ot_cost

    return value


def _ott(params: Params, inputs: Tensors, batch_size: int | None) -> Tensors:
    import numpy as np

    x, y = (t.numpy() for t in inputs)
    value = _ott_solver(params["iterations"])(x, y, params["epsilon"], batch_size)
    return (torch.tensor(float(np.asarray(value))),)


def ott(params: Params, inputs: Tensors) -> Tensors:
    return _ott(params, inputs, None)


def ott_batched(params: Params, inputs: Tensors) -> Tensors:
    return _ott(params, inputs, 1024)


def geomloss(params: Params, inputs: Tensors) -> Tensors:
    from geomloss import SamplesLoss

    x, y = inputs
    blur = (params["epsilon"] / 2) ** 0.5
    diameter = float((torch.cat([x, y]).amax(0) - torch.cat([x, y]).amin(0)).norm())
    scaling = (blur / diameter) ** (1 / (params["iterations"] - 2))
    loss = SamplesLoss("sinkhorn", blur=blur, scaling=scaling, diameter=diameter, debias=False, backend="tensorized")
    return (2 * loss(x, y),)


def keops(params: Params, inputs: Tensors) -> Tensors:
    import pykeops
    from pykeops.torch import LazyTensor

    pykeops.set_verbose(False)
    set_openmp_threads()(torch.get_num_threads())
    x, y = inputs
    epsilon, n, m = params["epsilon"], len(x), len(y)
    scores = -((LazyTensor(x[:, None, :]) - LazyTensor(y[None, :, :])) ** 2).sum(2) / epsilon
    u, v = torch.zeros(n), torch.zeros(m)
    for _ in range(params["iterations"]):
        u = math.log(m) - (scores + LazyTensor(v[None, :, None])).logsumexp(1).flatten()
        v = math.log(n) - (scores + LazyTensor(u[:, None, None])).logsumexp(0).flatten()
    return (epsilon * (u.mean() + v.mean()),)


# ---------------------------------------------------------------------------------------------------------------- table


def passes(params: Params) -> Products:
    """Two sweeps an iteration, each with the scores and their exponentials."""
    n, d = params["n"], params["d"]
    sweeps = ((SCORES, EXP),) * (2 * params["iterations"])
    return Products(n, n, d, forward=sweeps, both=sweeps)


FORWARD: dict[str, Any] = {"modes": ("forward",), "epsilon": 0.1}

ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="sinkhorn",
        cases=cases((4096, 64), memory=True, iterations=100, **FORWARD),
        quick=cases((512, 64), iterations=20, **FORWARD),
        setup=two_clouds,
        contenders=(
            Contender(OURS, ours),
            Contender(EAGER, eager),
            Contender("POT", pot),
            Contender("POT, lazy", pot_lazy),
            Contender("OTT", ott),
            Contender("OTT, batched", ott_batched),
            Contender("geomloss", geomloss),
            Contender("KeOps", keops),
        ),
        reference=reference,
        floor=passes,
        check=Check(relative_error, "relative error", 1e-2),
    ),
    # Few iterations, as those that visit the pairs slowly take minutes; the matrix of costs would take 1.6 GB.
    Entry(
        name="sinkhorn large",
        cases=cases((20000, 3), (20000, 64), memory=True, iterations=5, **FORWARD),
        quick=cases((2000, 3), iterations=5, **FORWARD),
        setup=two_clouds,
        contenders=(
            Contender(OURS, ours),
            Contender("POT, lazy", pot_lazy),
            Contender("OTT, batched", ott_batched),
            Contender("KeOps", keops),
        ),
        reference=reference,
        floor=passes,
        check=Check(relative_error, "relative error", 1e-2),
    ),
)

BARS: tuple[Bar, ...] = (
    Bar("sinkhorn", {"n": 4096, "d": 64}, LIBRARY, OURS, mode="forward", at_least=2.0),
    Bar("sinkhorn", {"n": 4096, "d": 64}, OURS, mode="forward", at_most=100e6),
    *(
        bar
        for d in (3, 64)
        for bar in (
            Bar("sinkhorn large", {"n": 20000, "d": d}, "KeOps", OURS, mode="forward", at_least=3.0),
            Bar("sinkhorn large", {"n": 20000, "d": d}, "POT, lazy", OURS, mode="forward", at_least=3.0),
            Bar("sinkhorn large", {"n": 20000, "d": d}, OURS, mode="forward", at_most=100e6),
        )
    ),
)

SUITE = Suite(ENTRIES, BARS, ("POT", "ott-jax", "jax", "geomloss", "pykeops", "numpy"), patience_s=120.0)
