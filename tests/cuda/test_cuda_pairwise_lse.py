"""pairwise_lse on a GPU: right, repeatable, on the stream it is asked on, and in little memory."""

from __future__ import annotations

import math

import pytest
import torch
from pairwise import COMPACT, profile_logits
from torch import Tensor

import mi_estimators as mi

pytestmark = pytest.mark.cuda

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SCORES = ["dot", "sqeuclidean"]
PROFILES = ["euclidean", *COMPACT]
OPERATORS = ("pairwise_lse", "pairwise_lse_backward")


def points(n: int, d: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) / d**0.5).to("cuda", dtype)


def logsumexp(s: Tensor, dim: int) -> Tensor:
    """Whose gradient is 0, and not NaN, where there is no finite score."""
    alive = s.isfinite().any(dim, keepdim=True)
    return torch.where(alive, s, 0).logsumexp(dim).masked_fill(~alive.squeeze(dim), -math.inf)


Groups = tuple[Tensor | None, Tensor | None]
NO_GROUPS: Groups = (None, None)


def dense(
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    score: str,
    exclude_diagonal: bool,
    groups: Groups = NO_GROUPS,
) -> tuple[Tensor, Tensor]:
    """With every pair in memory, at the dtype of the inputs."""
    y = x if y is None else y
    if score in PROFILES:
        s = profile_logits((x[:, None] - y[None]).square().sum(-1), scale.to(x.dtype), score)
    else:
        s = scale.to(x.dtype) * (x @ y.T if score == "dot" else -(x[:, None] - y[None]).square().sum(-1))
    if bias is not None:
        s = s + bias.to(x.dtype)
    if exclude_diagonal:
        s = s.masked_fill(torch.eye(*s.shape, dtype=torch.bool, device=s.device), -math.inf)
    rows, cols = groups
    if rows is not None:
        s = s.masked_fill(rows[:, None] == (rows if cols is None else cols), -math.inf)
    return logsumexp(s, 1), logsumexp(s, 0)


def ours(
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    score: str,
    exclude_diagonal: bool,
    groups: Groups = NO_GROUPS,
) -> tuple[Tensor, Tensor]:
    return mi.pairwise_lse(
        x,
        y,
        scale=scale,
        score=score,
        bias=bias,
        row_groups=groups[0],
        col_groups=groups[1],
        exclude_diagonal=exclude_diagonal,
        columns=True,
    )


def results(
    function: object,
    inputs: dict[str, Tensor | None],
    score: str,
    exclude_diagonal: bool,
    grads: tuple[Tensor | None, Tensor | None],
    groups: Groups = NO_GROUPS,
) -> dict[str, Tensor]:
    """The two lse and the gradient of each input that there is, for given gradients of rows and columns."""
    leaves = {name: None if t is None else t.detach().clone().requires_grad_() for name, t in inputs.items()}
    given = (leaves["x"], leaves["y"], leaves["scale"], leaves["bias"])
    row, col = function(*given, score, exclude_diagonal, groups)  # type: ignore[operator]
    total = torch.zeros((), device="cuda", dtype=torch.float64)
    for lse, grad in zip((row, col), grads, strict=True):
        if grad is not None:
            # Where there is no finite score the gradient is 0 by definition, and not what autograd makes of it.
            total = total + (lse.double() * grad)[lse.isfinite()].sum()
    wanted = {name: t for name, t in leaves.items() if t is not None}
    gradients = torch.autograd.grad(total, list(wanted.values()))
    named = {f"d{name}": gradient for name, gradient in zip(wanted, gradients, strict=True)}
    return {"row": row.detach(), "col": col.detach()} | named


