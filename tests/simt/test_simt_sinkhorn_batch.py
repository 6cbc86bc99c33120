"""The CUDA kernels of sinkhorn_batch, run on the CPU, against the torch references in fp64."""

from __future__ import annotations

import ctypes

import pytest
import simt_build
import torch
from buffers import CODES, DTYPES, Buffer, assert_launched
from conftest import HERE
from torch import Tensor

from mi_estimators.ops.sinkhorn_batch import reference, reference_backward


class Problems(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("scores", "log_a", "log_b")),
        *((name, ctypes.c_int64) for name in ("batch", "n", "m", "n_iter")),
        ("epsilon", ctypes.c_double),
        ("rows_first", ctypes.c_bool),
    )


class Forward(ctypes.Structure):
    _fields_ = (("problems", Problems), *((name, ctypes.c_void_p) for name in ("plan", "phi", "psi")))


BACKWARD = ("grad_plan", "grad_phi", "grad_psi", "dscores", "dlog_a", "dlog_b")


class Backward(ctypes.Structure):
    _fields_ = (("problems", Problems), *((name, ctypes.c_void_p) for name in BACKWARD))


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    if simt_build.compiler() is None:
        pytest.skip("no C++ compiler (g++, or the one that CXX names) to build the kernels for the CPU with")
    library = simt_build.load(HERE / "sinkhorn_batch.cpp")
    library.last_error.restype = ctypes.c_char_p
    library.forward_workspace.restype = library.backward_workspace.restype = ctypes.c_size_t
    return library


def run(
    library: ctypes.CDLL,
    scores: Tensor,
    weights: tuple[Tensor, Tensor] | None,
    gradients: tuple[Tensor, ...],
    n_iter: int,
    rows_first: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Plan and potentials; gradients by scores and weights. Checks every guard."""
    code = CODES[{dtype: name for name, dtype in DTYPES.items()}[scores.dtype]]
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    buffers: list[Buffer] = []

    def take(shape: tuple[int, ...], dtype: torch.dtype = wide) -> Buffer:
        buffers.append(Buffer(shape, dtype))
        return buffers[-1]

    def give(value: Tensor, dtype: torch.dtype = wide) -> int:
        buffer = take(tuple(value.shape), dtype)
        buffer.tensor.copy_(value)
        return buffer.pointer

    batch, n, m = scores.shape
    logs = (None, None) if weights is None else tuple(give(w) for w in weights)
    problems = Problems(give(scores, scores.dtype), *logs, batch, n, m, n_iter, 0.5, rows_first)
    outputs = [take((batch, n, m)), take((batch, n)), take((batch, m))]
    space = take((library.forward_workspace(code, ctypes.byref(problems)) // wide.itemsize,)).pointer
    forward = Forward(problems, *(o.pointer for o in outputs))
    assert_launched(library, library.forward(code, ctypes.byref(forward), ctypes.c_void_p(space)))
    results = [take((batch, n, m)), *([] if weights is None else [take((batch, n)), take((batch, m))])]
    space = take((library.backward_workspace(code, ctypes.byref(problems)) // wide.itemsize,)).pointer
    given = [give(g) for g in gradients] + [None] * (3 - len(gradients))
    backward = Backward(problems, *given, *(r.pointer for r in results))
    assert_launched(library, library.backward(code, ctypes.byref(backward), ctypes.c_void_p(space)))
    for buffer in buffers:
        buffer.check("sinkhorn_batch")
    return [o.tensor for o in outputs], [r.tensor for r in results]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES)
# Teams of 4, 32 and 256 threads; more problems than a block has teams, and blocks that are not full.
@pytest.mark.parametrize(("batch", "n", "m"), [(1, 1, 1), (70, 4, 4), (3, 2, 3), (9, 5, 7), (2, 33, 20), (1, 65, 3)])
@pytest.mark.parametrize(("weighted", "rows_first"), [(False, True), (True, False)])
def test_shapes(kernels: ctypes.CDLL, batch: int, n: int, m: int, dtype: str, weighted: bool, rows_first: bool) -> None:
    scores = normal(batch, n, m, seed=0).to(DTYPES[dtype])
    weights, gradients = None, (normal(batch, n, m, seed=1),)
    if weighted:
        weights = 0.3 * normal(batch, n, seed=2), 0.3 * normal(batch, m, seed=3)
        gradients = (*gradients, normal(batch, n, seed=4), normal(batch, m, seed=5))
        if min(n, m) > 1:  # padding, which may hold anything
            weights[0][-1, 1] = weights[1][0, 0] = -torch.inf
            scores[-1, 1] = scores[0, :, 0] = torch.nan
            gradients[1][-1, 1] = gradients[2][0, 0] = 0
            if n * m > 6:
                scores[0, 0, 1] = -torch.inf
    options = (0.5, 3, rows_first)
    wide = torch.float64 if dtype == "f64" else torch.float32
    rounded = None if weights is None else tuple(w.to(wide).double() for w in weights)
    logs = (None, None) if rounded is None else rounded
    upstream = tuple(g.to(wide).double() for g in gradients)
    outputs, results = run(kernels, scores, weights, gradients, 3, rows_first)
    want = reference(scores.double(), *logs, *options, True)
    nothing = (None,) * (3 - len(upstream))
    want_results = reference_backward(*upstream, *nothing, scores.double(), *logs, *options)
    tolerance = 1e-11 if dtype == "f64" else 3e-5
    for got, expected in zip([*outputs, *results], [*want, *want_results[: len(results)]], strict=True):
        assert torch.equal(got == -torch.inf, expected == -torch.inf)
        difference = got.double().nan_to_num(nan=torch.inf, neginf=0) - expected.nan_to_num(neginf=0)
        assert float(difference.abs().max()) <= tolerance * (1 + float(expected.nan_to_num(neginf=0).abs().max()))


def test_same_bits_whatever_the_order_of_threads(kernels: ctypes.CDLL) -> None:
    scores, gradient = normal(9, 7, 5, seed=0).float(), normal(9, 7, 5, seed=1)
    found = []
    for reverse in (0, 1):
        kernels.set_schedule(reverse)
        outputs, results = run(kernels, scores, None, (gradient,), 4, True)
        found.append([*outputs, *results])
    kernels.set_schedule(0)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
