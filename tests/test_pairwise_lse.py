from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pairwise import dense_lse
from torch import Tensor

import mi_estimators as mi
from mi_estimators.ops import pairwise_lse
from mi_estimators.ops.pairwise_lse import reference_backward, reference_forward

OPERATOR = torch.ops.mi_estimators.pairwise_lse.default
BACKWARD = torch.ops.mi_estimators.pairwise_lse_backward.default
ROW_GROUPS, COL_GROUPS = torch.arange(3), torch.arange(4)


def points(n: int, d: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("score", ["dot", "sqeuclidean"])
@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(7, 5, 3), (2, 2, 1), (33, 70, 20), (130, 257, 4)])
def test_values_and_gradients_match_the_dense_matrix(score, exclude, with_bias, shape):
    n, m, d = shape
    x, y, bias, scale = points(n, d), points(m, d), torch.randn(m, dtype=torch.float64), torch.tensor(0.7).double()
    inputs = [t.requires_grad_() for t in ([x, y, scale, bias] if with_bias else [x, y, scale])]
    weights = torch.randn(n).double(), torch.randn(m).double()

    def total(function):
        row, col = function(x, y, scale, bias if with_bias else None)
        return (row * weights[0]).sum() + (col * weights[1]).sum(), row, col

    ours, row, col = total(
        lambda a, b, s, c: pairwise_lse(a, b, scale=s, bias=c, score=score, exclude_diagonal=exclude, columns=True)
    )
    truth, true_row, true_col = total(lambda a, b, s, c: dense_lse(a, b, s, c, score, exclude))
    torch.testing.assert_close(row, true_row, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(col, true_col, rtol=1e-12, atol=1e-12)
    for got, want in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(truth, inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("score", ["dot", "sqeuclidean"])
@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize(("n", "d"), [(5, 2), (70, 30), (300, 3)])
def test_self_mode_has_both_roles_in_its_gradient(score, exclude, columns, n, d):
    x = points(n, d).requires_grad_()
    scale = torch.tensor(0.3).double().requires_grad_()
    weights = torch.randn(n).double(), torch.randn(n).double()

    def total(row, col):
        return (row * weights[0]).sum() + ((col * weights[1]).sum() if columns else 0)

    ours = pairwise_lse(x, scale=scale, score=score, exclude_diagonal=exclude, columns=columns)
    ours = total(*ours) if columns else total(ours, None)
    truth = total(*dense_lse(x, None, scale, None, score, exclude))
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)
    for got, want in zip(torch.autograd.grad(ours, [x, scale]), torch.autograd.grad(truth, [x, scale]), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


def with_gradients(function, inputs, weights):
    """Rows, columns, and the gradients for given incoming ones: those of results that are -inf count too."""
    row, col = function(*inputs)
    return row, col, *torch.autograd.grad((row, col), inputs, weights)


GROUPED_SHAPES = [(7, 5, 3), (2, 2, 1), (33, 70, 20), (130, 257, 4), (300, 290, 40)]


@pytest.mark.parametrize("score", ["dot", "sqeuclidean"])
@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", GROUPED_SHAPES)
def test_groups_match_the_dense_matrix(score, exclude, with_bias, shape):
    n, m, d = shape
    inputs = [points(n, d), points(m, d), torch.tensor(-0.4).double()]
    inputs = [t.requires_grad_() for t in inputs + ([torch.randn(m).double()] if with_bias else [])]
    weights = torch.randn(n).double(), torch.randn(m).double()
    rows, cols = torch.randint(-2, 2, (n,)) << 40, torch.randint(-2, 3, (m,)) << 40  # equal in their lower 32 bits

    def ours(x, y, scale, bias=None):
        return pairwise_lse(
            x,
            y,
            scale=scale,
            bias=bias,
            score=score,
            row_groups=rows,
            col_groups=cols,
            exclude_diagonal=exclude,
            columns=True,
        )

    def dense(x, y, scale, bias=None):
        return dense_lse(x, y, scale, bias, score, exclude, rows, cols)

    found, truth = with_gradients(ours, inputs, weights), with_gradients(dense, inputs, weights)
    for got, want in zip(found, truth, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("score", ["dot", "sqeuclidean"])
@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize(("n", "d", "count"), [(5, 2, 2), (70, 30, 4), (300, 3, 150)])
def test_groups_in_self_mode_serve_both_sides(score, exclude, n, d, count):
    x, scale = points(n, d).requires_grad_(), torch.tensor(0.3).double().requires_grad_()
    weights = torch.randn(n).double(), torch.randn(n).double()
    groups = torch.randint(count, (n,))

    def ours(x, scale):
        options = {"row_groups": groups, "exclude_diagonal": exclude, "columns": True}
        return pairwise_lse(x, scale=scale, score=score, **options)

    def dense(x, scale):
        return dense_lse(x, None, scale, None, score, exclude, groups)

    found, truth = with_gradients(ours, [x, scale], weights), with_gradients(dense, [x, scale], weights)
    for got, want in zip(found, truth, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("score", ["dot", "sqeuclidean"])
def test_rows_and_columns_wholly_left_out_by_their_groups(score):
    x, y = points(6, 3).requires_grad_(), points(5, 3).requires_grad_()
    scale, bias = torch.tensor(0.7).double().requires_grad_(), torch.randn(5).double().requires_grad_()
    inputs, weights = [x, y, scale, bias], (torch.randn(6).double(), torch.randn(5).double())

    def by_groups(rows, cols):
        def lse(x, y, scale, bias):
            options = {"row_groups": torch.tensor(rows), "col_groups": torch.tensor(cols), "columns": True}
            return pairwise_lse(x, y, scale=scale, bias=bias, score=score, **options)

        return lse

    row, col, dx, dy, dscale, dbias = with_gradients(by_groups([1, 1, 2, 1, 1, 1], [2] * 5), inputs, weights)
    kept = [0, 1, 3, 4, 5]
    others = with_gradients(
        lambda x, y, scale, bias: dense_lse(x[kept], y, scale, bias, score), inputs, (weights[0][kept], weights[1])
    )
    assert row[2] == -math.inf
    assert torch.equal(dx[2], torch.zeros(3).double())
    for got, want in zip((row[kept], col, dx, dy, dscale, dbias), others, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)

    row, col, *gradients = with_gradients(by_groups([3] * 6, [3] * 5), inputs, weights)
    assert torch.equal(row, torch.full((6,), -math.inf).double())
    assert torch.equal(col, torch.full((5,), -math.inf).double())
    for gradient in gradients:
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
def test_groups_of_any_integer_dtype_and_stride(dtype):
    x, y = points(12, 3), points(9, 3)
    rows, cols = torch.randint(3, (24,)).to(dtype)[::2], torch.randint(3, (3, 9)).to(dtype).T[:, 1]
    found = pairwise_lse(x, y, row_groups=rows, col_groups=cols)
    torch.testing.assert_close(found, dense_lse(x, y, 1.0, row_groups=rows, col_groups=cols)[0])


def test_one_tensor_passed_twice_is_not_self_mode():
    x = points(40, 6).requires_grad_()
    ours = pairwise_lse(x, x, scale=0.5).sum()
    (gradient,) = torch.autograd.grad(ours, x)
    (wanted,) = torch.autograd.grad(dense_lse(x, x, 0.5)[0].sum(), x)
    torch.testing.assert_close(gradient, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("score", ["dot", "sqeuclidean"])
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 2), (1, 3)])
def test_gradients_of_some_inputs_alone(score, wanted):
    tensors = [points(9, 4), points(6, 4), torch.tensor(0.8).double(), torch.randn(6).double()]
    for i in wanted:
        tensors[i].requires_grad_()
    x, y, scale, bias = tensors
    ours = pairwise_lse(x, y, scale=scale, bias=bias, score=score).sum()
    truth = dense_lse(x, y, scale, bias, score)[0].sum()
    leaves = [tensors[i] for i in wanted]
    for got, want in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(truth, leaves), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("score", ["dot", "sqeuclidean"])
def test_gradcheck_and_gradgradcheck(score):
    x, y = points(6, 3).requires_grad_(), points(4, 3).requires_grad_()
    scale = torch.tensor(0.7).double().requires_grad_()
    bias = torch.randn(4).double().requires_grad_()

    def both(x, y, scale, bias):
        return pairwise_lse(x, y, scale=scale, bias=bias, score=score, columns=True)

    def alone(x, scale):
        return pairwise_lse(x, scale=scale, score=score, exclude_diagonal=True)

    assert torch.autograd.gradcheck(both, (x, y, scale, bias))
    assert torch.autograd.gradgradcheck(both, (x, y, scale, bias))
    assert torch.autograd.gradcheck(alone, (x, scale))
    assert torch.autograd.gradgradcheck(alone, (x, scale))


@pytest.mark.parametrize("score", ["dot", "sqeuclidean"])
def test_gradcheck_and_gradgradcheck_with_groups(score):
    x, y = points(6, 3).requires_grad_(), points(4, 3).requires_grad_()
    scale = torch.tensor(0.7).double().requires_grad_()
    bias = torch.randn(4).double().requires_grad_()
    rows, cols = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 0, 3])

    def both(x, y, scale, bias):
        options = {"row_groups": rows, "col_groups": cols, "columns": True}
        return pairwise_lse(x, y, scale=scale, bias=bias, score=score, **options)

    def alone(x, scale):
        return pairwise_lse(x, scale=scale, score=score, row_groups=rows)

    def half_left_out(x, scale):  # rows 1 and 4 are -inf; finite differences know only of finite results
        options = {"row_groups": rows, "col_groups": torch.ones(4).long(), "columns": True}
        row, col = pairwise_lse(x, y, scale=scale, score=score, **options)
        return row[[0, 2, 3, 5]], col

    for function, inputs in ((both, (x, y, scale, bias)), (alone, (x, scale)), (half_left_out, (x, scale))):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("self_mode", [False, True])
