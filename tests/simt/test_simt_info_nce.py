"""The CUDA kernels of info_nce, run on the CPU, against fp64."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from buffers import CODES, DTYPES, Buffers, assert_launched
from test_simt_pairwise_lse import groups_for

Tensors = dict[str, torch.Tensor]

OUTPUTS = ("dx", "dy", "dscale")
# What goes through the tensor cores in each form of the sweeps, and what does not.
FORMS = [("bf16", 1), ("bf16", 17), ("bf16", 128), ("bf16", 300), ("f16", 64), ("f32", 8), ("f32", 40), ("f64", 5)]


class Args(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "y", "scale", "weights", "groups")),
        *((name, ctypes.c_int64) for name in ("n", "d")),
        *((name, ctypes.c_bool) for name in ("both", "symmetric", "normalize", "decoupled", "allow_tf32")),
        *((name, ctypes.c_double) for name in ("factor", "scale_value")),
        *((name, ctypes.c_void_p) for name in ("loss", *OUTPUTS)),
    )


@dataclass
class Problem:
    """One call: its inputs in the element type, and what is asked for."""

    n: int
    d: int
    dtype: str = "f32"
    scale: float = 5.0
    weights: torch.Tensor | None = None
    groups: torch.Tensor | None = None
    both: bool = False
    symmetric: bool = True
    normalize: bool = True
    decoupled: bool = False
    factor: float = 0.37
    wanted: tuple[str, ...] = OUTPUTS
    likeness: float = 0.5  # of the two points of a pair
    scale_on_host: bool = False
    allow_tf32: bool = False
    seed: int = 0
    x: torch.Tensor = field(init=False)
    y: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        x, other = (torch.randn(self.n, self.d, generator=generator, dtype=torch.float64) for _ in range(2))
        size = 1 if self.normalize else self.d**-0.5
        self.x = (size * x).to(DTYPES[self.dtype])
        self.y = (size * (self.likeness * x + (1 - self.likeness) * other)).to(DTYPES[self.dtype])
        if self.weights is not None:
            self.weights = self.weights.to(self.accumulation)

    @property
    def accumulation(self) -> torch.dtype:
        return torch.float64 if self.dtype == "f64" else torch.float32

    @property
    def outputs(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        points = ((self.n, self.d), DTYPES[self.dtype])
        return {name: points if name != "dscale" else ((1,), self.accumulation) for name in self.wanted}


def run(library: ctypes.CDLL, problem: Problem) -> Tensors:
    """The operator through the kernels. Checks every guard."""
    buffers = Buffers()
    give, take = buffers.give, buffers.take
    code, acc = CODES[problem.dtype], problem.accumulation
    args = Args(
        give("x", problem.x),
        give("y", problem.y),
        None if problem.scale_on_host else give("scale", torch.tensor([problem.scale], dtype=acc)),
        give("weights", problem.weights),
        give("groups", problem.groups),
        *(problem.n, problem.d, problem.both, problem.symmetric, problem.normalize, problem.decoupled),
        problem.allow_tf32,
        *(problem.factor, problem.scale, take("loss", (1,), acc)),
    )
    for name, (shape, dtype) in problem.outputs.items():
        setattr(args, name, take(name, shape, dtype))
    space = buffers.space("space", library.info_nce_workspace(code, ctypes.byref(args)))
    assert_launched(library, library.info_nce(code, ctypes.byref(args), space))
    buffers.check()
    return {name: buffers[name].tensor.clone() for name in ("loss", *problem.outputs)}


def as_stored(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rounded as numbers of the type, at a scale that suits its range."""
    exponent = 10 - values.abs().max().clamp(min=1e-30).log2().ceil()
    return (values * 2**exponent).to(dtype).to(values.dtype) / 2**exponent


