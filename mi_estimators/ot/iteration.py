r"""Sinkhorn's iteration: half-steps in the log domain until the marginals hold.

Alternating (Gauss-Seidel) steps take the row potential from the column potential, then the column potential from the
new row potential. Symmetric (Jacobi) steps take both from the same plan and go half of the way. Near the solution an
alternating iteration multiplies the error by :math:`\sigma^2`, with :math:`\sigma` the second singular value of the
plan between its marginals, and a symmetric one by :math:`(1 + \sigma) / 2`.

Both kinds compute, on their way, row and column sums of one and the same plan. So the error is known at every iteration
at no cost, it is that of the potentials returned, and whatever accelerates the steps cannot make it untrue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mi_estimators.ot.anderson import Anderson
from mi_estimators.ot.problem import Problem, masked_product

UPDATES = ("alternating", "symmetric")


@dataclass(frozen=True)
class Settings:
    """When to stop and how to step.

    ``scaling``: each iteration's epsilon over that before, while annealing. ``relaxation``: the part of an alternating
    step that is gone, 1 for all of it. ``anderson``: how many past iterations are combined into the next, 0 for none.
    ``check_every``: iterations between looks at the error, each of which waits for the device.
    """

    tol: float
    max_iter: int
    updates: str = "alternating"
    scaling: float | None = None
    relaxation: float = 1.0
    anderson: int = 0
    check_every: int = 1

    def one_sided(self) -> Settings:
        """The same for the problem of a set with itself."""
        return replace(self, updates="one-sided")


class Solution(NamedTuple):
    """Where the iteration ended, and the sums of that plan.

    ``error``: how far its marginals are off, in L1, relative to the mass; no less than what the rounding of the
    potentials leaves unknown.
    """

    f: Tensor  # [n]
    g: Tensor  # [m]
    row_lse: Tensor  # [n]
    n_iter: int
    error: float


def ladder(problem: Problem, scaling: float | None) -> list[float]:
    """The values of epsilon before the last: from the largest cost down, each ``scaling`` times that before."""
    steps: list[float] = []
    if scaling is not None:
        target, epsilon = float(problem.epsilon), problem.costs.largest()
        while epsilon > target:
            steps.append(epsilon)
            epsilon *= scaling
    return steps


def _missed(problem: Problem, side: int, potential: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """L1 norm of the dual's gradient by one potential: by how much that side's marginal is missed.

    And what half a rounding of the potential moves in that marginal. Where it is not small, log-sum-exps are rounded to
    the potentials that they should become, and the sums look right.
    """
    weights = (problem.a, problem.b)[side].detach()
    scaled = potential.detach() / problem.epsilon.detach()
    share = torch.exp(scaled + lse.detach())
    missed = masked_product(weights, share - problem.wanted_share(side, potential.detach())).abs().sum()
    return missed, masked_product(weights, share * scaled.abs()).sum() * (torch.finfo(scaled.dtype).eps / 2)


def _moved(problem: Problem, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Potentials at their best translation, where that is not a matter of choice only."""
    return (f, g) if problem.balanced else problem.translated(f, g)


