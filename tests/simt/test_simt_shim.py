"""The SIMT shim runs right kernels rightly, and reports wrong ones."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures("schedule")


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def test_block_sum(detectors: ctypes.CDLL) -> None:
    x = np.arange(3 * 64, dtype=np.float32).reshape(3, 64)
    out = np.full(3, np.nan, np.float32)
    assert detectors.sum(pointer(x), pointer(out), 3) == 0
    assert out.tolist() == x.sum(1).tolist()


@pytest.mark.parametrize("dynamic", [0, 1])
def test_shared_memory(detectors: ctypes.CDLL, dynamic: int) -> None:
    x = np.arange(64, dtype=np.float32)
    out = np.full(64, np.nan, np.float32)
    assert detectors.reverse(pointer(x), pointer(out), dynamic) == 0
    assert out.tolist() == x[::-1].tolist()


def test_warp_operations_and_atomics(detectors: ctypes.CDLL) -> None:
    out = np.zeros(64 * 4 + 2, np.int32)
    assert detectors.warp(pointer(out)) == 0
    lane = np.arange(64) % 32
    per_thread = out[:-2].reshape(64, 4)
    assert per_thread[:, 0].tolist() == [5] * 64
    assert per_thread[:, 1].tolist() == [x + 3 if x % 16 + 3 < 16 else x for x in lane]
    assert per_thread[:, 2].tolist() == (lane ^ 1).tolist()
    assert per_thread[::2, 3].tolist() == (lane[::2] ^ 2).tolist()
    assert out[-2:].tolist() == [64, 63]


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("exit_before_barrier", "divergent barrier: .* 1 of 64 threads have exited"),
        ("two_barriers", "divergent barrier: thread 0 waits at detectors.cpp:.*, thread 32 at detectors.cpp"),
        ("missing_lane", "divergent warp: .* __shfl_down_sync at detectors.cpp"),
        ("wrong_mask", "lane .* is not in its own mask 0000ffff"),
        ("outside_mask", "reads lane 20, which is not in the mask 0000ffff"),
        ("column_out_of_bounds", r"shared memory out of bounds at detectors.cpp:.*: \(0, 63\) of a 2 x 63 tile"),
        ("row_out_of_bounds", r"shared memory out of bounds at detectors.cpp:.*: \(-1, .* of a 2 x 64 tile"),
        ("beyond_dynamic", "dynamic shared memory out of bounds: 256 bytes at 16 of 268"),
        ("too_many_threads", "launch configuration out of range"),
    ],
)
def test_wrong_kernels_are_reported(detectors: ctypes.CDLL, kernel: str, message: str) -> None:
    out = np.zeros(64, np.float32)
    assert getattr(detectors, kernel)(pointer(out)) != 0
    with pytest.raises(RuntimeError, match=message):
        raise RuntimeError(detectors.last_error().decode())
    # A failed launch leaves nothing behind.
    test_block_sum(detectors)
    assert detectors.last_error() == b""


def test_unwritten_shared_memory_is_nan_in_every_block(detectors: ctypes.CDLL) -> None:
    out = np.zeros(2, np.float32)
    assert detectors.uninitialised(pointer(out)) == 0
    assert np.isnan(out).all()


def test_a_missing_barrier_changes_the_result_with_the_schedule(detectors: ctypes.CDLL) -> None:
    results = []
    for schedule in (0, 1):
        detectors.set_schedule(schedule)
        out = np.zeros(64, np.float32)
        assert detectors.race(pointer(out)) == 0
        results.append(out.tobytes())
    assert results[0] != results[1]


def test_half_conversions_agree_with_torch(detectors: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    special = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        65504,
        65519.99,
        65520,
        -1e6,
        6.0e-8,
        2.9e-8,
        3.0e-8,
        6.1e-5,
        1 + 2**-11,
    ]
    wide = np.ldexp(rng.standard_normal(20000), rng.integers(-30, 20, 20000))
    x = np.concatenate([special, wide]).astype(np.float32)
    half, bfloat = np.empty_like(x), np.empty_like(x)
    detectors.halves(pointer(x), pointer(half), pointer(bfloat), len(x))
    expected = torch.from_numpy(x)
    np.testing.assert_array_equal(half, expected.half().float().numpy())
    np.testing.assert_array_equal(bfloat, expected.bfloat16().float().numpy())