def evaluate(problem: Problem, dtype: torch.dtype, *, rounded: bool) -> tuple[Tensors, Tensors]:
    """The formulas of the op as they stand, in one dtype, with every pair in memory; and the size of what they add.

    ``rounded``: the operands of the two products are rounded to the element type.
    """
    element = DTYPES[problem.dtype]
    points = torch.stack([problem.x, problem.y]).to(dtype)
    norms = points.norm(dim=2, keepdim=True).clamp(min=1e-12) if problem.normalize else torch.ones((), dtype=dtype)
    exact = points / norms
    p, q = exact.to(element).to(dtype) if rounded else exact
    scale = torch.tensor(problem.scale, dtype=problem.accumulation).to(dtype)
    groups = torch.arange(problem.n) if problem.groups is None else problem.groups
    weights = torch.ones(problem.n, dtype=dtype) if problem.weights is None else problem.weights.to(dtype)
    rows, cols = (torch.cat([p, q]),) * 2 if problem.both else (p, q)
    left_out = groups[:, None] == groups
    if problem.both:
        left_out = left_out.repeat(2, 2)
    left_out.fill_diagonal_(True)
    products = rows @ cols.T
    s = (scale * products).masked_fill(left_out, -torch.inf)

    positives = (p * q).sum(dim=1)
    row, col = s.logsumexp(dim=1), s.logsumexp(dim=0)
    negatives = [row[: problem.n], row[problem.n :]] if problem.both else [row, col] if problem.symmetric else [row]
    loss, slopes, sizes_of_slopes = torch.zeros((), dtype=dtype), [], []
    for lse in negatives:
        gap = lse - scale * positives
        loss = loss + (weights * (gap if problem.decoupled else torch.logaddexp(gap, torch.zeros_like(gap)))).sum()
        slope = problem.factor * weights * (torch.ones_like(gap) if problem.decoupled else gap.sigmoid())
        slopes.append(slope)
        # A slope is off in proportion by what its gap is off, which is units of what the gap is the difference of.
        sizes_of_slopes.append(slope * (1 + lse.abs().nan_to_num(posinf=0) + (scale * positives).abs()))

    def of_pairs(slopes: list[torch.Tensor]) -> torch.Tensor:
        pairs = (torch.cat(slopes) if problem.both else slopes[0])[:, None] * (s - row[:, None]).exp().nan_to_num(0)
        if problem.symmetric and not problem.both:
            pairs = pairs + slopes[1] * (s - col).exp().nan_to_num(0)
        return pairs

    pairs = of_pairs(slopes)
    total, size_of_total = sum(slopes)[:, None], sum(sizes_of_slopes)[:, None]
    rounded_pairs = as_stored(pairs, element) if rounded else pairs
    inexact = of_pairs(sizes_of_slopes) + pairs * s.abs().nan_to_num(posinf=0)

    def prepared(w: torch.Tensor, p: torch.Tensor, q: torch.Tensor, of_positives: torch.Tensor) -> torch.Tensor:
        """Gradients at p and q, of weights of the negatives and of the positives."""
        if problem.both:
            z = torch.cat([p, q])
            both = scale * (w + w.T) @ z
            return torch.stack([both[: problem.n], both[problem.n :]]) + scale * of_positives * torch.stack([q, p])
        return scale * torch.stack([w @ q + of_positives * q, w.T @ p + of_positives * p])

    gradients = prepared(rounded_pairs, p, q, -total)
    sizes = prepared(inexact, p.abs(), q.abs(), size_of_total)
    if problem.normalize:
        gradients = (gradients - (gradients * exact).sum(dim=2, keepdim=True) * exact) / norms
        sizes = (sizes + (sizes * exact.abs()).sum(dim=2, keepdim=True) * exact.abs()) / norms
    from_negatives = pairs * products
    values = {
        "loss": (problem.factor * loss).view(1),
        "dx": gradients[0],
        "dy": gradients[1],
        "dscale": (from_negatives.sum() - (total[:, 0] * positives).sum()).view(1),
    }
    terms = (inexact * products).abs().sum() + (size_of_total[:, 0] * positives).abs().sum()
    size_of_loss = problem.factor * (weights * (1 + row.abs().nan_to_num(posinf=0)[: problem.n] + scale)).sum()
    return values, {"loss": size_of_loss.view(1), "dx": sizes[0], "dy": sizes[1], "dscale": terms.view(1)}


