"""sinkhorn_knopp against the iteration written out in float64, and against the exp-and-divide loop where that holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_ranks
from torch import Tensor

import mi_estimators as mi
from mi_estimators import _extension
from mi_estimators.ops.sinkhorn_knopp import reference_codes, reference_columns, reference_sweep

DOUBLE = torch.float64
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
OPS = torch.ops.mi_estimators
compiled_only = pytest.mark.skipif(not _extension.info()["cpu_kernels"], reason="no compiled CPU kernels")


def direct(scores: Tensor, epsilon: float, n_iter: int, marginals: Tensor | None = None) -> Tensor:
    """Potentials over all scores in float64."""
    s = scores.double() / epsilon
    b = torch.ones(s.shape[1], dtype=DOUBLE) if marginals is None else marginals.double()
    u = torch.zeros(s.shape[0], 1, dtype=DOUBLE)
    v = torch.zeros(1, s.shape[1], dtype=DOUBLE)
    for _ in range(n_iter):
        v = b.log() - torch.logsumexp(s + u, 0, keepdim=True)
        u = -torch.logsumexp(s + v, 1, keepdim=True)
    return (s + u + v).exp()


def exp_and_divide(scores: Tensor, epsilon: float, n_iter: int) -> Tensor:
    """The loop of the training scripts: no logarithms, each side divided by its sums."""
    q = torch.exp(scores / epsilon).T
    q = q / q.sum()
    for _ in range(n_iter):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def draw(b: int, k: int, sd: float = 1.0, dtype: torch.dtype = DOUBLE, seed: int = 0) -> Tensor:
    return (sd * torch.randn(b, k, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))).to(dtype)


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).abs().max())


# ------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(("b", "k"), [(1, 1), (1, 5), (5, 1), (7, 3), (33, 100), (130, 517)])
@pytest.mark.parametrize("n_iter", [1, 3, 10])
@pytest.mark.parametrize(("sd", "epsilon"), [(0.3, 0.05), (8.0, 0.04)])
def test_equals_the_direct_iteration(b: int, k: int, n_iter: int, sd: float, epsilon: float) -> None:
    scores = draw(b, k, sd)
    got = mi.sinkhorn_knopp(scores, epsilon=epsilon, n_iter=n_iter)
    assert error(got, direct(scores, epsilon, n_iter)) <= 1e-12


def test_equals_exp_and_divide_where_that_does_not_overflow() -> None:
    scores = draw(65, 40, 0.3)
    assert error(mi.sinkhorn_knopp(scores), exp_and_divide(scores, 0.05, 3)) <= 1e-13


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize(("sd", "epsilon"), [(0.3, 0.05), (8.0, 0.04)])
def test_narrow_dtypes(dtype: torch.dtype, sd: float, epsilon: float) -> None:
    """No further from the truth for the same scores than the log-domain iteration in float32 is."""
    scores = draw(300, 257, sd, dtype)
    s, u = scores.float() / epsilon, torch.zeros(300, 1)
    for _ in range(3):
        v = -torch.logsumexp(s + u, 0, keepdim=True)
        u = -torch.logsumexp(s + v, 1, keepdim=True)
    truth, got = direct(scores, epsilon, 3), mi.sinkhorn_knopp(scores, epsilon=epsilon)
    assert got.dtype == torch.float32
    assert error(got, truth) <= 2 * error((s + u + v).exp(), truth) + 1e-7
    assert error(got.sum(1), torch.ones(300, dtype=DOUBLE)) <= 1e-6


def test_finite_where_raw_exponentials_overflow() -> None:
    scores = draw(200, 300, 8.0, torch.bfloat16)
    assert not exp_and_divide(scores.float(), 0.04, 3).isfinite().all()
    assert mi.sinkhorn_knopp(scores, epsilon=0.04).isfinite().all()


def test_every_half_precision_number_is_widened_exactly() -> None:
    for dtype in DTYPES[2:]:
        bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        values = bits[bits.isfinite() | (bits == -torch.inf)]
        values = torch.cat([values, values.new_zeros(-len(values) % 8)]).view(8, -1)
        shift, _total = OPS.sinkhorn_knopp_columns(values, None, 1.0)
        assert torch.equal(shift, values.float().amax(0))


@given(
    b=st.integers(1, 40),
    k=st.integers(1, 40),
    n_iter=st.integers(1, 6),
    sd=st.sampled_from([0.1, 1.0, 50.0]),
    offset=st.sampled_from([0.0, 1e3]),
    masked=st.booleans(),
    queued=st.booleans(),
    weighted=st.booleans(),
    holes=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_options_together(
    b: int,
    k: int,
    n_iter: int,
    sd: float,
    offset: float,
    masked: bool,
    queued: bool,
    weighted: bool,
    holes: bool,
    seed: int,
) -> None:
    """A queue is further rows, a mask fewer, a marginal of 0 fewer columns; -inf is a score like others."""
    generator = torch.Generator().manual_seed(seed)
    scores = draw(b, k, sd, seed=seed) + offset * torch.rand(1, k, dtype=DOUBLE, generator=generator)
    scores[: b // 2] -= offset  # rows far below the others
    if holes:
        gone = torch.rand(b, k, generator=generator) < 0.3
        gone[:, 0] = gone[0] = False
        scores = scores.masked_fill(gone, -torch.inf)
    mask = torch.rand(b, generator=generator) < 0.7 if masked else None
    if mask is not None:
        mask[0] = True
    queue = draw(5, k, sd, seed=seed + 1) if queued else None
    marginals = torch.rand(k, dtype=DOUBLE, generator=generator) + 0.1 if weighted else None
    kept = slice(None)
    if marginals is not None and k > 2:
        marginals[-1] = 0
        kept = slice(k - 1)
    given_scores = scores.clone()
    if mask is not None:
        given_scores[~mask] = torch.nan  # padding may hold anything
    rows = scores if mask is None else scores[mask]
    joined = rows if queue is None else torch.cat([rows, queue])
    truth = direct(joined[:, kept], 0.5, n_iter, None if marginals is None else marginals[kept])[: len(rows)]
    got = mi.sinkhorn_knopp(given_scores, epsilon=0.5, n_iter=n_iter, queue=queue, mask=mask, marginals=marginals)
    if mask is not None:
        assert (got[~mask] == 0).all()
        got = got[mask]
    assert error(got[:, kept], truth) <= 1e-10
    assert float(got[:, kept].sum()) == pytest.approx(len(rows))


def test_marginals_are_shares() -> None:
    shares = torch.tensor([1.0, 2.0, 5.0], dtype=DOUBLE)
    codes = mi.sinkhorn_knopp(draw(40, 3), epsilon=0.5, n_iter=200, marginals=shares)
    assert error(codes.sum(0), shares * 5) <= 1e-9


def test_hard_codes_are_the_largest_entries() -> None:
    scores = draw(50, 7)
    soft, hard = mi.sinkhorn_knopp(scores), mi.sinkhorn_knopp(scores, hard=True)
    assert torch.equal(hard, torch.nn.functional.one_hot(soft.argmax(1), 7).double())
    assert torch.equal(mi.sinkhorn_knopp(torch.zeros(3, 4), hard=True).argmax(1), torch.zeros(3, dtype=torch.int64))


def test_a_center_is_softmax_centering_and_nothing_to_the_iteration() -> None:
    scores, center = draw(20, 6), draw(1, 6, seed=3)[0]
    centred = mi.sinkhorn_knopp(scores, epsilon=0.07, n_iter=0, center=center)
    assert error(centred, torch.softmax((scores - center) / 0.07, 1)) <= 1e-13
    assert error(mi.sinkhorn_knopp(scores - center), mi.sinkhorn_knopp(scores, center=center)) <= 1e-13


def test_no_gradient_and_no_memory_of_one() -> None:
    scores = draw(6, 4).requires_grad_()
    codes = mi.sinkhorn_knopp(scores)
    assert not codes.requires_grad
    loss = -(codes * torch.log_softmax(scores, 1)).sum()
    loss.backward()  # as in training: targets are constants
    assert scores.grad is not None
    with pytest.raises(RuntimeError, match=r"torch\.func"):
        torch.func.vmap(mi.sinkhorn_knopp)(draw(6, 4)[None])


def test_strided_scores() -> None:
    scores = draw(40, 31, dtype=torch.float32)
    assert torch.equal(mi.sinkhorn_knopp(scores.T), mi.sinkhorn_knopp(scores.T.contiguous()))
    assert torch.equal(mi.sinkhorn_knopp(scores[::2, ::3]), mi.sinkhorn_knopp(scores[::2, ::3].contiguous()))


@compiled_only
@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_every_simd_level(level: str) -> None:
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + (
        "from test_sinkhorn_knopp import *\n"
        "for dtype in DTYPES:\n"
        "    scores = draw(61, 83, 3.0, dtype)\n"
        "    assert error(mi.sinkhorn_knopp(scores), direct(scores, 0.05, 3)) <= (1e-12 if dtype == DOUBLE else 2e-6)\n"
    )
    environment = os.environ | {"MI_ESTIMATORS_SIMD": level}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_threads_change_nothing_but_rounding() -> None:
    scores, threads = draw(700, 200, 3.0), torch.get_num_threads()
    results = []
    try:
        for count in (1, 3, 3):
            torch.set_num_threads(count)
            results.append(mi.sinkhorn_knopp(scores))
    finally:
        torch.set_num_threads(threads)
    assert error(results[0], results[1]) <= 1e-13
    assert torch.equal(results[1], results[2])


# ---------------------------------------------------------------------------------------------------------- operators


@pytest.mark.parametrize("dtype", DTYPES)
def test_operators_equal_their_references(dtype: torch.dtype) -> None:
    scores, mask = draw(19, 13, 2.0, dtype), torch.arange(19) % 4 > 0
    scores[2, 3] = scores[5, 3] = -torch.inf
    tolerance = 1e-12 if dtype == DOUBLE else 1e-5
    shift, total = reference_columns(scores, mask, 0.3)
    got_shift, got_total = OPS.sinkhorn_knopp_columns(scores, mask, 0.3)
    assert torch.equal(got_shift, shift)
    assert error(got_total, total) <= tolerance
    weight = -total.log()
    swept = OPS.sinkhorn_knopp_sweep(scores, mask, shift, weight, 0.3)
    assert error(swept, reference_sweep(scores, mask, shift, weight, 0.3)) <= tolerance
    for hard in (False, True):
        codes, bad = OPS.sinkhorn_knopp_codes(scores, mask, shift, weight, 0.3, hard)
        want, want_bad = reference_codes(scores, mask, shift, weight, 0.3, hard)
        assert error(codes, want.double()) <= tolerance
        assert int(bad) == int(want_bad) == 0


def test_opcheck() -> None:
    scores, mask = draw(6, 4, dtype=torch.float32), torch.arange(6) > 0
    shift, total = OPS.sinkhorn_knopp_columns(scores, mask, 0.3)
    torch.library.opcheck(OPS.sinkhorn_knopp_columns, (scores, mask, 0.3))
    torch.library.opcheck(OPS.sinkhorn_knopp_sweep, (scores, mask, shift, total.log(), 0.3))
    torch.library.opcheck(OPS.sinkhorn_knopp_codes, (scores, mask, shift, total.log(), 0.3, False))


def test_compiles_whole() -> None:
    scores = draw(12, 5)
    compiled = torch.compile(lambda s: mi.sinkhorn_knopp(s, n_iter=2), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(scores), mi.sinkhorn_knopp(scores, n_iter=2))


# ------------------------------------------------------------------------------------------------------------- errors


def with_entry(value: float, row: int | None = None, col: int | None = None) -> Tensor:
    scores = draw(6, 4)
    scores[slice(None) if row is None else row, slice(None) if col is None else col] = value
    return scores


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (draw(6, 4), {"epsilon": 0.0}, "epsilon: want a finite value > 0"),
        (draw(6, 4), {"epsilon": float("nan")}, "epsilon"),
        (draw(6, 4), {"n_iter": -1}, "n_iter: want an integer >= 0"),
        (torch.zeros(0, 4), {}, "scores: want at least one element"),
        (torch.zeros(4), {}, "scores: want 2 dimensions"),
        (with_entry(torch.nan, 2, 1), {}, "scores: want finite values or -inf, got NaN"),
        (with_entry(torch.inf, 2, 1), {}, "scores: want finite values or -inf, got NaN or \\+inf"),
        (with_entry(torch.nan, 2, 1), {"n_iter": 0}, "every row, got 1 rows"),
        (with_entry(-torch.inf, 2), {}, "every row, got 1 rows"),
        (with_entry(-torch.inf, None, 2), {}, "scores: want a finite score in every column"),
        (draw(6, 4), {"queue": draw(3, 5)}, "queue: want the last dimension of scores"),
        (draw(6, 4), {"mask": torch.ones(5, dtype=torch.bool)}, "mask: want one value per sample"),
        (draw(6, 4), {"mask": torch.zeros(6, dtype=torch.bool)}, "no samples at all"),
        (draw(6, 4), {"marginals": torch.ones(3)}, "marginals: want one value per prototype"),
        (draw(6, 4), {"marginals": -torch.ones(4)}, "marginals: want values >= 0"),
        (draw(6, 4), {"marginals": torch.ones(4), "n_iter": 0}, "marginals: want None"),
        (draw(6, 4), {"center": torch.ones(3)}, "center: want one value per prototype"),
    ],
)
def test_bad_values(scores: Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mi.sinkhorn_knopp(scores, **options)


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (torch.zeros(3, 4, dtype=torch.int64), {}, "scores"),
        ([[1.0]], {}, "scores"),
        (draw(6, 4), {"epsilon": torch.tensor(0.1)}, "epsilon: want a number"),
        (draw(6, 4), {"n_iter": 2.0}, "n_iter: want an integer"),
        (draw(6, 4), {"mask": torch.ones(6)}, "mask: want a torch.bool tensor"),
        (draw(6, 4), {"queue": draw(3, 4).float()}, "queue: want the dtype of scores"),
    ],
)
def test_bad_types(scores: Tensor, options: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        mi.sinkhorn_knopp(scores, **options)


# ----------------------------------------------------------------------------------- scenarios: run in every process


def joined_scores(world: int, dtype: torch.dtype, sd: float) -> Tensor:
    return draw(6 * world, 9, sd, dtype, seed=5)


def distributed(rank: int, world: int) -> dict[str, Tensor]:
    everyone = dist.group.WORLD
    results = {}
    for name, dtype, sd in (("double", DOUBLE, 1.0), ("single", torch.float32, 1.0), ("sharp", torch.bfloat16, 8.0)):
        own = joined_scores(world, dtype, sd)[6 * rank : 6 * rank + 6]
        results[name] = mi.sinkhorn_knopp(own, epsilon=0.04, group=everyone)
    scores = joined_scores(world, DOUBLE, 1.0)
    cut = [0, *range(6, 6 * world, 6), 6 * world]
    cut[1] = 0  # the first rank has no samples, the second those of both
    results["uneven"] = mi.sinkhorn_knopp(scores[cut[rank] : cut[rank + 1]], group=everyone)
    results["alone"] = mi.sinkhorn_knopp(scores[:6])
    bad = scores[:6].clone()
    if rank == 1:
        bad[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):  # on every rank: none is left waiting
        mi.sinkhorn_knopp(bad, group=everyone)
    with pytest.raises(ValueError, match="as many columns"):
        mi.sinkhorn_knopp(scores[:6, : 8 + (rank > 0)], group=everyone)
    return results


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_are_one_process(world: int, tmp_path: Path) -> None:
    ranks = run_ranks(world, tmp_path, {"codes": distributed})["codes"]
    for name, dtype, sd in (("double", DOUBLE, 1.0), ("single", torch.float32, 1.0), ("sharp", torch.bfloat16, 8.0)):
        joined = torch.cat([results[name] for results in ranks])
        assert error(joined, mi.sinkhorn_knopp(joined_scores(world, dtype, sd), epsilon=0.04).double()) <= 1e-6
    scores = joined_scores(world, DOUBLE, 1.0)
    assert error(torch.cat([results["uneven"] for results in ranks]), mi.sinkhorn_knopp(scores)) <= 1e-12
    assert torch.equal(ranks[0]["alone"], mi.sinkhorn_knopp(scores[:6]))
