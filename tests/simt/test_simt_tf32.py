"""float32 on tensor cores where one TF32 product is allowed: as exact as that rounding, and nothing else changes."""

from __future__ import annotations

import ctypes
import math
from dataclasses import replace

import pytest
import torch
from buffers import DTYPES
from test_simt_pairwise_lse import PROFILES, Problem, evaluate, run
from torch import Tensor

SIZES = [8, 33, 64, 129, 300]  # less than a chunk of 32 coordinates, a bit of a second one, two, and more than four
UNIT = 2.0**-11  # TF32 keeps 11 significant bits: a number is rounded by this much at most, in proportion
EPS = torch.finfo(torch.float32).eps


def tf32(values: Tensor) -> Tensor:
    """Rounded to TF32, ties away from zero, as float64."""
    bits = values.float().contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).double()


def problem_of(form: str, d: int) -> Problem:
    if form == "self":
        return Problem(60, 60, d, scale=0.5, exclude_diagonal=True, self_mode=True, allow_tf32=True)
    scale = 64.0 if form == "shifted" else 0.5
    return Problem(70, 60, d, scale=scale, bias=torch.linspace(-1, 1, 60), exclude_diagonal=True, allow_tf32=True)


FORMS = ["plain", "shifted", "self"]


def weights(problem: Problem, q: Tensor) -> tuple[Tensor, Tensor]:
    """The scores, and the weights of the pairs in the gradients."""
    s = problem.scale * q + (0.0 if problem.bias is None else problem.bias.double())
    if problem.exclude_diagonal:
        s = s.masked_fill(torch.eye(problem.n, problem.m, dtype=torch.bool), -torch.inf)
    by_rows = problem.grad_row.double()[:, None] * (s - s.logsumexp(1, keepdim=True)).exp()
    return s, by_rows + problem.grad_col.double() * (s - s.logsumexp(0)).exp()


def emulated(problem: Problem) -> dict[str, Tensor]:
    """What the kernels should give: every factor of a product rounded to TF32, and all else exact."""
    x, y = tf32(problem.x), tf32(problem.y)
    q = x @ y.T
    s, w = weights(problem, q)
    found = {"row_lse": s.logsumexp(1), "col_lse": s.logsumexp(0), "dscale": (w * q).sum().view(1), "dbias": w.sum(0)}
    if problem.self_mode:
        return found | {"dx": problem.scale * tf32(w + w.T) @ x}
    return found | {"dx": problem.scale * tf32(w) @ y, "dy": problem.scale * tf32(w).T @ x}


def bounds(problem: Problem) -> dict[str, Tensor]:
    """How far rounding the factors can move each result.

    A product of two rounded factors is off by (1 + UNIT)^2 - 1 in proportion, so a score by scale times that of
    |x|.|y|, a log-sum-exp by the largest of those, and a weight, in proportion, by exp of twice that, less 1.
    """
    off = (1 + UNIT) ** 2 - 1
    x, y = problem.x.double(), problem.y.double()
    sizes = x.abs() @ y.abs().T
    moved = problem.scale * off * float(sizes.max())
    weight = math.expm1(2 * moved)
    positive = replace(problem)  # whose incoming gradients are the sizes of this one's
    positive.grad_row, positive.grad_col = problem.grad_row.abs(), problem.grad_col.abs()
    w = weights(positive, x @ y.T)[1]
    product = weight + off * (1 + weight)  # of a weight and a coordinate
    dx, dy = (problem.scale * product * part for part in (w @ y.abs(), w.T @ x.abs()))
    return {
        "row_lse": torch.full((problem.n,), moved),
        "col_lse": torch.full((problem.m,), moved),
        "dx": dx + dy if problem.self_mode else dx,
        "dy": dy,
        "dscale": (w * sizes).sum().view(1) * product,
        "dbias": weight * w.sum(0),
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("d", SIZES)
def test_allowed_the_error_is_that_of_tf32(kernels: ctypes.CDLL, d: int, form: str) -> None:
    """Within its bound, larger than without, and that of rounded factors to a few units of float32.

    But for the few weights that stand between two TF32 numbers and are rounded to the other one.
    """
    problem = problem_of(form, d)
    truth, bound, expected = evaluate(problem, torch.float64), bounds(problem), emulated(problem)
    exact = run(kernels, replace(problem, allow_tf32=False)) if form == "plain" else {}
    w = weights(problem, tf32(problem.x) @ tf32(problem.y).T)[1]
    largest = float(problem.scale * w.abs().max() * max(problem.x.abs().max(), problem.y.abs().max()))
    for name, value in run(kernels, problem).items():
        few = 8 * EPS * truth.sizes[name]
        error, apart = ((value.double() - want[name]).abs() for want in (truth.values, expected))
        assert (error <= bound[name] + few).all(), f"{name}: {float((error / bound[name]).max()):.3g} of the bound"
        if name in exact and error.numel() > 1:  # one number can be right by luck
            without = (exact[name].double() - truth.values[name]).abs().mean()
            assert error.mean() >= 3 * without, f"{name}: {float(error.mean() / without):.3g} times the error without"
        if name in ("dx", "dy"):
            share = float((apart <= few).double().mean())
            assert share >= 0.9, f"{name}: {share:.3g} of the elements are those of rounded factors"
            few = few + 4 * UNIT * largest  # two weights
        assert (apart <= few).all(), f"{name}: {float((apart / few).max()):.3g} of what is allowed"


@pytest.mark.parametrize("d", [9, 40])
def test_nothing_else_takes_notice(kernels: ctypes.CDLL, d: int) -> None:
    """Half types, float64, and distances: the same bits."""
    others = [Problem(67, 70, d, dtype) for dtype in DTYPES if dtype != "f32"]
    others += [Problem(67, 70, d, score="sqeuclidean"), Problem(67, 70, d, score="cosine", scale=PROFILES["cosine"][1])]
    for problem in others:
        without = run(kernels, problem)
        for name, value in run(kernels, replace(problem, allow_tf32=True)).items():
            assert torch.equal(value, without[name]), (problem.dtype, problem.score, name)


@pytest.mark.parametrize("allow_tf32", [False, True])
def test_infinite_coordinates_stay_infinite(kernels: ctypes.CDLL, allow_tf32: bool) -> None:
    problem = Problem(2, 3, 40, allow_tf32=allow_tf32)
    problem.x[:, 1:] = 0
    problem.x[:, 0], problem.y[:, 0] = torch.tensor([1.0, -1.0]), torch.tensor([torch.inf, 1.0, 2.0])
    results = run(kernels, problem)
    assert results["row_lse"][0] == torch.inf
    assert results["row_lse"][1].isfinite()