def check(library: ctypes.CDLL, problem: Problem) -> Tensors:
    """Maximum and mean error at most twice torch's own, for the same inputs and roundings of the products' operands.

    One unit of rounding of what is added up is granted on top: small problems torch can get right by luck. For fp64
    there is no finer truth at hand, and some units must do.
    """
    actual = run(library, problem)
    truth, sizes = evaluate(problem, torch.float64, rounded=False)
    own, _ = evaluate(problem, problem.accumulation, rounded=True)
    for name, value in actual.items():
        expected = truth[name]
        error = (value.double() - expected).abs()
        torch_error = (own[name].to(value.dtype).double() - expected).abs()
        unit = torch.finfo(problem.accumulation).eps * sizes[name]
        if value.dtype != problem.accumulation:
            unit = unit + torch.finfo(value.dtype).eps * expected.abs()
        if problem.dtype == "f64":
            unit = 32 * unit
        for kind in (torch.max, torch.mean):
            allowed = 2 * kind(torch_error) + kind(unit)
            assert kind(error) <= allowed, f"{name}: {kind.__name__} error {kind(error):.3g} > {allowed:.3g}"
    return actual


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
def test_the_truth_is_autograds(both: bool, decoupled: bool) -> None:
    """The formulas above, against derivatives of the loss as one writes it."""
    problem = Problem(7, 4, "f64", both=both, decoupled=decoupled, weights=torch.rand(7), groups=groups_for(7, 4, 0))
    x, y = problem.x.clone().requires_grad_(), problem.y.clone().requires_grad_()
    scale = torch.tensor(problem.scale, dtype=torch.float64, requires_grad=True)
    p, q = torch.nn.functional.normalize(x), torch.nn.functional.normalize(y)
    same = problem.groups[:, None] == problem.groups
    loss = torch.zeros((), dtype=torch.float64)
    for anchors, others in ((p, q), (q, p)):
        candidates = torch.cat([others, anchors]) if both else others
        excluded = same.repeat(1, 2) if both else same
        scores = (scale * anchors @ candidates.T).masked_fill(excluded, -torch.inf)
        positive = scale * (anchors * others).sum(dim=1)
        if not decoupled:
            scores = torch.cat([positive[:, None], scores], dim=1)
        loss = loss + problem.factor * (problem.weights * (scores.logsumexp(dim=1) - positive)).sum()
    loss.backward()
    values, _ = evaluate(problem, torch.float64, rounded=False)
    for name, value in {"loss": loss, "dx": x.grad, "dy": y.grad, "dscale": scale.grad}.items():
        torch.testing.assert_close(values[name], value.view(values[name].shape), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "d"), FORMS)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("scale", [5.0, 100.0])  # without a shift, and with one
def test_forms(kernels: ctypes.CDLL, dtype: str, d: int, both: bool, scale: float) -> None:
    check(kernels, Problem(70, d, dtype, scale=scale, both=both))


@pytest.mark.parametrize("d", [8, 40, 130])
@pytest.mark.parametrize("both", [False, True])
def test_one_tf32_product_where_it_is_allowed(kernels: ctypes.CDLL, d: int, both: bool) -> None:
    """Errors larger than float's, within what rounding unit vectors to 11 bits can do: see test_simt_tf32."""
    problem = Problem(70, d, both=both)
    off = (1 + 2.0**-11) ** 2 - 1
    bound = off + math.expm1(2 * off * problem.scale)
    truth, sizes = evaluate(problem, torch.float64, rounded=False)
    exact, allowed = run(kernels, problem), run(kernels, replace(problem, allow_tf32=True))
    for name, value in allowed.items():
        error, without = ((found.double() - truth[name]).abs() for found in (value, exact[name]))
        assert (error <= 2 * bound * sizes[name]).all(), f"{name}: {float((error / sizes[name]).max()):.3g}"
        if name in ("dx", "dy"):  # one number can be right by luck
            assert error.mean() >= 3 * without.mean(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 8, 17, 64, 128, 129, 256, 512, 768])
def test_dimensions(kernels: ctypes.CDLL, d: int, dtype: str) -> None:
    check(kernels, Problem(67, d, dtype))


@pytest.mark.parametrize("n", [1, 2, 3, 31, 129, 200])
@pytest.mark.parametrize("dtype", ["bf16", "f32", "f64"])
@pytest.mark.parametrize("mode", ["one side", "symmetric", "both"])
def test_sizes(kernels: ctypes.CDLL, n: int, dtype: str, mode: str) -> None:
    check(kernels, Problem(n, 40, dtype, symmetric=mode == "symmetric", both=mode == "both"))


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32", "f64"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
def test_weights_and_groups(kernels: ctypes.CDLL, dtype: str, both: bool, grouped: bool, decoupled: bool) -> None:
    weights = torch.linspace(0, 2, 67)
    groups = groups_for(67, 9, 1) if grouped else None
    check(kernels, Problem(67, 33, dtype, both=both, decoupled=decoupled, weights=weights, groups=groups))


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize("d", [40, 37])  # rows that are read where they are, and rows that are copied
@pytest.mark.parametrize("both", [False, True])
def test_points_as_they_are(kernels: ctypes.CDLL, dtype: str, d: int, both: bool) -> None:
    check(kernels, Problem(70, d, dtype, normalize=False, both=both))