def test_opcheck(dtype, self_mode):
    x = points(6, 3, dtype).requires_grad_()
    y = None if self_mode else points(5, 3, dtype).requires_grad_()
    m = 6 if self_mode else 5
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scale, bias = torch.tensor(0.7, dtype=wide, requires_grad=True), torch.randn(m, dtype=wide, requires_grad=True)
    torch.library.opcheck(OPERATOR, (x, y, scale, bias, None, None, "dot", True, True))
    torch.library.opcheck(OPERATOR, (x, y, scale, None, None, None, "sqeuclidean", False, False, True))
    groups = (torch.arange(6) % 3, None if self_mode else torch.arange(5) % 4)
    torch.library.opcheck(OPERATOR, (x, y, scale, bias, *groups, "dot", False, True))
    gradients = (torch.randn(6, dtype=wide), torch.randn(m, dtype=wide))
    for allow_tf32, given_groups in ((True, (None, None)), (False, groups)):
        with torch.no_grad():
            row, col = OPERATOR(x, y, scale, bias, *given_groups, "dot", False, True)
        saved = (row, col, x.detach(), None if y is None else y.detach(), scale.detach(), bias.detach(), *given_groups)
        needed = (True, not self_mode, True, True)
        torch.library.opcheck(BACKWARD, (*gradients, *saved, "dot", False, *needed, allow_tf32))