class _Alternating:
    def __init__(self, problem: Problem, settings: Settings) -> None:
        self.problem, self.relaxation = problem, settings.relaxation
        self.anderson = Anderson(settings.anderson)
        # One sweep over the pairs has no gradient.
        self.alternation = None if torch.is_grad_enabled() else problem.costs.alternation()

    def sums(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Potentials, and the log-sum-exps of rows and columns at them."""
        problem = self.problem
        if self.alternation is not None:
            f, row_lse, col_lse = self.alternation(
                problem.epsilon, problem.a, problem.b, f, g, problem.damping(0), self.relaxation
            )
            return f, g, row_lse, col_lse
        row_lse = problem.costs.row_lse(problem.epsilon, problem.col_bias(g))
        new = problem.half_step(0, row_lse)
        f = new if self.relaxation == 1 else f + self.relaxation * (new - f)
        return f, g, row_lse, problem.costs.col_lse(problem.epsilon, problem.row_bias(f))

    def step(self, f: Tensor, g: Tensor, row_lse: Tensor, col_lse: Tensor) -> tuple[Tensor, Tensor]:
        new = self.problem.half_step(1, col_lse)
        if self.relaxation != 1:
            new = g + self.relaxation * (new - g)
        f, new = _moved(self.problem, f, new)
        return f, self.anderson(g, new)


class _Symmetric:
    def __init__(self, problem: Problem, settings: Settings) -> None:
        self.problem = problem
        self.anderson = Anderson(settings.anderson)

    def sums(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        problem = self.problem
        if torch.is_grad_enabled():  # both in one sweep has no gradient
            row_lse = problem.costs.row_lse(problem.epsilon, problem.col_bias(g))
            return f, g, row_lse, problem.costs.col_lse(problem.epsilon, problem.row_bias(f))
        biases = problem.row_bias(f), problem.col_bias(g)
        return f, g, *problem.costs.both_lse(problem.epsilon, *biases, absent=problem.absent)

    def step(self, f: Tensor, g: Tensor, row_lse: Tensor, col_lse: Tensor) -> tuple[Tensor, Tensor]:
        problem = self.problem
        new_f = (f + problem.half_step(0, row_lse)) / 2
        new_g = (g + problem.half_step(1, col_lse)) / 2
        new_f, new_g = _moved(problem, new_f, new_g)
        mixed = self.anderson(torch.cat([f, g]), torch.cat([new_f, new_g]))
        return mixed[: len(f)], mixed[len(f) :]


class _OneSided(_Symmetric):
    """Symmetric steps of a set with itself: one potential is both, and one log-sum-exp a sweep is enough."""

    def sums(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        problem = self.problem
        lse = problem.costs.row_lse(problem.epsilon, problem.col_bias(f))
        return f, f, lse, lse

    def step(self, f: Tensor, g: Tensor, row_lse: Tensor, col_lse: Tensor) -> tuple[Tensor, Tensor]:
        new = self.anderson(f, (f + self.problem.half_step(0, row_lse)) / 2)
        return new, new


_STEPS: dict[str, type[_Alternating] | type[_Symmetric]] = {
    "alternating": _Alternating,
    "symmetric": _Symmetric,
    "one-sided": _OneSided,
}


def iterate(
    problem: Problem, settings: Settings, start: tuple[Tensor | None, Tensor | None] = (None, None)
) -> Solution:
    """Run until the error is within ``tol``, or for ``max_iter`` sweeps.

    With gradients enabled every step is recorded by autograd.
    """
    f, g = (
        torch.zeros_like(weights) if given is None else given
        for given, weights in zip(start, (problem.a, problem.b), strict=True)
    )
    target = problem.epsilon
    coarse = ladder(problem, settings.scaling)[: settings.max_iter - 1]
    mass = float(problem.a.detach().sum() + problem.b.detach().sum()) / 2
    error = math.inf
    stepper: _Alternating | _Symmetric | None = None
    for done in range(1, settings.max_iter + 1):
        if done <= len(coarse):
            at = problem.of(target.new_tensor(coarse[done - 1]), *problem.parameters[1:])
            stepper = _STEPS[settings.updates](at, Settings(settings.tol, settings.max_iter))
        elif stepper is None or stepper.problem is not problem:
            stepper = _STEPS[settings.updates](problem, settings)
        f, g, row_lse, col_lse = stepper.sums(f, g)
        if done > len(coarse) and (done == settings.max_iter or done % settings.check_every == 0):
            sides = (_missed(problem, 0, f, row_lse), _missed(problem, 1, g, col_lse))
            error, unknown = ((torch.stack(sides[0]) + torch.stack(sides[1])) / mass).tolist()
            if error <= settings.tol or done == settings.max_iter or math.isnan(error):
                error = max(error, unknown)
                break
        f, g = stepper.step(f, g, row_lse, col_lse)
    return Solution(f, g, row_lse, done, error)
