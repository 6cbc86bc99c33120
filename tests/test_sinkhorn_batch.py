"""sinkhorn_batch against each problem's iteration written out in float64: plans, potentials, gradients, masks."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mi_estimators as mi
from mi_estimators import _extension
from mi_estimators.ops.sinkhorn_batch import reference, reference_backward

DOUBLE = torch.float64
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
OPS = torch.ops.mi_estimators
compiled_only = pytest.mark.skipif(not _extension.info()["cpu_kernels"], reason="no compiled CPU kernels")


def direct(
    scores: Tensor, epsilon: float | Tensor, n_iter: int, a: Tensor, b: Tensor, first: str = "rows"
) -> tuple[Tensor, Tensor, Tensor]:
    """Plan and potentials of one problem [n, m] without masks, differentiable by torch."""
    z = scores / epsilon
    phi, psi = torch.zeros_like(a), torch.zeros_like(b)
    for _ in range(n_iter):
        if first == "rows":
            phi = a.log() - torch.logsumexp(z + psi, 1)
            psi = b.log() - torch.logsumexp(z + phi[:, None], 0)
        else:
            psi = b.log() - torch.logsumexp(z + phi[:, None], 0)
            phi = a.log() - torch.logsumexp(z + psi, 1)
    return (z + phi[:, None] + psi).exp(), phi, psi


def default(n: int, m: int) -> tuple[Tensor, Tensor]:
    return torch.ones(n, dtype=DOUBLE), torch.full((m,), n / m, dtype=DOUBLE)


def draw(*shape: int, sd: float = 1.0, dtype: torch.dtype = DOUBLE, seed: int = 0) -> Tensor:
    return (sd * torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))).to(dtype)


def error(got: Tensor, want: Tensor) -> float:
    """Relative to the largest element."""
    return float((got.double() - want).abs().max() / want.abs().max().clamp(min=1e-300))


def plans_and_gradients(scores: Tensor, upstream: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    leaf = scores.detach().clone().requires_grad_()
    plan = mi.sinkhorn_batch(leaf, **options)
    return plan.detach(), torch.autograd.grad((plan * upstream).sum(), leaf)[0]


def direct_gradients(scores: Tensor, upstream: Tensor, epsilon: float, n_iter: int, first: str) -> tuple[Tensor, ...]:
    leaf = scores.detach().double().requires_grad_()
    a, b = default(*scores.shape[1:])
    plan = torch.stack([direct(s, epsilon, n_iter, a, b, first)[0] for s in leaf])
    return plan.detach(), torch.autograd.grad((plan * upstream).sum(), leaf)[0]


# ---------------------------------------------------------------------------------------------- values and gradients


@pytest.mark.parametrize("first", ["rows", "columns"])
@pytest.mark.parametrize(
    ("batch", "n", "m"), [(1, 1, 1), (3, 1, 4), (37, 4, 4), (5, 3, 7), (2, 12, 12), (2, 13, 17), (1, 64, 33)]
)
# The arithmetics: moderate, beyond float32's range, beyond float64's.
@pytest.mark.parametrize("sd", [1.0, 30.0, 400.0])
def test_plan_and_gradient(batch: int, n: int, m: int, sd: float, first: str) -> None:
    scores, upstream = draw(batch, n, m, sd=sd), draw(batch, n, m, seed=1)
    want = direct_gradients(scores, upstream, 0.7, 5, first)
    got = plans_and_gradients(scores, upstream, epsilon=0.7, n_iter=5, first=first)
    assert error(got[0], want[0]) <= 1e-12
    assert float((got[1] - want[1]).abs().max()) <= 1e-11


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize(("n", "m", "sd"), [(4, 4, 1.0), (4, 4, 30.0), (40, 24, 1.0), (40, 24, 30.0), (8, 5, 400.0)])
def test_narrow_dtypes(dtype: torch.dtype, n: int, m: int, sd: float) -> None:
    """As near the truth for the same scores as torch's own iteration in float32, or nearer."""
    scores, upstream = draw(9, n, m, sd=sd, dtype=dtype), draw(9, n, m, seed=1)
    want = direct_gradients(scores, upstream, 1.0, 20, "rows")
    leaf = scores.float().requires_grad_()
    plan = torch.stack([direct(part, 1.0, 20, *(t.float() for t in default(n, m)))[0] for part in leaf])
    torchs = plan.detach(), torch.autograd.grad((plan * upstream.float()).sum(), leaf)[0]
    got = plans_and_gradients(scores, upstream, n_iter=20)
    assert got[0].dtype == torch.float32
    assert got[1].dtype == dtype
    assert error(got[0], want[0]) <= 2 * error(torchs[0], want[0]) + 1e-6
    rounding = torch.finfo(dtype).eps if dtype != torch.float32 else 0.0
    assert error(got[1], want[1]) <= 2 * error(torchs[1], want[1]) + 1e-5 + rounding