def test_compiles_to_one_graph_and_agrees():
    def loss(x, y, scale):
        row, col = pairwise_lse(x, y, scale=scale, columns=True)
        return (row.sin() + col[: len(row)].cos()).sum()

    x, y = points(16, 4).requires_grad_(), points(16, 4).requires_grad_()
    scale = torch.tensor(0.4).double().requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y, scale), loss(x, y, scale))
    got = torch.autograd.grad(compiled(x, y, scale), [x, y, scale])
    for a, b in zip(got, torch.autograd.grad(loss(x, y, scale), [x, y, scale]), strict=True):
        torch.testing.assert_close(a, b)


def test_groups_compile_to_one_graph_and_agree():
    def loss(x, y, rows, cols):
        row, col = pairwise_lse(x, y, row_groups=rows, col_groups=cols, columns=True)
        return (row.sin() + col[: len(row)].cos()).sum() + pairwise_lse(x, row_groups=rows).sum()

    x, y = points(16, 4).requires_grad_(), points(16, 4).requires_grad_()
    rows, cols = torch.arange(16) % 5, torch.arange(16, dtype=torch.int32) % 3
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y, rows, cols), loss(x, y, rows, cols))
    got = torch.autograd.grad(compiled(x, y, rows, cols), [x, y])
    for a, b in zip(got, torch.autograd.grad(loss(x, y, rows, cols), [x, y]), strict=True):
        torch.testing.assert_close(a, b)


