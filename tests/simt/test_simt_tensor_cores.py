"""The tensor-core kernels of pairwise_lse, run on the CPU: what they have beside those of the other scores."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from test_simt_pairwise_lse import Problem, bias_for, check, groups_for, run

# The element types, and for each a d of one chunk of 128 bytes or less, of two, of four, and of more.
SIZES = {"bf16": (17, 100, 200, 300), "f16": (17, 100, 200, 300), "f32": (33, 64, 100, 150)}
FORMS = [(dtype, d) for dtype, sizes in SIZES.items() for d in sizes]


@contextmanager
def shared_memory(kernels: ctypes.CDLL, limit: int) -> Iterator[None]:
    """As if a block of the device had so many bytes of shared memory."""
    kernels.set_shared_limit(limit)
    try:
        yield
    finally:
        kernels.set_shared_limit(227 * 1024)


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize(("dtype", "d"), FORMS)
@pytest.mark.parametrize("scale", [0.7, 60.0])  # without a shift, and with one
def test_every_form(kernels: ctypes.CDLL, dtype: str, d: int, scale: float) -> None:
    check(kernels, Problem(70, 131, d, dtype, scale=scale, bias=bias_for(131), exclude_diagonal=True))
    check(kernels, Problem(131, 131, d, dtype, scale=scale, exclude_diagonal=True, self_mode=True))


@pytest.mark.parametrize(("dtype", "d"), FORMS)
def test_a_device_with_less_shared_memory(kernels: ctypes.CDLL, dtype: str, d: int) -> None:
    """All types fit into 99 KiB, the least that a device with these instructions has, in one form or another."""
    with shared_memory(kernels, 99 * 1024):
        check(kernels, Problem(67, 70, d, dtype, bias=bias_for(70)))


@pytest.mark.parametrize("dtype", SIZES)
def test_without_enough_shared_memory_the_launch_says_so(kernels: ctypes.CDLL, dtype: str) -> None:
    with shared_memory(kernels, 48 * 1024), pytest.raises(AssertionError, match="error 1"):
        run(kernels, Problem(67, 70, 300, dtype))


@pytest.mark.parametrize(("self_mode", "bias"), [(False, True), (True, True), (True, False)])
def test_several_tiles_a_block(kernels: ctypes.CDLL, self_mode: bool, bias: bool) -> None:
    """More row tiles than strips and more column tiles than splits, in a triangle where there is no bias."""
    n, m = (2180, 2180) if self_mode else (2180, 1100)
    given = bias_for(m) if bias else None
    check(kernels, Problem(n, m, 8, "bf16", bias=given, exclude_diagonal=self_mode, self_mode=self_mode))


@pytest.mark.parametrize("dtype", SIZES)
def test_the_shift_free_sums_are_those_with_a_shift(kernels: ctypes.CDLL, dtype: str) -> None:
    """One large pair, alone in its groups, turns the shift on and takes part in nothing."""
    problem = Problem(67, 67, 40, dtype, row_groups=torch.arange(67), col_groups=torch.arange(67))
    free = run(kernels, problem)
    problem.x[66], problem.y[66] = 100 * problem.x[66], 0
    shifted = run(kernels, problem)
    for name in ("row_lse", "col_lse"):
        torch.testing.assert_close(shifted[name][:66], _without(problem, name), rtol=3e-6, atol=3e-6)
    assert free["row_lse"].isfinite().all()


def _without(problem: Problem, name: str) -> torch.Tensor:
    """The log-sum-exps of all but the last point, whose columns and rows have a product of 0 at most here."""
    s = problem.scale * problem.x.double() @ problem.y.double().T
    s = s.masked_fill(torch.eye(67, dtype=torch.bool), -torch.inf)
    return s.logsumexp(1 if name == "row_lse" else 0)[:66].float()


@pytest.mark.parametrize("dtype", SIZES)
@pytest.mark.parametrize("self_mode", [False, True])
def test_groups_in_order_and_groups_everywhere(kernels: ctypes.CDLL, dtype: str, self_mode: bool) -> None:
    """Those in order meet in a few tiles only, random ones in all; negative ones count as others do."""
    order = torch.arange(200) // 3 - 30
    shuffled = groups_for(200, 7, 1)
    for rows in (order, shuffled):
        cols = None if self_mode else rows.flip(0)
        problem = Problem(200, 200, 40, dtype, row_groups=rows, col_groups=cols, self_mode=self_mode)
        check(kernels, problem)


@pytest.mark.parametrize("magnitude", [1e-9, 1e-4, 1e4])
def test_weights_of_half_stay_in_its_range(kernels: ctypes.CDLL, magnitude: float) -> None:
    problem = Problem(70, 67, 40, "f16")
    problem.grad_row, problem.grad_col = problem.grad_row * magnitude, problem.grad_col * magnitude
    problem.scale = min(1.0, 1e-2 / magnitude)  # so that the gradients themselves are numbers that half has
    if magnitude < 1e-4:
        problem.scale, problem.x, problem.y = 1e4, problem.x / 100, problem.y / 100
    check(kernels, problem)


def test_points_that_are_not_aligned(kernels: ctypes.CDLL) -> None:
    """Rows of whole units that begin between two of them are copied first."""
    whole = Problem(67, 70, 64, "bf16")
    buffer = torch.zeros(67 * 64 + 1, dtype=torch.bfloat16)
    moved = Problem(67, 70, 64, "bf16")
    moved.x = buffer[1:].view(67, 64).copy_(whole.x)
    moved.in_place = True
    assert moved.x.data_ptr() % 16 != 0
    same_bits(run(kernels, whole), run(kernels, moved))


@pytest.mark.parametrize(("dtype", "d"), [(dtype, d) for dtype, sizes in SIZES.items() for d in sizes[1::2]])
def test_same_bits_in_any_order_of_threads(kernels: ctypes.CDLL, dtype: str, d: int) -> None:
    """A missing barrier, or a copy that nobody waited for, would show."""
    for options in ({"bias": bias_for(140)}, {"self_mode": True, "exclude_diagonal": True}):
        problem = Problem(140, 140, d, dtype, **options)
        first = run(kernels, problem)
        kernels.set_schedule(1)
        try:
            same_bits(first, run(kernels, problem))
        finally:
            kernels.set_schedule(0)