@given(
    batch=st.integers(1, 20),
    n=st.integers(1, 9),
    m=st.integers(1, 9),
    n_iter=st.integers(1, 6),
    sd=st.sampled_from([0.3, 3.0, 60.0]),
    first=st.sampled_from(["rows", "columns"]),
    weighted=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_ragged_problems_are_their_unmasked_parts(
    batch: int, n: int, m: int, n_iter: int, sd: float, first: str, weighted: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores, upstream = draw(batch, n, m, sd=sd, seed=seed), draw(batch, n, m, seed=seed + 1)
    rows = torch.rand(batch, n, generator=generator) < 0.7
    cols = torch.rand(batch, m, generator=generator) < 0.7
    rows[:, 0] = cols[:, 0] = True
    a = (
        0.1 + torch.rand(batch, n, dtype=DOUBLE, generator=generator)
        if weighted
        else torch.ones(batch, n, dtype=DOUBLE)
    )
    leaf = scores.masked_fill(~(rows[:, :, None] & cols[:, None, :]), torch.nan).requires_grad_()
    options: dict[str, Any] = {"row_marginals": a} if weighted else {}
    got = mi.sinkhorn_batch(
        leaf, epsilon=0.5, n_iter=n_iter, row_mask=rows, col_mask=cols, first=first, details=True, **options
    )
    (gradient,) = torch.autograd.grad((got.plan * upstream).sum(), leaf)
    for k in range(batch):
        i, j = rows[k].nonzero()[:, 0], cols[k].nonzero()[:, 0]
        part = scores[k][i][:, j].clone().requires_grad_()
        b = torch.full((len(j),), float(a[k][i].sum()) / len(j), dtype=DOUBLE)
        plan, phi, psi = direct(part, 0.5, n_iter, a[k][i], b, first)
        (want,) = torch.autograd.grad((plan * upstream[k][i][:, j]).sum(), part)
        assert error(got.plan[k][i][:, j].detach(), plan.detach()) <= 1e-11
        assert float(got.plan[k].detach().sum()) == pytest.approx(float(plan.detach().sum()))
        assert float((gradient[k][i][:, j] - want).abs().max()) <= 1e-10
        assert float(gradient[k].abs().sum()) == pytest.approx(float(want.abs().sum()), abs=1e-9)
        for ours, theirs in ((got.row_potentials[k][i], phi), (got.col_potentials[k][j], psi)):
            assert float((ours - 0.5 * theirs).detach().abs().max()) <= 1e-10


def test_pairs_that_are_ruled_out() -> None:
    scores = draw(3, 5, 5, dtype=torch.float32)
    scores[:, 0, 1:3] = scores[1, 4, 4] = -torch.inf
    plan, gradient = plans_and_gradients(scores, draw(3, 5, 5, seed=1), n_iter=200)
    assert (plan[:, 0, 1:3] == 0).all()
    assert gradient.isfinite().all()
    assert error(plan.sum(1), torch.ones(3, 5, dtype=DOUBLE)) <= 1e-5


@pytest.mark.parametrize("first", ["rows", "columns"])
@pytest.mark.parametrize("sd", [1.0, 400.0])
def test_gradcheck(first: str, sd: float) -> None:
    scores, a, b = draw(2, 3, 4, sd=sd), draw(2, 3, seed=1).exp(), draw(2, 4, seed=2).exp()
    b = b * a.sum(1, keepdim=True) / b.sum(1, keepdim=True)

    def outputs(s: Tensor, la: Tensor, lb: Tensor) -> tuple[Tensor, ...]:
        return OPS.sinkhorn_batch(s * (sd / 1.0), la, lb, 1.0, 3, first == "rows", True)

    inputs = tuple(t.requires_grad_() for t in (scores / sd, a.log(), b.log()))
    assert torch.autograd.gradcheck(outputs, inputs, rtol=1e-5, atol=1e-7 * sd)
    if sd == 1.0:
        assert torch.autograd.gradgradcheck(outputs, inputs)


def test_gradients_by_marginals_and_a_learned_temperature() -> None:
    scores, epsilon = draw(2, 3, 3), torch.tensor(0.8, dtype=DOUBLE, requires_grad=True)
    a = torch.tensor([0.5, 1.0, 1.5], dtype=DOUBLE, requires_grad=True)
    upstream = draw(2, 3, 3, seed=1)
    got = mi.sinkhorn_batch(scores, epsilon=epsilon, n_iter=4, row_marginals=a)
    b = (a.sum() / 3).expand(3)
    want = torch.stack([direct(s, epsilon, 4, a, b)[0] for s in scores])
    for g, w in zip(
        torch.autograd.grad((got * upstream).sum(), (a, epsilon)),
        torch.autograd.grad((want * upstream).sum(), (a, epsilon)),
        strict=True,
    ):
        assert error(g, w) <= 1e-11


def test_value_and_its_envelope() -> None:
    """At convergence both gradients of the value agree, and the value is what a plan of these marginals attains."""
    scores = draw(3, 4, 6).requires_grad_()
    epsilon = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    a = torch.rand(3, 4, dtype=DOUBLE).add(0.2).requires_grad_()
    found = {}
    for gradient in ("unrolled", "envelope"):
        result = mi.sinkhorn_batch(
            scores, epsilon=epsilon, n_iter=300, row_marginals=a, gradient=gradient, details=True
        )
        assert float(result.marginal_error.max()) <= 1e-12
        plan = result.plan.detach()
        entropy = -torch.special.xlogy(plan, plan).sum((1, 2))
        assert error(result.value.detach(), ((plan * scores.detach()).sum((1, 2)) + 0.7 * entropy)) <= 1e-11
        found[gradient] = torch.autograd.grad(result.value.sum(), (scores, epsilon, a))
        assert error(found[gradient][0], plan) <= 1e-9
    for unrolled, envelope in zip(*found.values(), strict=True):
        centred = [g - g.mean(-1, keepdim=True) if g.ndim else g for g in (unrolled, envelope)]
        assert error(centred[1], centred[0]) <= 1e-8


def test_doubly_stochastic_and_reports_when_not_yet() -> None:
    scores = draw(50, 4, 4, sd=3.0)
    converged = mi.sinkhorn_batch(scores, n_iter=2000, details=True)
    assert float(converged.marginal_error.max()) <= 1e-9
    assert float(mi.sinkhorn_batch(scores, n_iter=1, details=True).marginal_error.max()) > 0.1


def test_not_the_last_layer() -> None:
    """A backward that ignores the gradient it is given would pass for a sum."""
    leaf = draw(4, 3, 3).requires_grad_()
    mixed = mi.sinkhorn_batch(leaf.tanh(), n_iter=3) @ draw(4, 3, 2, seed=2)
    (got,) = torch.autograd.grad(mixed.square().sum(), leaf)
    a, b = default(3, 3)
    plans = torch.stack([direct(s, 1.0, 3, a, b)[0] for s in leaf.tanh()])
    (want,) = torch.autograd.grad((plans @ draw(4, 3, 2, seed=2)).square().sum(), leaf)
    assert error(got, want) <= 1e-12


def test_strided_scores() -> None:
    scores = draw(7, 5, 6, dtype=torch.float32)
    assert torch.equal(mi.sinkhorn_batch(scores.mT), mi.sinkhorn_batch(scores.mT.contiguous()))


def test_threads_change_nothing() -> None:
    scores, threads = draw(300, 5, 4), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = plans_and_gradients(scores, scores)
        torch.set_num_threads(3)
        together = plans_and_gradients(scores, scores)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone[0], together[0])
    assert torch.equal(alone[1], together[1])


@compiled_only
def test_other_simd_levels() -> None:
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + (
        "from test_sinkhorn_batch import *\n"
        "for shape in ((20, 4, 4), (3, 17, 14)):\n"
        "    scores, upstream = draw(*shape), draw(*shape, seed=1)\n"
        "    want = direct_gradients(scores, upstream, 1.0, 5, 'rows')\n"
        "    for dtype, tolerance in ((DOUBLE, 1e-12), (torch.float32, 1e-5)):\n"
        "        got = plans_and_gradients(scores.to(dtype), upstream, n_iter=5)\n"
        "        assert all(error(g, w) <= tolerance for g, w in zip(got, want))\n"
    )
    for level in ("baseline", "avx2"):
        subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | {"MI_ESTIMATORS_SIMD": level})