@pytest.mark.parametrize("dtype", ["bf16", "f32", "f64"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("wanted", [(), ("dx",), ("dy",), ("dscale",), ("dx", "dscale"), ("dx", "dy")])
def test_what_is_asked_for_alone_is_the_same(
    kernels: ctypes.CDLL, dtype: str, both: bool, wanted: tuple[str, ...]
) -> None:
    whole = run(kernels, Problem(70, 40, dtype, both=both))
    some = run(kernels, Problem(70, 40, dtype, both=both, wanted=wanted))
    for name, value in some.items():
        # Fewer blocks have longer parts: sums in another order.
        torch.testing.assert_close(value.double(), whole[name].double(), rtol=0.01 if dtype == "bf16" else 1e-5, atol=0)


@pytest.mark.parametrize("dtype", ["bf16", "f32", "f64"])
@pytest.mark.parametrize("both", [False, True])
def test_a_scale_on_the_host_is_the_same(kernels: ctypes.CDLL, dtype: str, both: bool) -> None:
    problem = Problem(70, 40, dtype, both=both, scale=100 / 7)
    on_device = run(kernels, problem)
    problem.scale_on_host = True
    for name, value in run(kernels, problem).items():
        assert torch.equal(value, on_device[name]), name


def test_small_losses_keep_their_digits(kernels: ctypes.CDLL) -> None:
    """Pairs that are told apart: a loss of 1e-6 and below, which a log-sum-exp with the positive would round away."""
    problem = Problem(16, 40, "f32", scale=30.0, likeness=1.0)
    found = check(kernels, problem)
    truth, _ = evaluate(problem, torch.float64, rounded=False)
    assert truth["loss"].item() < 1e-4
    for name in ("loss", "dscale"):
        torch.testing.assert_close(found[name].double(), truth[name], rtol=2e-5, atol=0)


@pytest.mark.parametrize("dtype", ["bf16", "f32", "f64"])
def test_a_point_without_length(kernels: ctypes.CDLL, dtype: str) -> None:
    problem = Problem(5, 40, dtype, wanted=("dy", "dscale"))
    problem.x[2] = 0
    check(kernels, problem)


@pytest.mark.parametrize("dtype", ["bf16", "f32", "f64"])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_nan_is_not_lost(kernels: ctypes.CDLL, dtype: str, normalize: bool) -> None:
    problem = Problem(70, 40, dtype, normalize=normalize)
    problem.y[3, 7] = torch.nan
    found = run(kernels, problem)
    assert found["loss"].isnan().all()
    assert found["dx"].isnan().any()
    assert found["dy"][3].isnan().all()


def test_many_points(kernels: ctypes.CDLL) -> None:
    """More anchors than the blocks take at once, more parts than lanes."""
    check(kernels, Problem(2180, 8, "bf16", wanted=()))


@pytest.mark.parametrize("dtype", ["bf16", "f32", "f64"])
@pytest.mark.parametrize("both", [False, True])
def test_same_bits_in_any_order_of_threads(kernels: ctypes.CDLL, dtype: str, both: bool) -> None:
    problem = Problem(131, 40, dtype, both=both)
    first = run(kernels, problem)
    kernels.set_schedule(1)
    try:
        second = run(kernels, problem)
    finally:
        kernels.set_schedule(0)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("wanted", "launches"), [(OUTPUTS, 5), ((), 4)])
def test_launches(kernels: ctypes.CDLL, both: bool, wanted: tuple[str, ...], launches: int) -> None:
    before = kernels.launches()
    run(kernels, Problem(70, 128, "bf16", both=both, wanted=wanted))
    assert kernels.launches() - before == launches


def test_invalid_calls_are_refused(kernels: ctypes.CDLL) -> None:
    assert kernels.info_nce(CODES["bf16"], ctypes.byref(Args()), None) == 1
