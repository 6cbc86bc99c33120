"""Entropic optimal transport between two weighted sets."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import without_autocast
from mi_estimators.ot import arguments
from mi_estimators.ot.costs import row_blocks
from mi_estimators.ot.gradients import with_gradients, with_implicit_gradients
from mi_estimators.ot.iteration import iterate
from mi_estimators.ot.problem import Problem

GRADIENTS = ("envelope", "implicit", "unrolled")


class ConvergenceWarning(UserWarning):
    """An iteration ended before it reached its tolerance."""


@dataclass(frozen=True)
class SinkhornResult:
    """The solution of an entropic transport problem.

    Attributes:
        value: the optimum, differentiable in points (or costs), weights and epsilon.
        f: potential of the rows, :math:`(N,)`.
        g: potential of the columns, :math:`(M,)`.
        n_iter: sweeps over the pairs (with alternating updates, two half-sweeps each).
        converged: whether ``marginal_error`` is within the tolerance.
        marginal_error: L1 distance of both marginals of the plan of ``f`` and ``g`` from those they should have,
            relative to the mean mass of ``a`` and ``b``; no less than what the rounding of ``f`` and ``g`` leaves
            unknown of it (in float32, about 1e-7 times the mean of :math:`|f| / \\varepsilon`).
    """

    value: Tensor
    f: Tensor
    g: Tensor
    n_iter: int
    converged: bool
    marginal_error: float
    _problem: Problem = field(repr=False)
    _columns: Tensor | None = field(repr=False)  # the points y, as they were given

    def plan(self) -> Tensor:
        """The transport plan, :math:`(N, M)`: the one thing here whose size is that of all pairs."""
        return torch.cat([self._problem.plan_block(rows, self.f, self.g) for rows in row_blocks(self._problem.costs)])

    def apply(self, vectors: Tensor, *, transpose: bool = False) -> Tensor:
        """The plan times a matrix, :math:`P V`, or :math:`P^T V`, by blocks of rows; the plan is never whole.

        Args:
            vectors: :math:`(M,)` or :math:`(M, k)`; with ``transpose`` of :math:`N` rows.
            transpose: multiply by the transposed plan.
        """
        n, m = self._problem.costs.shape
        _checks.floating("vectors", vectors, ndim=(1, 2))
        if vectors.shape[0] != (n if transpose else m):
            raise ValueError(f"vectors: want {n if transpose else m} rows, got {_checks.describe(vectors)}")
        wide = vectors.to(self.f.dtype)
        if not transpose:
            return torch.cat(self._by_blocks(lambda rows: self._problem.plan_block(rows, self.f, self.g) @ wide))
        parts = self._by_blocks(lambda rows: self._problem.plan_block(rows, self.f, self.g).T @ wide[rows])
        return torch.stack(parts).sum(0)

    def barycentric_map(self, points: Tensor | None = None) -> Tensor:
        r"""The mean of the columns' points under each row of the plan, :math:`\sum_j P_{ij} y_j / \sum_j P_{ij}`.

        The shares :math:`P_{ij} / \sum_j P_{ij}` are formed as such: a row of weight 0, or one that an unbalanced plan
        leaves almost without mass, has its map too. NaN in a row that has infinite costs only.

        Args:
            points: :math:`(M, k)`; by default ``y``, which a problem given by a cost matrix does not have.
        """
        points = self._columns if points is None else points
        if points is None:
            raise ValueError("points: want the points of the columns where the problem has a cost matrix, got None")
        _checks.floating("points", points)
        if points.shape[0] != len(self.g):
            raise ValueError(f"points: want one for each column ({len(self.g)}), got {_checks.describe(points)}")
        wide = points.to(self.f.dtype)
        return torch.cat(self._by_blocks(lambda rows: self._problem.row_shares(rows, self.g) @ wide))

    def transport_cost(self) -> Tensor:
        r"""The cost of the plan without its entropy, :math:`\langle P, C \rangle`."""

        def of_rows(rows: slice) -> Tensor:
            plan, cost = self._problem.plan_block(rows, self.f, self.g), self._problem.costs.block(rows)
            return (plan * cost.masked_fill(cost == math.inf, 0)).sum()

        return torch.stack(self._by_blocks(of_rows)).sum()

    def _by_blocks(self, function: Callable[[slice], Tensor]) -> list[Tensor]:
        """A function of every block of rows; for gradients, a block is computed again rather than kept."""
        blocks = row_blocks(self._problem.costs)
        if torch.is_grad_enabled():
            return [checkpoint(function, rows, use_reentrant=False) for rows in blocks]
        return [function(rows) for rows in blocks]


def warn_unless_converged(*results: SinkhornResult, tol: float, stacklevel: int) -> None:
    """Warn, once, of the worst result that did not converge; not where no tolerance was asked for."""
    worst = max(results, key=lambda result: math.inf if math.isnan(result.marginal_error) else result.marginal_error)
    if worst.converged or tol == 0:
        return
    wider = "" if worst.f.dtype == torch.float64 else ", or use float64"
    warnings.warn(
        f"sinkhorn: marginal error {worst.marginal_error:.2e} after {worst.n_iter} iterations, {tol:.1e} wanted; value "
        f"and gradients are those of a plan that has not converged. Raise max_iter, epsilon or tol{wider}.",
        ConvergenceWarning,
        stacklevel=stacklevel + 1,
    )


def solve(
    problem: Problem,
    columns: Tensor | None,
    settings: arguments.Settings,
    start: tuple[Tensor | None, Tensor | None],
    gradient: str,
) -> SinkhornResult:
    """Iterate, and attach the gradients."""
    unrolled = gradient == "unrolled"
    at = problem if unrolled else problem.detached()
    with torch.set_grad_enabled(unrolled and torch.is_grad_enabled()):
        f, g, row_lse, n_iter, error = iterate(at, settings, start)
        value = at.dual(f, g, at.row_sums(f, row_lse).sum())
        if problem.balanced:
            f, g = at.translated(f, g)
    if not unrolled:
        value = with_gradients(problem, f, g, value)
    if gradient == "implicit":
        f, g = with_implicit_gradients(problem, f, g)
        if problem.absent:
            f, g = problem.with_absent(f, g)
        if problem.balanced:  # again, for the gradient of that constant
            f, g = problem.translated(f, g)
    if gradient != "envelope":
        at = problem
    return SinkhornResult(value, f, g, n_iter, error <= settings.tol, error, at, columns)


def sinkhorn(
    x: Tensor | None = None,
    y: Tensor | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    epsilon: float | Tensor,
    cost: str | Tensor = "sqeuclidean",
    rho: arguments.Rho = None,
    tol: float | None = None,
    max_iter: int = 2000,
    updates: str = "alternating",
    scaling: float | None = None,
    relaxation: float = 1.0,
    anderson: int | None = None,
    init: tuple[Tensor | None, Tensor | None] | None = None,
    gradient: str = "envelope",
    check_every: int | None = None,
) -> SinkhornResult:
    r"""Entropic optimal transport between two weighted sets of any size.

    .. math::
        W_\varepsilon = \min_{P \ge 0}\; \langle P, C \rangle + \varepsilon\, \mathrm{KL}(P \,|\, a b^\top)
            + \rho_x \mathrm{KL}(P 1 \,|\, a) + \rho_y \mathrm{KL}(P^\top 1 \,|\, b), \qquad
        \mathrm{KL}(p \,|\, q) = \sum p \log \frac pq - p + q

    ``rho=None`` holds the marginals: :math:`P 1 = a`, :math:`P^\top 1 = b`. The optimal plan is
    :math:`P_{ij} = a_i b_j e^{(f_i + g_j - C_{ij}) / \varepsilon}`. Points take O((N + M) d) memory, and on the
    CPU up to 64 MiB for the products of all pairs, where these fit. The iteration is in the log domain, and its error
    is that of the plan returned.

    Gradients of the value by points, costs, weights and ``epsilon`` are those of the envelope theorem: true at
    convergence, for any ``rho``. Second derivatives of the value are implicit ones, by conjugate gradients, and need no
    matrix either. A weight of 0 leaves its point out; the derivative by that weight is the one from above. With both
    marginals held the value is defined where both sides have one mass, so the gradients by ``a`` and ``b`` are so up to
    a constant moved from one to the other; it is fixed by :math:`\langle a, f \rangle = \langle b, g \rangle`.

    Args:
        x: points of the rows; ``None`` with a cost matrix.
        y: points of the columns; ``None`` for ``x`` with itself, both sides then having the weights ``a``.
        a: weights of the rows, >= 0; by default equal ones of sum 1.
        b: weights of the columns.
        epsilon: :math:`\varepsilon > 0`, in the units of the cost; a number, or a tensor with one element.
        cost: ``"sqeuclidean"``, :math:`|x - y|^2` (without a factor 1/2); ``"cosine"``, :math:`1 - \cos(x, y)`; or the
            costs themselves, where ``inf`` forbids a pair.
        rho: price of leaving the marginals, a number > 0 or a pair for rows and columns; ``None`` holds one.
        tol: largest marginal error that counts as converged (see :class:`SinkhornResult`); by default 1e-8 in float64
            and 1e-4 otherwise. With 0 the iteration runs for ``max_iter`` and does not warn.
        max_iter: largest number of iterations. Alternating, the result is the row potential of the last one with the
            column potential it was computed from, of whose plan the error is known: stopped early, that is half a step
            behind packages that go on to the column potential.
        updates: ``"alternating"``, or ``"symmetric"``: averaged, both sides from one sweep over the pairs.
        scaling: anneal epsilon from the largest cost down, by this factor an iteration; between 0 and 1.
        relaxation: over-relaxation of alternating steps, between 1 and 2 (Thibault et al. 2021). It may diverge.
        anderson: number of past iterations that are combined into the next, as Anderson acceleration does; 0 for none.
            By default 8, and 0 with a relaxation or an unrolled gradient.
        init: potentials to start from, ``(f, g)``; either may be ``None``. Alternating steps read ``g`` only.
        gradient: ``"envelope"``; ``"implicit"``: the potentials (and so the plan) have gradients too, by the implicit
            function theorem; ``"unrolled"``: everything is differentiated through the iterations that were made, which
            is the gradient of what they computed, converged or not.
        check_every: iterations between looks at the error. By default 1 on the CPU and 10 elsewhere, where a look waits
            for the device; with ``tol=0`` only the last one looks.

    Shape:
        - x: :math:`(N, d)`, y: :math:`(M, d)`, a: :math:`(N,)`, b: :math:`(M,)`, cost: :math:`(N, M)`
        - Output: a :class:`SinkhornResult` in float64 for float64 inputs, otherwise float32.

    Raises:
        TypeError: not floating-point tensors, or dtypes that differ.
        ValueError: ``epsilon`` or ``rho`` not > 0, empty sets, shapes that do not match, NaN, negative weights or none
            above 0, sums of weights that differ where both marginals are held, a row or column that has a weight and
            only infinite costs, or a setting out of its range.

    Warns:
        ConvergenceWarning: once, with the error that was reached, where that is above ``tol``.

    Source: Cuturi 2013, "Sinkhorn distances"; Chizat et al. 2018, "Scaling algorithms for unbalanced optimal transport
    problems"; Feydy et al. 2019, "Interpolating between optimal transport and MMD using Sinkhorn divergences".

    Example:
        >>> x, y = torch.randn(50, 3), torch.randn(60, 3)
        >>> result = sinkhorn(x, y, epsilon=0.5)
        >>> result.converged
        True
    """
    _checks.choice("gradient", gradient, GRADIENTS)
    problem = arguments.problem(x, y, a, b, epsilon=epsilon, cost=cost, rho=rho)
    settings = arguments.settings(
        problem,
        tol=tol,
        max_iter=max_iter,
        updates=updates,
        scaling=scaling,
        relaxation=relaxation,
        anderson=anderson,
        check_every=check_every,
        gradient=gradient,
    )
    with without_autocast(problem.a):
        result = solve(problem, x if y is None else y, settings, arguments.start(init, problem), gradient)
    warn_unless_converged(result, tol=settings.tol, stacklevel=2)
    return result