def test_groups_under_torch_func_transforms():
    y, cols = points(5, 3), torch.tensor([0, 1, 2, 0, 1])
    batch, rows = points(4 * 7, 3).reshape(4, 7, 3), torch.randint(3, (4, 7))

    def ours(x, rows):
        return pairwise_lse(x, y, row_groups=rows, col_groups=cols).sum()

    def dense(x, rows):
        return dense_lse(x, y, 1.0, None, "dot", False, rows, cols)[0].sum()

    for in_dims, groups in (((0, 0), list(rows)), ((0, None), [rows[0]] * 4)):
        given_rows = rows if in_dims[1] == 0 else rows[0]
        wanted = [dense(x, g) for x, g in zip(batch, groups, strict=True)]
        gradients = [torch.func.grad(dense)(x, g) for x, g in zip(batch, groups, strict=True)]
        torch.testing.assert_close(torch.func.vmap(ours, in_dims)(batch, given_rows), torch.stack(wanted))
        found = torch.func.vmap(torch.func.grad(ours), in_dims)(batch, given_rows)
        torch.testing.assert_close(found, torch.stack(gradients))
    fixed = torch.func.vmap(ours, (None, 0))(batch[0], rows)
    torch.testing.assert_close(fixed, torch.stack([dense(batch[0], g) for g in rows]))
    twice = torch.func.jacrev(torch.func.jacrev(ours))(batch[0], rows[0])
    torch.testing.assert_close(twice, torch.func.hessian(dense)(batch[0], rows[0]))


def test_torch_func_transforms():
    y = points(5, 3)

    def ours(x):
        return pairwise_lse(x, y, scale=0.6).sum()

    def dense(x):
        return dense_lse(x, y, 0.6)[0].sum()

    batch = points(4 * 7, 3).reshape(4, 7, 3)
    torch.testing.assert_close(torch.func.grad(ours)(batch[0]), torch.func.grad(dense)(batch[0]))
    torch.testing.assert_close(torch.func.vmap(ours)(batch), torch.stack([dense(x) for x in batch]))
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(ours))(batch), torch.stack([torch.func.grad(dense)(x) for x in batch])
    )
    twice = torch.func.jacrev(torch.func.jacrev(ours))(batch[0])
    torch.testing.assert_close(twice, torch.func.hessian(dense)(batch[0]))


def test_gradient_penalty_trains_through_the_second_derivative():
    x, y = points(12, 3).requires_grad_(), points(12, 3)
    for function in (lambda: pairwise_lse(x, y).sum(), lambda: dense_lse(x, y, 1.0)[0].sum()):
        (first,) = torch.autograd.grad(function(), x, create_graph=True)
        (penalty,) = torch.autograd.grad(first.square().sum(), x)
        if function.__code__.co_names[0] == "pairwise_lse":
            ours = penalty
    torch.testing.assert_close(ours, penalty)


