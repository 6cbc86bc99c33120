"""sinkhorn from points on a GPU, and its operators, against the same calls in float64 on the CPU."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

import mi_estimators as mi
from mi_estimators.ops import plan_marginals, sinkhorn_iteration

pytestmark = pytest.mark.cuda

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SIZES = [(1, 1, 1), (70, 130, 3), (513, 257, 64)]
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 1e-4, torch.float16: 1e-4}


def problem(n: int, m: int, d: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Points of the type, and weights in that of sums, of which some are 0."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, y = (torch.randn(k, d, generator=generator, dtype=torch.float64).div(d**0.5).to(dtype) for k in (n, m))
    a, b = (torch.rand(k, generator=generator, dtype=torch.float64) + 0.1 for k in (n, m))
    if min(n, m) > 1:
        a[n // 2] = b[0] = 0
    return {"x": x, "y": y, "a": (a / a.sum()).to(wide), "b": (b / b.sum()).to(wide)}


def on_gpu(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cuda() for name, tensor in given.items()}


def in_double(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in given.items()}


def error(got: Tensor, want: Tensor) -> float:
    """Relative to the largest element, or 1."""
    return float((got.detach().cpu().double() - want.detach()).abs().max() / max(1.0, float(want.detach().abs().max())))


@pytest.mark.parametrize("name", ["plan_marginals", "sinkhorn_iteration"])
def test_the_kernels_are_in_use(name: str) -> None:
    """Else every other test here would test the torch reference."""
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mi_estimators::{name}", "CUDA")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("score", ["sqeuclidean", "dot"])
def test_operators(size: tuple[int, int, int], score: str, dtype: torch.dtype) -> None:
    given = problem(*size, dtype)
    phi, psi = 0.1 * given["a"].log().nan_to_num(neginf=-9), 0.2 * given["b"].log().nan_to_num(neginf=-9)
    one = torch.ones((), dtype=phi.dtype)
    steps = {"scale": 3 * one, "phi": phi, "psi": psi, "damping": 0.7 * one}
    got = sinkhorn_iteration(**on_gpu(given | steps), relaxation=1.3, score=score)
    want = sinkhorn_iteration(**in_double(given | steps), relaxation=1.3, score=score)
    sums = {"x": given["x"], "y": given["y"], "log_u": phi, "log_v": psi, "scale": 3 * one}
    got += plan_marginals(**on_gpu(sums), score=score)
    want += plan_marginals(**in_double(sums), score=score)
    for one_sum, other in zip(got, want, strict=True):
        assert error(one_sum, other) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize("rho", [None, (0.5, None)])
@pytest.mark.parametrize("cost", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("updates", ["alternating", "symmetric"])
def test_value_plan_and_gradients(updates: str, cost: str, rho: object, dtype: torch.dtype) -> None:
    given = problem(70, 130, 3, dtype)
    found = []
    for side in (in_double(given), on_gpu(given)):
        leaves = {name: tensor.requires_grad_() for name, tensor in side.items()}
        # Weights that were rounded to float32 sum to 1 up to that rounding.
        tol = 1e-5 if leaves["a"].dtype == torch.float32 else 1e-11 if dtype == torch.float64 else 1e-9
        result = mi.sinkhorn(**leaves, epsilon=4.0, cost=cost, rho=rho, updates=updates, tol=tol)
        assert result.converged
        gradients = torch.autograd.grad(result.value, list(leaves.values()))
        found.append((result.value, result.plan(), result.barycentric_map(), *gradients))
    rounding = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 2e-2}[dtype]
    for want, got in zip(*found, strict=True):
        assert error(got, want) <= rounding


def test_divergence_and_second_derivatives() -> None:
    given = problem(40, 30, 3, torch.float64)
    found = []
    for side in (given, on_gpu(given)):
        x = side["x"].requires_grad_()
        value = mi.sinkhorn_divergence(x, side["y"], side["a"], side["b"], epsilon=1.0, tol=1e-12).value
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        found.append((value, gradient, torch.autograd.grad(gradient.square().sum(), x)[0]))
    for want, got in zip(*found, strict=True):
        assert error(got, want) <= 1e-8


@pytest.mark.parametrize("updates", ["alternating", "symmetric"])
@pytest.mark.parametrize("anderson", [0, 8])
def test_iterations_do_not_wait_for_the_device(anderson: int, updates: str) -> None:
    """Only what surrounds them does: twenty times the iterations, and as many waits."""
    given = on_gpu(problem(70, 130, 3, torch.float32))
    settings = {"epsilon": 1.0, "tol": 0, "anderson": anderson, "updates": updates}
    mi.sinkhorn(**given, **settings, max_iter=3)
    waits = []
    for iterations in (3, 60):
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                mi.sinkhorn(**given, **settings, max_iter=iterations)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchroniz" in str(warning.message) for warning in caught))
    assert waits[0] == waits[1] > 0


def test_operators_can_be_captured() -> None:
    """The whole of sinkhorn cannot: it looks at its arguments before, and at the error after."""
    given = on_gpu(problem(70, 130, 3, torch.float32))
    zeros = {"phi": torch.zeros(70).cuda(), "psi": torch.zeros(130).cuda()}
    one = torch.ones((), device="cuda")

    def calls() -> tuple[Tensor, ...]:
        step = sinkhorn_iteration(**given, **zeros, scale=one, damping=one)
        sums = torch.ops.mi_estimators.plan_marginals(
            given["x"], given["y"], one, zeros["phi"], zeros["psi"], "sqeuclidean"
        )
        return (*step, *sums)

    want = calls()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = calls()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(one_sum, other) for one_sum, other in zip(got, want, strict=True))
