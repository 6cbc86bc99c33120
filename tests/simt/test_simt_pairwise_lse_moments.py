"""The CUDA kernel of pairwise_lse_moments, run on the CPU, against fp64."""

from __future__ import annotations

import ctypes

import pytest
import torch
from buffers import CODES, DTYPES, Buffers, assert_launched
from test_simt_pairwise_lse import SCORES, Pairs, bias_for


class Moments(ctypes.Structure):
    _fields_ = (
        ("pairs", Pairs),
        ("scales", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("lse", ctypes.c_void_p),
        ("moment", ctypes.c_void_p),
    )


def run(
    library: ctypes.CDLL,
    x: torch.Tensor,
    y: torch.Tensor | None,
    scales: torch.Tensor,
    score: str,
    bias: torch.Tensor | None = None,
    exclude_diagonal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Through the kernel, with every guard checked."""
    code = next(CODES[name] for name, dtype in DTYPES.items() if dtype == x.dtype)
    columns = x if y is None else y
    buffers = Buffers()
    give = buffers.give
    given = (give("x", x), give("y", y), give("scales", scales), give("bias", bias), None, None)
    pairs = Pairs(*given, x.shape[0], columns.shape[0], x.shape[1], SCORES[score], exclude_diagonal)
    shape = (len(scales), x.shape[0])
    results = [buffers.take(name, shape, scales.dtype) for name in ("lse", "moment")]
    arguments = Moments(pairs, pairs.scale, len(scales), *results)
    space = buffers.space("space", library.moments_workspace(code, ctypes.byref(arguments)))
    assert_launched(library, library.moments(code, ctypes.byref(arguments), space))
    buffers.check()
    return buffers["lse"].tensor, buffers["moment"].tensor


def points(n: int, d: int, dtype: str, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) / d**0.5).to(DTYPES[dtype])


def dense(
    x: torch.Tensor,
    y: torch.Tensor | None,
    scales: torch.Tensor,
    score: str,
    bias: torch.Tensor | None,
    exclude_diagonal: bool,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """By the formulas, with every pair in memory."""
    x, y = x.to(dtype), (x if y is None else y).to(dtype)
    scores = x @ y.T if score == "dot" else -(x[:, None] - y).square().sum(-1)
    logits = scales.to(dtype)[:, None, None] * scores + (0 if bias is None else bias.to(dtype))
    if exclude_diagonal:
        logits = logits.masked_fill(torch.eye(*scores.shape, dtype=torch.bool), -torch.inf)
    return logits.logsumexp(2), (logits.softmax(2).nan_to_num(0) * scores).sum(2)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 31), (129, 77), (131, None)])
def test_lse_and_moments(kernels: ctypes.CDLL, n: int, m: int | None, dtype: str, score: str) -> None:
    x, y = points(n, 17, dtype, 0), None if m is None else points(m, 17, dtype, 1)
    accumulation = torch.float64 if dtype == "f64" else torch.float32
    scales = torch.tensor([0.01, 0.7, 30.0] if score == "sqeuclidean" else [-2.0, 0.0, 0.7, 30.0], dtype=accumulation)
    for bias, left_out in ((None, m is None), (bias_for(m or n).to(accumulation), False)):
        arguments = (x, y, scales, score, bias, left_out)
        found, truth = run(kernels, *arguments), dense(*arguments, torch.float64)
        own = dense(*arguments, accumulation)
        for value, expected, peer in zip(found, truth, own, strict=True):
            error, torch_error = (value.double() - expected).abs(), (peer.double() - expected).abs()
            unit = torch.finfo(accumulation).eps * (1 + expected.abs()) * (8 if dtype == "f64" else 1)
            for kind in (torch.max, torch.mean):
                assert kind(error) <= 2 * kind(torch_error) + kind(unit)


@pytest.mark.parametrize("score", SCORES)
def test_rows_without_a_finite_score(kernels: ctypes.CDLL, score: str) -> None:
    x, scales = points(70, 3, "f32", 0), torch.tensor([0.5, 2.0])
    lse, moment = run(kernels, x, None, scales, score, torch.full((70,), -torch.inf))
    assert (lse == -torch.inf).all()
    assert (moment == 0).all()
    alone = torch.full((70,), -torch.inf)
    alone[4] = 0  # the only column there is; its own row has none
    lse, moment = run(kernels, x, None, scales, score, alone, exclude_diagonal=True)
    assert (lse == -torch.inf).nonzero().tolist() == [[0, 4], [1, 4]]
    assert (moment[:, 4] == 0).all()
    only = dense(x, None, scales, score, alone, True, torch.float64)
    torch.testing.assert_close(moment.double(), only[1], rtol=1e-6, atol=1e-6)


def test_many_splits_and_the_same_bits_in_any_order_of_threads(kernels: ctypes.CDLL) -> None:
    x, y, scales = points(70, 2, "f32", 0), points(1500, 2, "f32", 1), torch.tensor([0.3, 5.0])
    first = run(kernels, x, y, scales, "sqeuclidean")
    for value, expected in zip(first, dense(x, y, scales, "sqeuclidean", None, False, torch.float64), strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=2e-6)
    kernels.set_schedule(1)
    try:
        reverse = run(kernels, x, y, scales, "sqeuclidean")
    finally:
        kernels.set_schedule(0)
    assert all(torch.equal(a, b) for a, b in zip(first, reverse, strict=True))


def test_invalid_calls_are_refused(kernels: ctypes.CDLL) -> None:
    for score, count, scales in ((3, 1, 1), (0, 0, 1), (0, 1, None)):
        arguments = Moments(Pairs(1, 1, 1, None, None, None, 3, 3, 4, score), scales, count, 1, 1)
        assert kernels.moments(CODES["f32"], ctypes.byref(arguments), ctypes.c_void_p(1)) == 1