# ---------------------------------------------------------------------------------------------------------- operators


@pytest.mark.parametrize("rows_first", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_backward_operator_equals_its_reference(rows_first: bool, weighted: bool) -> None:
    scores, gradients = draw(5, 4, 3), (draw(5, 4, 3, seed=1), draw(5, 4, seed=2), draw(5, 3, seed=3))
    log_a, log_b = (torch.zeros(5, 4, dtype=DOUBLE), torch.zeros(5, 3, dtype=DOUBLE)) if weighted else (None, None)
    if weighted:
        log_a[2, 1] = log_b[0, 2] = -torch.inf
    arguments = (*gradients, scores, log_a, log_b, 0.6, 3, rows_first)
    got, want = OPS.sinkhorn_batch_backward(*arguments), reference_backward(*arguments)
    options = (scores, log_a, log_b, 0.6, 3, rows_first, True)
    got, want = got + OPS.sinkhorn_batch(*options), want + reference(*options)
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g == -torch.inf, w == -torch.inf)
        g, w = g.nan_to_num(neginf=0), w.nan_to_num(neginf=0)
        assert g.shape == w.shape
        assert w.numel() == 0 or error(g, w) <= 1e-11


def test_opcheck() -> None:
    scores, weights = draw(2, 3, 3, dtype=torch.float32).requires_grad_(), torch.zeros(2, 3)
    torch.library.opcheck(OPS.sinkhorn_batch, (scores, weights, weights, 1.0, 2, True, True))
    torch.library.opcheck(OPS.sinkhorn_batch, (scores, None, None, 1.0, 2, False, False))


