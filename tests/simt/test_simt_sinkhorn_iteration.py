"""The CUDA kernels of sinkhorn_iteration and plan_marginals, run on the CPU, against fp64."""

from __future__ import annotations

import ctypes

import pytest
import torch
from buffers import CODES, DTYPES, Buffers, assert_launched
from test_simt_pairwise_lse import SCORES, Pairs

Tensors = tuple[torch.Tensor, ...]
SIZES = [(1, 1), (3, 31), (129, 77)]


class Marginals(ctypes.Structure):
    _fields_ = (("pairs", Pairs), *((name, ctypes.c_void_p) for name in ("log_u", "row_lse", "col_lse")))


class Iteration(ctypes.Structure):
    _fields_ = (
        ("pairs", Pairs),
        *((name, ctypes.c_void_p) for name in ("a", "b", "phi", "psi", "damping", "products")),
        ("relaxation", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("row_lse", "new_phi", "col_lse")),
    )


class Call:
    """Buffers of one call. Every guard is checked when it has run."""

    def __init__(self, library: ctypes.CDLL, x: torch.Tensor, y: torch.Tensor) -> None:
        self.library, self.n, self.m, self.d = library, len(x), len(y), x.shape[1]
        self.code = next(CODES[name] for name, dtype in DTYPES.items() if dtype == x.dtype)
        self.accumulation = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.buffers = Buffers()
        self.give = self.buffers.give
        self.x, self.y = self.give("x", x), self.give("y", y)

    def new(self, name: str, size: int) -> int:
        return self.buffers.take(name, (size,), self.accumulation)

    def pairs(self, scale: float, score: str, bias: int | None = None) -> Pairs:
        pointer = self.give("scale", torch.tensor([scale], dtype=self.accumulation))
        return Pairs(self.x, self.y, pointer, bias, None, None, self.n, self.m, self.d, SCORES[score], False)

    def run(self, name: str, arguments: ctypes.Structure, results: tuple[str, ...]) -> Tensors:
        bytes_ = getattr(self.library, f"{name}_workspace")(self.code, ctypes.byref(arguments))
        space = self.buffers.space("space", bytes_)
        assert_launched(self.library, getattr(self.library, name)(self.code, ctypes.byref(arguments), space))
        self.buffers.check()
        return tuple(self.buffers[key].tensor for key in results)


def run_marginals(library, x, y, scale, log_u, log_v, score) -> Tensors:
    call = Call(library, x, y)
    pairs = call.pairs(scale, score, call.give("log_v", log_v))
    results = call.new("row_lse", call.n), call.new("col_lse", call.m)
    return call.run("marginals", Marginals(pairs, call.give("log_u", log_u), *results), ("row_lse", "col_lse"))


def run_iteration(library, x, y, scale, a, b, phi, psi, damping, relaxation, score) -> Tensors:
    call = Call(library, x, y)
    given = [call.give(name, value) for name, value in (("a", a), ("b", b), ("phi", phi), ("psi", psi))]
    given += [call.give("damping", torch.tensor([damping], dtype=call.accumulation)), None]
    names = ("row_lse", "new_phi", "col_lse")
    results = [call.new(name, size) for name, size in zip(names, (call.n, call.n, call.m), strict=True)]
    return call.run("iteration", Iteration(call.pairs(scale, score), *given, relaxation, *results), names)


def points(n: int, d: int, dtype: str, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) / d**0.5).to(DTYPES[dtype])


def vectors(n: int, m: int, dtype: str) -> Tensors:
    generator = torch.Generator().manual_seed(5)
    accumulation = torch.float64 if dtype == "f64" else torch.float32
    return tuple(torch.rand(size, generator=generator).to(accumulation) for size in (n, m, n, m))


def dense_scores(x: torch.Tensor, y: torch.Tensor, score: str, dtype: torch.dtype) -> torch.Tensor:
    x, y = x.to(dtype), y.to(dtype)
    return x @ y.T if score == "dot" else -(x[:, None] - y).square().sum(-1)


def dense_iteration(x, y, scale, a, b, phi, psi, damping, relaxation, score, dtype=torch.float64) -> Tensors:
    logits = scale * dense_scores(x, y, score, dtype)
    a, b, phi, psi = (t.to(dtype) for t in (a, b, phi, psi))
    row_lse = (logits + psi + b.log()).logsumexp(1)
    new_phi = (1 - relaxation) * phi - relaxation * damping * row_lse
    return row_lse, new_phi, (logits + (new_phi + a.log())[:, None]).logsumexp(0)


