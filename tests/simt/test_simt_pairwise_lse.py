"""The CUDA kernels of pairwise_lse, run on the CPU, against fp64."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import pytest
import torch
from buffers import CODES, DTYPES, Buffers, assert_launched
from pairwise import profile_logits

SCORES = {"dot": 0, "sqeuclidean": 1}
# A scale for each, under which most points of these tests are within each other's support.
PROFILES = {
    "euclidean": (2, 1.5),
    "tophat": (3, 0.4),
    "epanechnikov": (4, 0.4),
    "biweight": (5, 0.4),
    "triweight": (6, 0.4),
    "triangular": (7, 0.5),
    "cosine": (8, 0.5),
}
SCORE_CODES = SCORES | {name: code for name, (code, _) in PROFILES.items()}


class Pairs(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "y", "scale", "bias", "row_groups", "col_groups")),
        *((name, ctypes.c_int64) for name in ("n", "m", "d")),
        ("score", ctypes.c_int32),
        ("exclude_diagonal", ctypes.c_bool),
        ("allow_tf32", ctypes.c_bool),
    )


class Forward(ctypes.Structure):
    _fields_ = (("pairs", Pairs), *((name, ctypes.c_void_p) for name in ("row_lse", "col_lse", "row_bias")))


BACKWARD_BUFFERS = ("row_lse", "col_lse", "grad_row", "grad_col", "dx", "dy", "dscale", "dbias")


class Backward(ctypes.Structure):
    _fields_ = (("pairs", Pairs), *((name, ctypes.c_void_p) for name in BACKWARD_BUFFERS))


@dataclass
class Problem:
    """One call: its inputs in the element type, and what is asked for."""

    n: int
    m: int
    d: int
    dtype: str = "f32"
    score: str = "dot"
    scale: float = 0.7
    bias: torch.Tensor | None = None
    row_groups: torch.Tensor | None = None
    col_groups: torch.Tensor | None = None
    exclude_diagonal: bool = False
    rows: bool = True
    columns: bool = True
    self_mode: bool = False
    spread: float = 1.0
    offset: float = 0.0
    seed: int = 0
    allow_tf32: bool = False
    in_place: bool = False  # x is read where it is, without a guard
    wanted: frozenset[str] = frozenset({"dx", "dy", "dscale", "dbias"})
    x: torch.Tensor = field(init=False)
    y: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        size = self.spread / self.d**0.5
        self.x = (normal(self.n, self.d) * size + self.offset).to(DTYPES[self.dtype])
        self.y = self.x if self.self_mode else (normal(self.m, self.d) * size + self.offset).to(DTYPES[self.dtype])
        self.grad_row = normal(self.n).to(self.accumulation) if self.rows else None
        self.grad_col = normal(self.m).to(self.accumulation) if self.columns else None
        if self.bias is not None:
            self.bias = self.bias.to(self.accumulation)

    @property
    def accumulation(self) -> torch.dtype:
        return torch.float64 if self.dtype == "f64" else torch.float32

    @property
    def outputs(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        point, acc = DTYPES[self.dtype], self.accumulation
        shapes = {
            "dx": ((self.n, self.d), point),
            "dy": ((self.m, self.d), point),
            "dscale": ((1,), acc),
            "dbias": ((self.m,), acc),
        }
        skipped = "dy" if self.self_mode else None
        return {name: shapes[name] for name in shapes if name in self.wanted and name != skipped}


def run(library: ctypes.CDLL, problem: Problem) -> dict[str, torch.Tensor]:
    """Forward and backward through the kernels. Checks every guard."""
    buffers = Buffers()
    give, take = buffers.give, buffers.take
    code = CODES[problem.dtype]
    acc = problem.accumulation
    x = problem.x.data_ptr() if problem.in_place else give("x", problem.x)
    y = None if problem.self_mode else give("y", problem.y)
    scale = give("scale", torch.tensor([problem.scale], dtype=acc))
    bias = give("bias", problem.bias)
    row_groups = give("row_groups", problem.row_groups)
    col_groups = row_groups if problem.self_mode else give("col_groups", problem.col_groups)
    sizes = (problem.n, problem.m, problem.d)
    options = (SCORE_CODES[problem.score], problem.exclude_diagonal, problem.allow_tf32)
    pairs = Pairs(x, y, scale, bias, row_groups, col_groups, *sizes, *options)

    forward = Forward(pairs, take("row_lse", (problem.n,), acc))
    if problem.columns:
        forward.col_lse = take("col_lse", (problem.m,), acc)
    space = buffers.space("forward space", library.forward_workspace(code, ctypes.byref(forward)))
    assert_launched(library, library.forward(code, ctypes.byref(forward), space))

    backward = Backward(pairs)
    if problem.grad_row is not None:
        backward.row_lse, backward.grad_row = forward.row_lse, give("grad_row", problem.grad_row)
    if problem.grad_col is not None:
        backward.col_lse, backward.grad_col = forward.col_lse, give("grad_col", problem.grad_col)
    for name, (shape, dtype) in problem.outputs.items():
        setattr(backward, name, take(name, shape, dtype))
    space = buffers.space("backward space", library.backward_workspace(code, ctypes.byref(backward)))
    assert_launched(library, library.backward(code, ctypes.byref(backward), space))

    buffers.check()
    names = ["row_lse", *(["col_lse"] if problem.columns else []), *problem.outputs]
    return {name: buffers[name].tensor.clone() for name in names}


@dataclass
class Evaluation:
    """What the op should give, and for each number the size of what is added up to make it, which rounding follows."""

    values: dict[str, torch.Tensor]
    sizes: dict[str, torch.Tensor]


def evaluate(problem: Problem, dtype: torch.dtype) -> Evaluation:
    """The formulas of the op as they stand, in one dtype, with every pair in memory."""
    x, y = problem.x.to(dtype), problem.y.to(dtype)
    difference = x[:, None] - y[None]
    scale = torch.tensor([problem.scale], dtype=problem.accumulation).to(dtype)
    pull, by_scale = torch.ones(()), x @ y.T if problem.score == "dot" else -difference.square().sum(-1)
    s = scale * by_scale
    if problem.score in PROFILES:
        square = (-by_scale).requires_grad_()
        scales = scale.repeat(*square.shape).requires_grad_()
        s = profile_logits(square, scales, problem.score)
        slope, by_scale = torch.autograd.grad(s[s.isfinite()].sum(), (square, scales))
        s, pull = s.detach(), -slope / scale
    if problem.bias is not None:
        s = s + problem.bias.to(dtype)
    if problem.exclude_diagonal:
        s = s.masked_fill(torch.eye(problem.n, problem.m, dtype=torch.bool), -torch.inf)
    if problem.row_groups is not None:
        col_groups = problem.row_groups if problem.self_mode else problem.col_groups
        s = s.masked_fill(problem.row_groups[:, None] == col_groups, -torch.inf)
    row_lse, col_lse = s.logsumexp(1), s.logsumexp(0)
    weights = torch.zeros_like(s)
    if problem.grad_row is not None:
        weights += problem.grad_row.to(dtype)[:, None] * (s - row_lse[:, None]).exp().nan_to_num(0)
    if problem.grad_col is not None:
        weights += problem.grad_col.to(dtype) * (s - col_lse).exp().nan_to_num(0)

    def gradients(
        w: torch.Tensor, pull: torch.Tensor, by_scale: torch.Tensor, ends: tuple[torch.Tensor, ...]
    ) -> dict[str, torch.Tensor]:
        """`ends` is y and x for the dot product, and for a distance the directions of each pair from x and from y."""
        if problem.score == "dot":
            dx, dy = w @ ends[0], w.T @ ends[1]
        else:
            pulled = 2 * (w * pull)[:, :, None]
            dx, dy = (pulled * ends[0]).sum(1), (pulled * ends[1]).sum(0)
        points = {"dx": scale * (dx + dy)} if problem.self_mode else {"dx": scale * dx, "dy": scale * dy}
        return points | {"dscale": (w * by_scale).sum().view(1), "dbias": w.sum(0)}

    ends = (y, x) if problem.score == "dot" else (-difference, difference)
    values = {"row_lse": row_lse} | ({"col_lse": col_lse} if problem.columns else {})
    sizes = {name: value.abs() + 1 for name, value in values.items()}
    values |= gradients(weights, pull, by_scale, ends)
    # A score is off by units of its own size, and its weight by as much in proportion.
    inexact = weights.abs() * (1 + s.abs().nan_to_num(posinf=0))
    absolute = gradients(inexact, pull.abs(), by_scale.abs(), tuple(end.abs() for end in ends))
    sizes |= {name: value.abs() for name, value in absolute.items()}
    return Evaluation(values, sizes)


def check(library: ctypes.CDLL, problem: Problem) -> dict[str, torch.Tensor]:
    """Maximum and mean error at most twice torch's own, at the accumulation dtype and for the same inputs.

    One unit of rounding of what is added up is granted on top: small problems torch can get right by luck. For fp64
    there is no finer truth at hand, and a few units, times what the scores' own size costs, must do.
    """
    actual = run(library, problem)
    truth = evaluate(problem, torch.float64)
    own = evaluate(problem, problem.accumulation)
    rows = truth.values["row_lse"]
    largest = rows[rows.isfinite()].abs().sum() + 1
    for name, value in actual.items():
        expected = truth.values[name]
        finite = expected.isfinite()
        assert torch.equal(value.double()[~finite], expected[~finite]), f"{name}: infinities differ"
        if not finite.any():
            continue
        rounded = own.values[name].to(value.dtype).double()[finite]
        expected = expected[finite]
        error, torch_error = (value.double()[finite] - expected).abs(), (rounded - expected).abs()
        unit = torch.finfo(problem.accumulation).eps * truth.sizes[name][finite]
        if value.dtype != problem.accumulation:
            unit = unit + torch.finfo(value.dtype).eps * expected.abs()
        if problem.dtype == "f64":
            unit = 8 * largest * unit
        for kind in (torch.max, torch.mean):
            allowed = 2 * kind(torch_error) + kind(unit)
            assert kind(error) <= allowed, f"{name}: {kind.__name__} error {kind(error):.3g} > {allowed:.3g}"
    return actual


def profile_problem(score: str, n: int, m: int, d: int, dtype: str = "f32", **options: object) -> Problem:
    return Problem(n, m, d, dtype, score, PROFILES[score][1], **options)


@pytest.mark.parametrize("score", PROFILES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_profiles(kernels: ctypes.CDLL, dtype: str, score: str) -> None:
    check(kernels, profile_problem(score, 67, 77, 17, dtype, bias=bias_for(77), exclude_diagonal=True))
    groups = {"row_groups": groups_for(31, 4, 1), "col_groups": groups_for(66, 5, 2)}
    check(kernels, profile_problem(score, 31, 66, 3, dtype, **groups))
    check(kernels, profile_problem(score, 65, 65, 9, dtype, exclude_diagonal=True, self_mode=True))


@pytest.mark.parametrize("score", PROFILES)
def test_profiles_in_one_direction(kernels: ctypes.CDLL, score: str) -> None:
    check(kernels, profile_problem(score, 37, 70, 5, bias=bias_for(70), columns=False))
    check(kernels, profile_problem(score, 70, 37, 5, rows=False, wanted=frozenset({"dy", "dscale"})))


@pytest.mark.parametrize("score", [score for score in PROFILES if score != "euclidean"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_profiles_of_duplicates_and_far_points(kernels: ctypes.CDLL, dtype: str, score: str) -> None:
    problem = profile_problem(score, 34, 66, 4, dtype)
    problem.x[:20], problem.y[:20] = problem.x[0].clone(), problem.x[0].clone()
    problem.x[33], problem.y[65] = 100, -100
    results = check(kernels, problem)
    assert results["row_lse"][33] == results["col_lse"][65] == -torch.inf
    assert not results["dx"][33].any()
    assert not results["dy"][65].any()


SHAPES = [(1, 1), (1, 2), (2, 1), (3, 31), (31, 3), (65, 65), (129, 77), (77, 129)]
BIAS = "bias"


def bias_for(m: int) -> torch.Tensor:
    """Some of it -inf, but not the only entry there may be."""
    bias = torch.linspace(-2, 2, m, dtype=torch.float64)
    if m > 1:
        bias[1::5] = -torch.inf
    return bias


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_shapes(kernels: ctypes.CDLL, n: int, m: int, dtype: str, score: str) -> None:
    check(kernels, Problem(n, m, 17, dtype, score, bias=bias_for(m), exclude_diagonal=min(n, m) > 1))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 8, 17, 64, 128, 129, 256, 512, 768])
def test_dimensions(kernels: ctypes.CDLL, d: int, dtype: str, score: str) -> None:
    check(kernels, Problem(33, 66, d, dtype, score))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [2, 3, 65, 131])
def test_points_paired_with_themselves(kernels: ctypes.CDLL, n: int, dtype: str, score: str) -> None:
    problem = Problem(n, n, 9, dtype, score, bias=bias_for(n), exclude_diagonal=True, self_mode=True)
    check(kernels, problem)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("bias", [None, BIAS])
@pytest.mark.parametrize("exclude_diagonal", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("self_mode", [False, True])
def test_options(
    kernels: ctypes.CDLL,
    score: str,
    bias: str | None,
    exclude_diagonal: bool,
    rows: bool,
    columns: bool,
    self_mode: bool,
) -> None:
    n, m = (70, 70) if self_mode else (37, 70)
    given = None if bias is None else bias_for(m)
    check(
        kernels,
        Problem(
            n,
            m,
            5,
            score=score,
            bias=given,
            exclude_diagonal=exclude_diagonal,
            rows=rows,
            columns=columns,
            self_mode=self_mode,
        ),
    )


@pytest.mark.parametrize("self_mode", [False, True])
@pytest.mark.parametrize("wanted", ["dx", "dy", "dscale", "dbias", "dx dscale", "dx dbias", "dy dscale"])
def test_gradients_alone_are_the_same(kernels: ctypes.CDLL, wanted: str, self_mode: bool) -> None:
    problem = Problem(70, 70, 5, bias=bias_for(70), self_mode=self_mode, wanted=frozenset(wanted.split()))
    check(kernels, problem)


@pytest.mark.parametrize("dtype", ["f64", "f32"])
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_big_scores(kernels: ctypes.CDLL, scale: float, dtype: str) -> None:
    check(kernels, Problem(65, 70, 8, dtype, scale=scale, spread=1.0))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_low_temperature_on_the_sphere(kernels: ctypes.CDLL, dtype: str) -> None:
    problem = Problem(65, 66, 768, dtype, scale=1 / 0.005)
    problem.x = torch.nn.functional.normalize(problem.x.double(), dim=1).to(problem.x.dtype)
    problem.y = torch.nn.functional.normalize(problem.y.double(), dim=1).to(problem.y.dtype)
    problem.y[:65] = problem.x  # positives: one score of 200 in each row
    check(kernels, problem)


def test_near_points_far_from_the_origin(kernels: ctypes.CDLL) -> None:
    """The squared distance must not cancel."""
    check(kernels, Problem(40, 40, 16, score="sqeuclidean", offset=300.0, spread=0.1, scale=20.0, self_mode=True))


def test_rows_and_columns_without_a_finite_score(kernels: ctypes.CDLL) -> None:
    problem = Problem(3, 3, 4, bias=torch.full((3,), -torch.inf, dtype=torch.float64))
    results = check(kernels, problem)
    assert (results["row_lse"] == -torch.inf).all()
    for name in ("dx", "dy", "dscale", "dbias"):
        assert (results[name] == 0).all(), name
    # The single pair is excluded.
    results = check(kernels, Problem(1, 1, 4, exclude_diagonal=True))
    assert results["row_lse"].item() == -torch.inf
    assert (results["dx"] == 0).all()


def groups_for(n: int, count: int, seed: int) -> torch.Tensor:
    """Some of them far beyond 32 bits, where their low halves are equal."""
    return torch.randint(count, (n,), generator=torch.Generator().manual_seed(seed)) << 40


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), [(2, 3), (31, 65), (129, 77), (77, 200)])
def test_groups(kernels: ctypes.CDLL, n: int, m: int, dtype: str, score: str) -> None:
    groups = {"row_groups": groups_for(n, 4, 1), "col_groups": groups_for(m, 5, 2)}
    check(kernels, Problem(n, m, 17, dtype, score, bias=bias_for(m), exclude_diagonal=True, **groups))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "count"), [(3, 2), (65, 3), (131, 100)])
def test_groups_of_points_paired_with_themselves(
    kernels: ctypes.CDLL, n: int, count: int, dtype: str, score: str
) -> None:
    check(kernels, Problem(n, n, 9, dtype, score, row_groups=groups_for(n, count, 1), self_mode=True))


@pytest.mark.parametrize(("rows", "columns"), [(True, False), (False, True)])
@pytest.mark.parametrize("self_mode", [False, True])
def test_groups_in_one_direction(kernels: ctypes.CDLL, rows: bool, columns: bool, self_mode: bool) -> None:
    groups = {"row_groups": groups_for(70, 4, 1), "col_groups": None if self_mode else groups_for(70, 4, 2)}
    check(kernels, Problem(70, 70, 5, rows=rows, columns=columns, self_mode=self_mode, **groups))


@pytest.mark.parametrize("self_mode", [False, True])
def test_groups_of_one_each_are_the_excluded_diagonal(kernels: ctypes.CDLL, self_mode: bool) -> None:
    """To the bit: the same pairs are left out, and nothing else changes."""
    own = torch.arange(131)
    groups = {"row_groups": own, "col_groups": None if self_mode else own}
    by_groups = run(kernels, Problem(131, 131, 9, self_mode=self_mode, **groups))
    by_diagonal = run(kernels, Problem(131, 131, 9, self_mode=self_mode, exclude_diagonal=True))
    for name, value in by_diagonal.items():
        assert torch.equal(by_groups[name], value), name


@pytest.mark.parametrize("score", SCORES)
def test_a_row_and_a_column_wholly_left_out_by_their_groups(kernels: ctypes.CDLL, score: str) -> None:
    rows, cols = torch.zeros(70, dtype=torch.int64), torch.ones(131, dtype=torch.int64)
    problem = Problem(70, 131, 5, score=score, row_groups=rows, col_groups=cols)
    rows[66] = 1  # that row meets no column but those of its own group
    results = check(kernels, problem)
    assert (results["row_lse"] == -torch.inf).nonzero().tolist() == [[66]]
    assert (results["dx"][66] == 0).all()

    everything = Problem(70, 131, 5, score=score, row_groups=rows * 0, col_groups=cols * 0)
    results = check(kernels, everything)
    assert (results["row_lse"] == -torch.inf).all()
    assert (results["col_lse"] == -torch.inf).all()
    for name in ("dx", "dy", "dscale", "dbias"):
        assert (results[name] == 0).all(), name


def test_a_nan_is_not_lost(kernels: ctypes.CDLL) -> None:
    problem = Problem(5, 70, 4)
    problem.y[3, 2] = torch.nan
    results = run(kernels, problem)
    assert results["row_lse"].isnan().all()
    assert results["col_lse"].isnan().tolist() == [j == 3 for j in range(70)]
    problem = Problem(1, 1, 1)
    problem.x[0, 0] = torch.nan
    assert run(kernels, problem)["row_lse"].isnan().all()


def test_infinite_scores(kernels: ctypes.CDLL) -> None:
    problem = Problem(2, 3, 1)
    problem.x[:], problem.y[:] = torch.tensor([[1.0], [-1.0]]), torch.tensor([[torch.inf], [1.0], [2.0]])
    results = run(kernels, problem)
    assert results["row_lse"][0] == torch.inf
    assert results["row_lse"][1].isfinite()


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("d", [8, 129])
def test_errors_over_many_problems_are_as_small_as_torchs(kernels: ctypes.CDLL, d: int, score: str) -> None:
    """With nothing granted on top. One number proves little, so the errors of several draws are taken together."""
    errors: dict[str, list[list[torch.Tensor]]] = {}
    for seed in range(10):
        problem = Problem(65, 70, d, score=score, scale=2.0, seed=seed)
        truth, own = evaluate(problem, torch.float64).values, evaluate(problem, torch.float32).values
        for name, value in run(kernels, problem).items():
            pair = errors.setdefault(name, [[], []])
            pair[0].append((value.double() - truth[name]).abs().flatten())
            pair[1].append((own[name].double() - truth[name]).abs().flatten())
    for name, (kernel, reference) in errors.items():
        kernel_error, torch_error = torch.cat(kernel), torch.cat(reference)
        assert kernel_error.mean() <= 2 * torch_error.mean(), name
        assert kernel_error.max() <= 2 * torch_error.max(), name


@pytest.mark.parametrize("self_mode", [False, True])
def test_many_blocks(kernels: ctypes.CDLL, self_mode: bool) -> None:
    """More tiles than a forward grid has strips and splits: blocks own several."""
    n, m = (2200, 2200) if self_mode else (2100, 2200)
    check(kernels, Problem(n, m, 2, bias=bias_for(m), exclude_diagonal=self_mode, self_mode=self_mode))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_again_and_in_any_order_of_threads(kernels: ctypes.CDLL, dtype: str, score: str) -> None:
    """A missing barrier would show in the second comparison."""
    problem = Problem(129, 77, 40, dtype, score, bias=bias_for(77))
    first, again = run(kernels, problem), run(kernels, problem)
    kernels.set_schedule(1)
    try:
        reverse = run(kernels, problem)
    finally:
        kernels.set_schedule(0)
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
        assert torch.equal(value, reverse[name]), name


def test_invalid_calls_are_refused(kernels: ctypes.CDLL) -> None:
    for pairs in (Pairs(1, 1, 1, None, None, None, 0, 3, 4), Pairs(1, 1, 1, None, 1, None, 3, 3, 4)):
        forward = Forward(pairs, 1)
        assert kernels.forward(CODES["f32"], ctypes.byref(forward), ctypes.c_void_p(1)) == 1
    backward = Backward(Pairs(1, 1, 1, None, None, None, 3, 3, 4), grad_row=1)
    assert kernels.backward(CODES["f32"], ctypes.byref(backward), ctypes.c_void_p(1)) == 1