def test_backward_uses_the_incoming_gradient_in_the_middle_of_a_network():
    torch.manual_seed(3)
    layer = torch.nn.Linear(5, 4).double()
    data, y = points(20, 5), points(15, 4)
    results = []
    for function in (lambda z: pairwise_lse(z, y, scale=2.0), lambda z: dense_lse(z, y, 2.0)[0]):
        layer.zero_grad()
        (function(layer(data)).tanh() * torch.arange(20)).sum().backward()
        results.append([p.grad.clone() for p in layer.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits_on_every_run(dtype, threads):
    x, y = points(700, 65, dtype).requires_grad_(), points(533, 65, dtype).requires_grad_()
    scale = torch.tensor(0.5, dtype=torch.float64).to(torch.promote_types(dtype, torch.float32)).requires_grad_()

    def run():
        row, col = pairwise_lse(x, y, scale=scale, columns=True)
        return row, col, *torch.autograd.grad(row.sin().sum() + col.cos().sum(), [x, y, scale])

    first = with_threads(threads, run)
    for _ in range(3):
        for a, b in zip(first, with_threads(threads, run), strict=True):
            assert torch.equal(a, b)


@pytest.fixture
def poisoned():
    """Memory that torch hands out uninitialised holds NaN, so that reading it shows."""
    torch.use_deterministic_algorithms(True)  # fills it, by torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def with_threads(threads, function):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        return function()
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("threads", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("shape", [(401, 333), (256, 1), (1024, 3), (1024, 9), (3, 1024), (130, 70)], ids=str)
@pytest.mark.parametrize("score", ["dot", "sqeuclidean"])
@pytest.mark.parametrize("wanted", ["x", "y", "both"])
def test_any_number_of_threads_is_right(threads, shape, score, wanted):
    x, y = points(shape[0], 20), points(shape[1], 20)
    leaves = [t.requires_grad_() for t, name in ((x, "x"), (y, "y")) if wanted in (name, "both")]

    def run(function):
        row, col = function()
        total = row.sin().sum() + (col.sin().sum() if wanted == "both" else 0)
        return [row, col, *torch.autograd.grad(total, leaves)]

    truth = run(lambda: dense_lse(x, y, 0.2, None, score))
    found = with_threads(threads, lambda: run(lambda: pairwise_lse(x, y, scale=0.2, score=score, columns=True)))
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    if wanted != "both":  # rows alone, so that no column is written
        rows = with_threads(threads, lambda: pairwise_lse(x, y, scale=0.2, score=score))
        torch.testing.assert_close(rows, truth[0], rtol=1e-10, atol=1e-12)
        (gradient,) = with_threads(threads, lambda: torch.autograd.grad(rows.sin().sum(), leaves))
        torch.testing.assert_close(gradient, truth[2], rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", [(4614, 8192), (8192, 4614)], ids=str)
def test_more_threads_than_divide_the_rows(shape):
    x, y = points(shape[0], 2).requires_grad_(), points(shape[1], 2).requires_grad_()

    def run():
        row, col = pairwise_lse(x, y, columns=True)
        return torch.autograd.grad(row.sum() + col.sum(), [x, y])

    for a, b in zip(with_threads(72, run), with_threads(1, run), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_overflow_is_infinite_as_in_torch():
    x = torch.full((3, 2), 1e20)
    row, col = pairwise_lse(x, x.clone(), columns=True)
    assert torch.equal(row, torch.full((3,), math.inf))
    assert torch.equal(col, torch.full((3,), math.inf))


def test_masked_columns_and_rows_without_a_finite_score():
    x, y = points(6, 3).requires_grad_(), points(5, 3).requires_grad_()
    bias = torch.tensor([0.3, -math.inf, 0.1, -math.inf, 0.0]).double()
    row, col = pairwise_lse(x, y, bias=bias, columns=True)
    true_row, true_col = dense_lse(x, y[[0, 2, 4]], 1.0, bias[[0, 2, 4]])
    torch.testing.assert_close(row, true_row)
    torch.testing.assert_close(col[[0, 2, 4]], true_col)
    assert torch.equal(col[[1, 3]], torch.full((2,), -math.inf).double())
    gx, gy = torch.autograd.grad(row.sum() + col.sum(), [x, y])
    assert torch.isfinite(gx).all()
    assert torch.equal(gy[[1, 3]], torch.zeros(2, 3).double())

    everything = pairwise_lse(x, y, bias=torch.full((5,), -math.inf).double())
    assert torch.equal(everything, torch.full((6,), -math.inf).double())
    (gx,) = torch.autograd.grad(everything.sum(), x)
    assert torch.equal(gx, torch.zeros_like(gx))


def test_inputs_that_are_not_contiguous():
    x, y = points(6, 20).T, points(40, 12)[::2, ::2]
    torch.testing.assert_close(pairwise_lse(x, y), dense_lse(x, y, 1.0)[0])
    row, _ = pairwise_lse(x.float(), y.float(), columns=True)
    assert row.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_summed_in_float32(dtype):
    x, y = points(300, 64, dtype).requires_grad_(), points(200, 64, dtype)
    row = pairwise_lse(x, y, scale=0.1)
    assert row.dtype == torch.float32
    torch.testing.assert_close(row.double(), dense_lse(x.double(), y.double(), 0.1)[0], rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(row.sum(), x)
    assert gradient.dtype == dtype


def test_autocast_runs_products_in_its_dtype_and_distances_in_float32():
    x, y = points(30, 8, torch.float32), points(20, 8, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dot = pairwise_lse(x, y)
        squared = pairwise_lse(x, y.bfloat16(), score="sqeuclidean")
    assert torch.equal(dot, pairwise_lse(x.bfloat16(), y.bfloat16()))
    assert torch.equal(squared, pairwise_lse(x, y.bfloat16().float(), score="sqeuclidean"))
    assert dot.dtype == squared.dtype == torch.float32


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    d=st.integers(1, 20),
    shift=st.floats(-50, 50),
    seed=st.integers(0, 10_000),
)
def test_properties(n, m, d, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=torch.float64, generator=generator)
    y = torch.randn(m, d, dtype=torch.float64, generator=generator)
    bias = torch.randn(m, dtype=torch.float64, generator=generator)
    row, col = pairwise_lse(x, y, bias=bias, columns=True)
    # A constant added to every score is added to every result.
    torch.testing.assert_close(pairwise_lse(x, y, bias=bias + shift), row + shift)
    # Permuting the columns changes no row, and exchanging the sides exchanges the results.
    order = torch.randperm(m, generator=generator)
    torch.testing.assert_close(pairwise_lse(x, y[order], bias=bias[order]), row)
    torch.testing.assert_close(pairwise_lse(y, x), pairwise_lse(x, y, columns=True)[1])
    # Both are sums of the same numbers: the log-sum-exp over rows equals that over columns.
    torch.testing.assert_close(torch.logsumexp(row, 0), torch.logsumexp(col, 0))
    # Distances ignore a common translation.
    moved = pairwise_lse(x + shift, y + shift, score="sqeuclidean")
    torch.testing.assert_close(moved, pairwise_lse(x, y, score="sqeuclidean"), rtol=1e-8, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 40),
    m=st.integers(2, 40),
    score=st.sampled_from(["dot", "sqeuclidean"]),
    self_mode=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_properties_of_groups(n, m, score, self_mode, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    y = None if self_mode else torch.randn(m, 3, dtype=torch.float64, generator=generator)
    m = n if self_mode else m

    def lse(rows, cols, **options):
        sides = {} if rows is None else {"row_groups": rows} if self_mode else {"row_groups": rows, "col_groups": cols}
        return pairwise_lse(x, y, score=score, columns=True, **sides, **options)

    def same(found, wanted):
        for got, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(got, want)

    # One group each, the same for row i and column i: the diagonal is left out.
    same(lse(torch.arange(n), torch.arange(m)), lse(None, None, exclude_diagonal=True))
    # Groups that never coincide leave nothing out; in self mode a point always shares its own, so the diagonal is out.
    if self_mode:
        same(lse(torch.arange(n), None, exclude_diagonal=True), lse(None, None, exclude_diagonal=True))
    else:
        same(lse(torch.randint(5, (n,), generator=generator), torch.arange(m) + 5), lse(None, None))
    # The names of the groups mean nothing.
    rows, cols = torch.randint(4, (n,), generator=generator), torch.randint(4, (m,), generator=generator)
    names = torch.tensor([7, -(2**62), 2**62, 0])
    same(lse(names[rows], names[cols]), lse(rows, cols))
    # What is left out and what is not make up the whole. With two groups, exchanging those of one side exchanges them.
    if not self_mode:
        kept, left = lse(rows % 2, cols % 2), lse(rows % 2, 1 - cols % 2)
        same([torch.logaddexp(a, b) for a, b in zip(kept, left, strict=True)], lse(None, None))


def test_reference_and_kernel_agree_on_every_option():
    x, y, scale, bias = points(37, 5), points(29, 5), torch.tensor(0.6).double(), torch.randn(29).double()
    groups = (torch.arange(37) % 6, torch.arange(29) % 4)
    for score, exclude, sides in itertools.product(("dot", "sqeuclidean"), (False, True), ((None, None), groups)):
        pairs = (x, y, scale, bias, *sides, score, exclude)
        row, col = OPERATOR(*pairs, True)
        for got, want in zip((row, col), reference_forward(*pairs, True), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        arguments = (torch.randn(37).double(), torch.randn(29).double(), row, col, *pairs, True, True, True, True)
        for got, want in zip(BACKWARD(*arguments), reference_backward(*arguments), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


def test_reference_needs_no_square_memory(monkeypatch):
    module = sys.modules[reference_forward.__module__]
    x, y, scale = points(50, 4), points(30, 4), torch.tensor(1.0).double()
    pairs = (x, y, scale, None, torch.arange(50) % 7, torch.arange(30) % 5, "dot", True)
    row, col = reference_forward(*pairs, True)
    arguments = (torch.randn(50).double(), torch.randn(30).double(), row, col, *pairs, True, True, True, True)
    gradients = reference_backward(*arguments)
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 90)  # three rows at a time
    for got, want in zip(reference_forward(*pairs, True), (row, col), strict=True):
        torch.testing.assert_close(got, want)
    for got, want in zip(reference_backward(*arguments), gradients, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512", "reference"])
def test_every_simd_level_and_the_reference_give_the_same_loss(level):
    code = (
        "import torch, mi_estimators as mi; from mi_estimators import _extension as e\n"
        "torch.manual_seed(0); x = torch.randn(300, 40, requires_grad=True); y = torch.randn(300, 40)\n"
        "loss = mi.info_nce(x, y, temperature=0.05) + mi.kde_entropy(x, bandwidth=1.0)\n"
        "loss.backward(); i = e.info()\n"
        "print(i['simd_level'] if i['cpu_kernels'] else 'reference', loss.item(), x.grad.norm().item())"
    )
    environment = dict(os.environ)
    if level == "reference":
        environment["MI_ESTIMATORS_DISABLE_EXTENSION"] = "1"
    else:
        environment["MI_ESTIMATORS_SIMD"] = level
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    active, loss, norm = result.stdout.split()
    levels = ["reference", "baseline", "avx2", "avx512"]
    assert levels.index(active) <= levels.index(level)
    x = points(1, 1)  # the truth, in float64, from the dense matrix
    torch.manual_seed(0)
    x, y = torch.randn(300, 40).requires_grad_(), torch.randn(300, 40)
    u, v = F.normalize(x.double(), dim=1), F.normalize(y.double(), dim=1)
    row, col = dense_lse(u, v, 20.0)
    truth = (0.5 * (row + col) - 20 * (u * v).sum(1)).mean()
    lse, _ = dense_lse(x.double(), None, 0.5, None, "sqeuclidean", True)
    truth = truth - (lse - math.log(299) - 20 * math.log(2 * math.pi)).mean()
    (gradient,) = torch.autograd.grad(truth, x)
    assert float(loss) == pytest.approx(truth.item(), rel=1e-5)
    assert float(norm) == pytest.approx(float(gradient.norm()), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"x": [[1.0]]}, TypeError, "x: want a floating-point torch.Tensor"),
        ({"x": torch.ones(3, 2, dtype=torch.int64)}, TypeError, "x: want a dtype among"),
        ({"x": torch.ones(3)}, ValueError, "x: want 2 dimensions"),
        ({"x": torch.ones(0, 2)}, ValueError, "x: want at least one element"),
        ({"y": torch.ones(0, 2)}, ValueError, "y: want at least one element"),
        ({"y": torch.ones(4, 3)}, ValueError, "y: want the last dimension of x"),
        ({"y": torch.ones(4, 2).double()}, TypeError, "y: want the dtype of x"),
        ({"y": torch.ones(4, 2, device="meta")}, ValueError, "y: want the device of x"),
        ({"x": torch.tensor([[math.nan, 1.0]])}, ValueError, "x: want finite values"),
        ({"y": torch.tensor([[math.inf, 1.0]])}, ValueError, "y: want finite values"),
        ({"score": "manhattan"}, ValueError, "score: want one of"),
        ({"scale": math.nan}, ValueError, "scale: want a finite number"),
        ({"scale": torch.ones(2)}, ValueError, "scale: want a number or a tensor with one element"),
        ({"scale": torch.tensor(math.inf)}, ValueError, "scale: want finite values"),
        ({"scale": torch.tensor(1)}, TypeError, "scale: want a floating-point tensor"),
        ({"scale": "1"}, TypeError, "scale: want a number"),
        ({"bias": torch.ones(5)}, ValueError, "bias: want one value per column"),
        ({"bias": torch.tensor([0.0, math.nan, 0.0, 0.0])}, ValueError, "bias: want finite values or -inf"),
        ({"x": torch.ones(1, 2), "y": None, "exclude_diagonal": True}, ValueError, "exclude_diagonal: want at least"),
        ({"row_groups": [0, 1, 2], "col_groups": COL_GROUPS}, TypeError, "row_groups: want a torch.Tensor of integers"),
        ({"row_groups": ROW_GROUPS.double(), "col_groups": COL_GROUPS}, TypeError, "row_groups: want an integer dtype"),
        ({"row_groups": ROW_GROUPS, "col_groups": COL_GROUPS > 1}, TypeError, "col_groups: want an integer dtype"),
        ({"row_groups": COL_GROUPS, "col_groups": COL_GROUPS}, ValueError, r"row_groups: want one value per row \(3\)"),
        ({"row_groups": ROW_GROUPS, "col_groups": ROW_GROUPS}, ValueError, r"col_groups: want one .* column \(4\)"),
        ({"row_groups": ROW_GROUPS[:, None], "col_groups": COL_GROUPS}, ValueError, "row_groups: want 1 dimension"),
        ({"row_groups": ROW_GROUPS, "col_groups": COL_GROUPS.to("meta")}, ValueError, "col_groups: want the device"),
        ({"row_groups": ROW_GROUPS}, ValueError, "col_groups: want the groups of both sides"),
        ({"col_groups": COL_GROUPS}, ValueError, "row_groups: want the groups of both sides"),
        ({"y": None, "row_groups": ROW_GROUPS, "col_groups": ROW_GROUPS}, ValueError, "col_groups: want None"),
        ({"y": None, "row_groups": COL_GROUPS}, ValueError, "row_groups: want one value per row"),
    ],
)
def test_bad_arguments_are_named(arguments, error, text):
    given_arguments = {"x": torch.ones(3, 2), "y": torch.ones(4, 2), **arguments}
    x = given_arguments.pop("x")
    y = given_arguments.pop("y")
    with pytest.raises(error, match=text):
        mi.pairwise_lse(x, y, **given_arguments)


def test_big_finite_values_are_not_taken_for_infinite_ones():
    x = torch.full((4, 2), 3e38)
    y = torch.full((3, 2), 1e-38)
    torch.testing.assert_close(pairwise_lse(x, y), torch.full((4,), 6.0 + math.log(3)))
