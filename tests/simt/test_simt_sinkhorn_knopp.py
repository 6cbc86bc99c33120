"""The CUDA kernels of sinkhorn_knopp, run on the CPU, against the torch references in fp64."""

from __future__ import annotations

import ctypes

import pytest
import simt_build
import torch
from buffers import CODES, DTYPES, Buffer, assert_launched
from conftest import HERE
from torch import Tensor

from mi_estimators.ops.sinkhorn_knopp import reference_codes, reference_columns, reference_sweep


class Samples(ctypes.Structure):
    _fields_ = (
        ("scores", ctypes.c_void_p),
        ("mask", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64),
        ("epsilon", ctypes.c_double),
    )


class Columns(ctypes.Structure):
    _fields_ = (("samples", Samples), ("shift", ctypes.c_void_p), ("total", ctypes.c_void_p))


class Sweep(ctypes.Structure):
    _fields_ = (("samples", Samples), *((name, ctypes.c_void_p) for name in ("shift", "log_weight", "total")))


class Codes(ctypes.Structure):
    _fields_ = (
        ("samples", Samples),
        ("shift", ctypes.c_void_p),
        ("log_weight", ctypes.c_void_p),
        ("hard", ctypes.c_bool),
        ("codes", ctypes.c_void_p),
        ("bad_rows", ctypes.c_void_p),
    )


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    if simt_build.compiler() is None:
        pytest.skip("no C++ compiler (g++, or the one that CXX names) to build the kernels for the CPU with")
    library = simt_build.load(HERE / "sinkhorn_knopp.cpp")
    library.last_error.restype = ctypes.c_char_p
    library.workspace_bytes.restype = ctypes.c_size_t
    return library


class Call:
    """The samples of some calls, and every buffer that they see."""

    def __init__(self, library: ctypes.CDLL, scores: Tensor, mask: Tensor | None, epsilon: float) -> None:
        self.library, self.buffers = library, []
        dtype = {value: name for name, value in DTYPES.items()}[scores.dtype]
        self.code, self.wide = CODES[dtype], torch.float64 if dtype == "f64" else torch.float32
        self.shape = tuple(scores.shape)
        self.mask = None if mask is None else mask.to(torch.uint8)
        pointer = None if self.mask is None else self.mask.data_ptr()
        self.samples = Samples(self.give(scores), pointer, *self.shape, epsilon)

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Buffer:
        self.buffers.append(Buffer(shape, dtype))
        return self.buffers[-1]

    def give(self, value: Tensor) -> int:
        buffer = self.take(tuple(value.shape), value.dtype)
        buffer.tensor.copy_(value)
        return buffer.pointer

    def run(self, name: str, args: ctypes.Structure) -> None:
        size = self.library.workspace_bytes(ctypes.byref(self.samples)) // 8
        space = self.take((size,), torch.float64).pointer
        assert_launched(
            self.library, getattr(self.library, name)(self.code, ctypes.byref(args), ctypes.c_void_p(space))
        )
        for buffer in self.buffers:
            buffer.check(name)

    def columns(self) -> tuple[Tensor, Tensor]:
        shift, total = self.take(self.shape[1:], self.wide), self.take(self.shape[1:], torch.float64)
        self.run("columns", Columns(self.samples, shift.pointer, total.pointer))
        return shift.tensor, total.tensor

    def sweep(self, shift: Tensor, log_weight: Tensor) -> Tensor:
        total = self.take(self.shape[1:], torch.float64)
        self.run("sweep", Sweep(self.samples, self.give(shift.to(self.wide)), self.give(log_weight), total.pointer))
        return total.tensor

    def codes(self, shift: Tensor, log_weight: Tensor, hard: bool) -> tuple[Tensor, int]:
        codes, bad = self.take(self.shape, self.wide), self.take((1,), torch.int64)
        inputs = self.give(shift.to(self.wide)), self.give(log_weight)
        self.run("codes", Codes(self.samples, *inputs, hard, codes.pointer, bad.pointer))
        return codes.tensor, int(bad.tensor)


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (3, 31), (31, 3), (5, 257), (131, 300)])
@pytest.mark.parametrize("masked", [False, True])
def test_shapes(kernels: ctypes.CDLL, rows: int, cols: int, masked: bool, dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = (3 * torch.randn(rows, cols, dtype=torch.float64, generator=generator)).to(DTYPES[dtype])
    if min(rows, cols) > 2:
        scores[rows // 2, cols // 2] = scores[0, 1] = -torch.inf
    mask = torch.arange(rows) % 3 != 1 if masked else None
    if mask is not None:
        scores[~mask] = torch.nan
    epsilon, tolerance = 0.4, 1e-12 if dtype == "f64" else 2e-5
    call, exact = Call(kernels, scores, mask, epsilon), scores.double()
    shift, total = call.columns()
    want_shift, want_total = reference_columns(exact, mask, epsilon)
    assert torch.equal(shift.double(), want_shift)
    assert error(total, want_total) <= tolerance * rows
    weight = -want_total.log()
    weight[-1] = -torch.inf if cols > 1 else weight[-1]
    assert (
        error(call.sweep(shift, weight), reference_sweep(exact, mask, want_shift, weight, epsilon)) <= tolerance * rows
    )
    for hard in (False, True):
        codes, bad = call.codes(shift, weight, hard)
        want, _ = reference_codes(exact, mask, want_shift, weight, epsilon, hard)
        assert error(codes, want) <= tolerance
        assert bad == 0


def test_rows_without_a_finite_score_and_no_rows(kernels: ctypes.CDLL) -> None:
    scores = torch.randn(4, 5)
    scores[1], scores[3, 2] = -torch.inf, torch.nan
    call, zeros = Call(kernels, scores, None, 1.0), torch.zeros(5, dtype=torch.float64)
    assert call.columns()[1].isnan().nonzero().flatten().tolist() == [2]
    codes, bad = call.codes(zeros, zeros, False)
    assert bad == 2
    assert codes[[1, 3]].isnan().all()
    assert codes[[0, 2]].isfinite().all()
    empty = Call(kernels, torch.zeros(0, 5), None, 1.0)
    shift, total = empty.columns()
    assert (shift == -torch.inf).all()
    assert (total == 0).all()
    assert (empty.sweep(zeros, zeros) == 0).all()


def test_same_bits_whatever_the_order_of_threads(kernels: ctypes.CDLL) -> None:
    scores, zeros = torch.randn(70, 270), torch.zeros(270, dtype=torch.float64)
    found = []
    for reverse in (0, 1):
        kernels.set_schedule(reverse)
        call = Call(kernels, scores, None, 1.0)
        found.append((*call.columns(), call.sweep(zeros, zeros), *call.codes(zeros, zeros, True)))
    kernels.set_schedule(0)
    for a, b in zip(*found, strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