def dense_marginals(x, y, scale, log_u, log_v, score, dtype=torch.float64) -> Tensors:
    logits = scale * dense_scores(x, y, score, dtype) + log_u.to(dtype)[:, None] + log_v.to(dtype)
    return logits.logsumexp(1), logits.logsumexp(0)


def assert_near(found: Tensors, truth: Tensors, own: Tensors) -> None:
    """No further from the truth than twice torch in the same dtype."""
    for value, expected, peer in zip(found, truth, own, strict=True):
        assert torch.equal(value == -torch.inf, expected == -torch.inf)
        seen = expected > -torch.inf
        error, torch_error = (value.double() - expected)[seen].abs(), (peer.double() - expected)[seen].abs()
        unit = torch.finfo(value.dtype).eps * (1 + expected[seen].abs()) * 8
        assert (error <= 2 * torch_error.max() + unit).all()


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_marginals(kernels: ctypes.CDLL, n: int, m: int, dtype: str, score: str) -> None:
    log_u, log_v, _, _ = vectors(n, m, dtype)
    if n > 1:
        log_u[n // 2] = log_v[-1] = -torch.inf
    given = (points(n, 17, dtype, 0), points(m, 17, dtype, 1), 2.5, log_u, log_v, score)
    found = run_marginals(kernels, *given)
    assert_near(found, dense_marginals(*given), dense_marginals(*given, log_u.dtype))


@pytest.mark.parametrize(("damping", "relaxation"), [(1.0, 1.0), (0.6, 1.5)])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_iteration(
    kernels: ctypes.CDLL, n: int, m: int, dtype: str, score: str, damping: float, relaxation: float
) -> None:
    a, b, phi, psi = vectors(n, m, dtype)
    if n > 1:
        a[n // 2] = b[-1] = 0  # in no sum, but with a sum of its own
    given = (points(n, 17, dtype, 0), points(m, 17, dtype, 1), 2.5, a, b, phi, psi, damping, relaxation, score)
    found = run_iteration(kernels, *given)
    assert all(bool(value.isfinite().all()) for value in found)
    assert_near(found, dense_iteration(*given), dense_iteration(*given, a.dtype))


def test_a_whole_step_does_not_read_the_old_potential(kernels: ctypes.CDLL) -> None:
    a, b, phi, psi = vectors(5, 4, "f32")
    given = (points(5, 3, "f32", 0), points(4, 3, "f32", 1), 1.0, a, b)
    found = run_iteration(kernels, *given, torch.full_like(phi, torch.inf), psi, 1.0, 1.0, "dot")
    assert all(bool(value.isfinite().all()) for value in found)


def test_the_same_bits_in_any_order_of_threads(kernels: ctypes.CDLL) -> None:
    given = (points(70, 2, "f32", 0), points(1500, 2, "f32", 1), 5.0)
    a, b, phi, psi = vectors(70, 1500, "f32")
    calls = [(run_iteration, (*given, a, b, phi, psi, 1.0, 1.0, "dot")), (run_marginals, (*given, a, b, "sqeuclidean"))]
    first = [run(kernels, *arguments) for run, arguments in calls]
    kernels.set_schedule(1)
    try:
        second = [run(kernels, *arguments) for run, arguments in calls]
    finally:
        kernels.set_schedule(0)
    assert all(
        torch.equal(p, q) for one, other in zip(first, second, strict=True) for p, q in zip(one, other, strict=True)
    )


def test_invalid_calls_are_refused(kernels: ctypes.CDLL) -> None:
    def pairs(score: int = 0, y: int | None = 1, bias: int | None = None) -> Pairs:
        return Pairs(1, y, 1, bias, None, None, 3, 3, 4, score)

    complete = (1, 1, 1, 1, 1, None, 1.0, 1, 1, 1)
    iterations = [(pairs(score=3), *complete), (pairs(y=None), *complete), (pairs(), None, *complete[1:])]
    for arguments in iterations:
        assert kernels.iteration(CODES["f32"], ctypes.byref(Iteration(*arguments)), ctypes.c_void_p(1)) == 1
    for arguments in ((pairs(score=3, bias=1), 1, 1, 1), (pairs(), 1, 1, 1), (pairs(bias=1), None, 1, 1)):
        assert kernels.marginals(CODES["f32"], ctypes.byref(Marginals(*arguments)), ctypes.c_void_p(1)) == 1