def check(
    x: Tensor,
    y: Tensor | None = None,
    *,
    scale: float = 0.7,
    bias: Tensor | None = None,
    score: str = "dot",
    exclude_diagonal: bool = False,
    rows: bool = True,
    columns: bool = True,
    groups: Groups = NO_GROUPS,
) -> None:
    """Maximum and mean error at most twice torch's own at the same dtype, or a few units of rounding."""
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    n, m = x.shape[0], (x if y is None else y).shape[0]
    grads = (
        torch.rand(n, device="cuda", dtype=torch.float64) if rows else None,
        torch.rand(m, device="cuda", dtype=torch.float64) if columns else None,
    )
    inputs = {"x": x, "y": y, "scale": torch.tensor(scale, device="cuda", dtype=acc), "bias": bias}

    def at(dtype: torch.dtype) -> dict[str, Tensor | None]:
        return {name: None if t is None else t.to(dtype) for name, t in inputs.items()}

    kernel = results(ours, inputs, score, exclude_diagonal, grads, groups)
    torchs = results(dense, at(x.dtype), score, exclude_diagonal, grads, groups)
    truth = results(dense, at(torch.float64), score, exclude_diagonal, grads, groups)
    for name, expected in truth.items():
        value = kernel[name].double()
        finite = expected.isfinite()
        assert torch.equal(value[~finite], expected[~finite]), name
        if not finite.any():
            continue
        error = (value - expected)[finite].abs()
        torch_error = (torchs[name].double() - expected)[finite].abs()
        unit = 16 * torch.finfo(kernel[name].dtype).eps * expected[finite].abs().max()
        for kind in (torch.max, torch.mean):
            assert kind(error) <= 2 * kind(torch_error) + unit, f"{name}: {kind.__name__} {kind(error):.3g}"


def bias_for(m: int, dtype: torch.dtype) -> Tensor:
    bias = torch.linspace(-2, 2, m, device="cuda", dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    if m > 1:
        bias[1::5] = -math.inf
    return bias


def groups_for(n: int, count: int, seed: int) -> Tensor:
    """Equal in their lower 32 bits."""
    return (torch.randint(count, (n,), generator=torch.Generator().manual_seed(seed)) << 40).to("cuda")


@pytest.mark.parametrize("name", OPERATORS)
def test_the_kernels_are_in_use(name: str) -> None:
    """Else every other test here would test the torch reference."""
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mi_estimators::{name}", "CUDA")


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (31, 2), (129, 65), (1000, 777)])
def test_shapes(n: int, m: int, dtype: torch.dtype, score: str) -> None:
    check(points(n, 33, dtype), points(m, 33, dtype, 1), bias=bias_for(m, dtype), score=score)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 17, 64, 129, 768, 1024])
def test_dimensions(d: int, dtype: torch.dtype, score: str) -> None:
    check(points(130, d, dtype), points(70, d, dtype, 1), score=score, scale=2.0)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [2, 3, 200, 1000])
def test_points_paired_with_themselves(n: int, dtype: torch.dtype, score: str) -> None:
    check(points(n, 24, dtype), score=score, exclude_diagonal=True)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), [(2, 3), (129, 65), (1000, 777)])
def test_groups(n: int, m: int, dtype: torch.dtype, score: str) -> None:
    groups = groups_for(n, 4, 1), groups_for(m, 5, 2)
    x, y = points(n, 33, dtype), points(m, 33, dtype, 1)
    check(x, y, bias=bias_for(m, dtype), score=score, exclude_diagonal=True, groups=groups)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "count"), [(3, 2), (200, 4), (1000, 500)])
def test_groups_of_points_paired_with_themselves(n: int, count: int, dtype: torch.dtype, score: str) -> None:
    check(points(n, 24, dtype), score=score, groups=(groups_for(n, count, 1), None))