def test_compiles_whole() -> None:
    scores = draw(6, 4, 4, dtype=torch.float32)
    compiled = torch.compile(
        lambda s: mi.sinkhorn_batch(s, n_iter=5).square().sum(), fullgraph=True, backend="aot_eager"
    )
    leaves = [scores.clone().requires_grad_() for _ in range(2)]
    compiled(leaves[0]).backward()
    mi.sinkhorn_batch(leaves[1], n_iter=5).square().sum().backward()
    assert torch.equal(leaves[0].grad, leaves[1].grad)


# ------------------------------------------------------------------------------------------------------------- errors


def with_entry(value: float, *index: Any) -> Tensor:
    scores = draw(2, 3, 3)
    scores[index] = value
    return scores


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (draw(2, 3, 3), {"epsilon": 0.0}, "epsilon: want a finite value > 0"),
        (draw(2, 3, 3), {"epsilon": math.nan}, "epsilon"),
        (draw(2, 3, 3), {"epsilon": torch.ones(2)}, "epsilon: want a number or a tensor with one element"),
        (draw(2, 3, 3), {"n_iter": 0}, "n_iter: want an integer >= 1"),
        (draw(3, 3), {}, "scores: want 3 dimensions"),
        (torch.zeros(0, 3, 3), {}, "scores: want at least one element"),
        (with_entry(math.nan, 1, 2, 0), {}, "scores: want finite values or -inf, got 1 NaN"),
        (with_entry(math.inf, 1, 2, 0), {}, "scores: want finite values or -inf, got 1 NaN or \\+inf"),
        (with_entry(-math.inf, 1, 2), {}, r"every row, got none in \(problem, row\) \(1, 2\)"),
        (with_entry(-math.inf, 1, slice(None), 2), {}, r"every column, got none in \(problem, column\) \(1, 2\)"),
        (draw(2, 3, 3), {"row_marginals": torch.ones(4)}, "row_marginals: want the shape"),
        (draw(2, 3, 3), {"row_marginals": -torch.ones(3)}, "row_marginals: want values >= 0"),
        (
            draw(2, 3, 3),
            {"row_marginals": torch.ones(3), "col_marginals": 2 * torch.ones(3)},
            "col_marginals: want the sum of row_marginals in every problem, got 6 against 3",
        ),
        (draw(2, 3, 3), {"row_mask": torch.zeros(2, 3, dtype=torch.bool)}, "want a row and a column of weight > 0"),
        (draw(2, 3, 3), {"row_mask": torch.ones(3, dtype=torch.bool)}, "row_mask: want the shape"),
        (draw(2, 3, 3), {"first": "both"}, "first: want one of"),
        (draw(2, 3, 3), {"gradient": "implicit"}, "gradient: want one of"),
        (draw(2, 3, 3), {"gradient": "envelope"}, "gradient: want details=True"),
    ],
)
def test_bad_values(scores: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mi.sinkhorn_batch(scores, **options)


def test_bad_types_and_transforms() -> None:
    with pytest.raises(TypeError, match="scores"):
        mi.sinkhorn_batch(torch.zeros(1, 2, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match="n_iter: want an integer"):
        mi.sinkhorn_batch(draw(1, 2, 2), n_iter=2.0)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"row_mask: want a torch\.bool tensor"):
        mi.sinkhorn_batch(draw(1, 2, 2), row_mask=torch.ones(1, 2))
    with pytest.raises(RuntimeError, match=r"takes batches itself"):
        torch.func.vmap(mi.sinkhorn_batch)(draw(2, 1, 2, 2))