@pytest.mark.parametrize("score", PROFILES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_of_the_distance(dtype: torch.dtype, score: str) -> None:
    scale = 0.2 if COMPACT.get(score, (1,))[0] == 2 else 0.3  # all pairs are well inside the support
    groups = groups_for(300, 4, 1), groups_for(277, 5, 2)
    x, y = points(300, 33, dtype), points(277, 33, dtype, 1)
    check(x, y, bias=bias_for(277, dtype), score=score, scale=scale, exclude_diagonal=True, groups=groups)
    check(x, score=score, scale=scale, exclude_diagonal=True)


@pytest.mark.parametrize("score", COMPACT)
def test_outside_of_every_support(score: str) -> None:
    x = points(130, 5, torch.float32)
    x[7] = 100
    x.requires_grad_()
    row = mi.pairwise_lse(x, scale=1.0, score=score, exclude_diagonal=True)
    assert row[7] == -math.inf
    (dx,) = torch.autograd.grad(row[row.isfinite()].sum(), x)
    assert dx.isfinite().all()
    assert not dx[7].any()


def test_groups_of_one_each_are_the_excluded_diagonal() -> None:
    """To the bit: the same pairs are left out, and nothing else changes."""
    x, own, scale = points(300, 24, torch.float32), torch.arange(300, device="cuda"), torch.ones((), device="cuda")
    by_groups = ours(x, None, scale, None, "dot", False, (own, None))
    by_diagonal = ours(x, None, scale, None, "dot", True)
    assert all(torch.equal(a, b) for a, b in zip(by_groups, by_diagonal, strict=True))


@pytest.mark.parametrize(("rows", "columns"), [(True, False), (False, True)])
@pytest.mark.parametrize("self_mode", [False, True])
def test_one_direction(rows: bool, columns: bool, self_mode: bool) -> None:
    y = None if self_mode else points(70, 9, torch.float32, 1)
    check(points(140, 9, torch.float32), y, rows=rows, columns=columns, exclude_diagonal=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_temperature_on_the_sphere(dtype: torch.dtype) -> None:
    x = torch.nn.functional.normalize(points(300, 768, torch.float64), dim=1).to(dtype)
    check(x, x.clone(), scale=200.0)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_big_scores(scale: float) -> None:
    check(points(200, 16, torch.float32), points(130, 16, torch.float32, 1), scale=scale)


def test_no_finite_score() -> None:
    x = points(3, 4, torch.float32).requires_grad_()
    bias = torch.full((5,), -math.inf, device="cuda")
    row, col = ours(x, points(5, 4, torch.float32, 1), torch.ones((), device="cuda"), bias, "dot", False)
    assert (row == -math.inf).all()
    assert (col == -math.inf).all()
    (dx,) = torch.autograd.grad((row, col), x, (torch.ones_like(row), torch.ones_like(col)))
    assert (dx == 0).all()
    same = torch.zeros(3, dtype=torch.int64, device="cuda")
    row, _ = ours(x, None, torch.ones((), device="cuda"), None, "dot", False, (same, None))
    assert (row == -math.inf).all()
    (dx,) = torch.autograd.grad(row, x, torch.ones_like(row))
    assert (dx == 0).all()


def test_groups_must_be_beside_the_points() -> None:
    x, own = points(3, 4, torch.float32), torch.arange(3)
    with pytest.raises(ValueError, match="row_groups: want the device of x"):
        mi.pairwise_lse(x, row_groups=own)


def test_sharing_memory_is_not_being_paired_with_oneself() -> None:
    x = points(70, 8, torch.float32).requires_grad_()
    (actual,) = torch.autograd.grad(mi.pairwise_lse(x, x.detach()).sum(), x)
    (expected,) = torch.autograd.grad(mi.pairwise_lse(x, x.detach().clone()).sum(), x)
    assert torch.equal(actual, expected)


def test_strided_inputs() -> None:
    x, y = points(8, 60, torch.float32).T, points(70, 16, torch.float32, 1)[:, ::2]
    assert torch.equal(mi.pairwise_lse(x, y), mi.pairwise_lse(x.contiguous(), y.contiguous()))


@pytest.mark.parametrize("score", SCORES)
def test_gradcheck(score: str) -> None:
    x, y = points(5, 3, torch.float64).requires_grad_(), points(4, 3, torch.float64, 1).requires_grad_()
    scale = torch.tensor(0.5, dtype=torch.float64, device="cuda", requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, device="cuda").requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: ours(*inputs, score, True), (x, y, scale, bias))


def backward_arguments(n: int, m: int, d: int, dtype: torch.dtype, score: str) -> tuple:
    """For the backward operator, all gradients wanted."""
    x, y = points(n, d, dtype), points(m, d, dtype, 1)
    scale = torch.ones((), device="cuda")
    bias = bias_for(m, dtype)
    row, col = torch.ops.mi_estimators.pairwise_lse(x, y, scale, bias, None, None, score, False, True)
    options = (score, False, True, True, True, True)
    return torch.ones_like(row), torch.ones_like(col), row, col, x, y, scale, bias, None, None, *options


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_on_every_run(dtype: torch.dtype, score: str) -> None:
    arguments = backward_arguments(3000, 2000, 70, dtype, score)
    first = torch.ops.mi_estimators.pairwise_lse_backward(*arguments)
    for _ in range(5):
        again = torch.ops.mi_estimators.pairwise_lse_backward(*arguments)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert all(
            torch.equal(a, b)
            for a, b in zip(backward_arguments(3000, 2000, 70, dtype, score)[2:4], arguments[2:4], strict=True)
        )


@pytest.mark.parametrize("d", [8, 64, 300])
def test_float32_is_rounded_to_tf32_where_torch_may(d: int) -> None:
    """Forward and backward: errors of TF32's size, beside float32's without; as the forward was called."""
    x, y = points(500, d, torch.float32).requires_grad_(), points(400, d, torch.float32, 1).requires_grad_()
    scale = torch.full((), 5.0, device="cuda", requires_grad=True)

    def results(between: bool, within: bool) -> tuple[Tensor, ...]:
        torch.backends.cuda.matmul.allow_tf32 = within
        row, col = mi.pairwise_lse(x, y, scale=scale, columns=True)
        torch.backends.cuda.matmul.allow_tf32 = between
        return row, col, *torch.autograd.grad((row.square().sum() + col.square().sum()), (x, y, scale))

    wide = [t.detach().double().requires_grad_() for t in (x, y, scale)]
    row, col = mi.pairwise_lse(wide[0], wide[1], scale=wide[2], columns=True)
    truth = row, col, *torch.autograd.grad((row.square().sum() + col.square().sum()), wide)

    rounded, exact = results(False, True), results(True, False)
    for name, got, other, want in zip(("row", "col", "dx", "dy", "dscale"), rounded, exact, truth, strict=True):
        size = want.abs().max()
        error, other_error = ((value.double() - want).abs().mean() / size for value in (got, other))
        assert error <= 2**-9, name
        assert other_error <= 2**-19, name
        assert name == "dscale" or error >= 3 * other_error, name


def test_works_on_the_current_stream() -> None:
    x, y = points(500, 32, torch.float32), points(400, 32, torch.float32, 1)
    expected = mi.pairwise_lse(x, y, scale=2.0)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    late = torch.empty_like(x)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # x arrives late: a kernel on another stream would read the empty memory
        late.copy_(x)
        actual = mi.pairwise_lse(late, y, scale=2.0)
    stream.synchronize()
    assert torch.equal(actual, expected)


def test_needs_no_synchronisation() -> None:
    """A graph cannot be captured from code that waits for the GPU."""
    arguments = backward_arguments(300, 200, 40, torch.float32, "dot")
    x, y, scale, bias = arguments[4:8]
    forward = (x, y, scale, bias, None, None, "dot", False, True)
    expected = torch.ops.mi_estimators.pairwise_lse_backward(*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        row, col = torch.ops.mi_estimators.pairwise_lse(*forward)
        gradients = torch.ops.mi_estimators.pairwise_lse_backward(*arguments)
    row.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(row, arguments[2])
    assert torch.equal(col, arguments[3])
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


def test_memory_grows_with_the_points_and_not_with_the_pairs() -> None:
    n, d = 16384, 64
    x, y = points(n, d, torch.float32).requires_grad_(), points(n, d, torch.float32, 1).requires_grad_()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    row, col = ours(x, y, torch.ones((), device="cuda"), None, "dot", False)
    (row.sum() + col.sum()).backward()
    extra = torch.cuda.max_memory_allocated() - before
    assert extra < 200e6, f"{extra / 1e6:.0f} MB; the scores alone would be {4e-6 * n * n:.0f} MB"


def test_more_than_two_to_the_31_elements() -> None:
    n, d = (1 << 21) + 3, 1040
    free, _ = torch.cuda.mem_get_info()
    if free < 30 << 30:
        pytest.skip(f"needs 30 GiB of GPU memory, {free >> 30} are free")
    x = torch.zeros(n, d, dtype=torch.float16, device="cuda")
    x[-1, -1] = 1
    x.requires_grad_()
    y = torch.ones(2, d, dtype=torch.float16, device="cuda")
    row = mi.pairwise_lse(x, y)
    assert row[0].item() == pytest.approx(math.log(2))
    assert row[-1].item() == pytest.approx(1 + math.log(2))
    (dx,) = torch.autograd.grad(row[-1], x)
    assert (dx[-1] == 1).all()
    assert not dx[-2].any()


def test_second_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x, y = points(100, 8, torch.float32), points(90, 8, torch.float32, 1)
    assert torch.equal(mi.pairwise_lse(x.to("cuda:1"), y.to("cuda:1")).cpu(), mi.pairwise_lse(x, y).cpu())
