"""The Sinkhorn divergence: entropic transport without its bias."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import without_autocast
from mi_estimators.ot import arguments
from mi_estimators.ot.sinkhorn import GRADIENTS, SinkhornResult, solve, warn_unless_converged


@dataclass(frozen=True)
class DivergenceResult:
    """A Sinkhorn divergence.

    Attributes:
        value: the divergence, differentiable in points, weights and epsilon.
        cross: the problem between ``x`` and ``y``.
        self_x: that of ``x`` with itself.
        self_y: that of ``y`` with itself.
    """

    value: Tensor
    cross: SinkhornResult
    self_x: SinkhornResult
    self_y: SinkhornResult

    @property
    def converged(self) -> bool:
        """Whether all three problems converged."""
        return all(result.converged for result in (self.cross, self.self_x, self.self_y))

    @property
    def marginal_error(self) -> float:
        """The largest of the three errors; NaN if one is."""
        errors = [result.marginal_error for result in (self.cross, self.self_x, self.self_y)]
        return sum(errors) if any(error != error for error in errors) else max(errors)


def sinkhorn_divergence(
    x: Tensor,
    y: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    epsilon: float | Tensor,
    cost: str = "sqeuclidean",
    rho: float | None = None,
    tol: float | None = None,
    max_iter: int = 2000,
    updates: str = "alternating",
    scaling: float | None = None,
    anderson: int | None = None,
    gradient: str = "envelope",
    check_every: int | None = None,
) -> DivergenceResult:
    r"""Sinkhorn divergence between two weighted sets of points.

    .. math::
        S_\varepsilon = W_\varepsilon(x, y) - \tfrac12 W_\varepsilon(x, x) - \tfrac12 W_\varepsilon(y, y)
            + \tfrac\varepsilon2 (m_a - m_b)^2

    with :math:`W_\varepsilon` of :func:`~mi_estimators.sinkhorn` and the masses :math:`m` of the weights. With
    ``cost="sqeuclidean"`` it is >= 0, and 0 only where the weighted sets are equal; with ``"cosine"`` that holds of the
    directions of the points. Between the transport cost (epsilon to 0) and half of the energy distance of the cost
    (epsilon to infinity). It is a difference: rounding leaves an error of the size of the dtype's, relative to the
    values of the three problems. The problems of a set with itself take averaged steps of one potential.

    Gradients are those of :func:`~mi_estimators.sinkhorn`. By the points, with :math:`|x - y|^2` and marginals held,
    that is :math:`2 a_i (T_{xx}(x_i) - T_{xy}(x_i))`, T the barycentric maps.

    Args:
        x: points of the first set.
        y: points of the second set.
        a: weights of the first set, >= 0; by default equal ones of sum 1.
        b: weights of the second set.
        epsilon: as for :func:`~mi_estimators.sinkhorn`, like all that follow.
        cost: ``"sqeuclidean"`` or ``"cosine"``.
        rho: price of leaving the marginals, one for both sides; ``None`` holds them.
        tol: as there, for each of the three problems.
        max_iter: as there.
        updates: as there, for the problem between ``x`` and ``y``.
        scaling: as there.
        anderson: as there.
        gradient: as there.
        check_every: as there.

    Shape:
        - x: :math:`(N, d)`, y: :math:`(M, d)`, a: :math:`(N,)`, b: :math:`(M,)`
        - Output: a :class:`~mi_estimators.ot.DivergenceResult`.

    Raises:
        TypeError, ValueError: as :func:`~mi_estimators.sinkhorn`.

    Warns:
        ConvergenceWarning: once, of the worst of the three problems.

    Source: Feydy et al. 2019, "Interpolating between optimal transport and MMD using Sinkhorn divergences", eq. 3;
    Sejourne et al. 2019, "Sinkhorn divergences for unbalanced optimal transport", definition 6.
    """
    _checks.choice("gradient", gradient, GRADIENTS)
    if not isinstance(cost, str):
        raise TypeError(f"cost: want a name, as points are needed, got {_checks.describe(cost)}")
    if not isinstance(y, Tensor):
        raise TypeError(f"y: want points, got {_checks.describe(y)}")
    arguments.one_price(rho)
    whole = arguments.problem(x, y, a, b, epsilon=epsilon, cost=cost, rho=rho)
    settings = arguments.settings(
        whole,
        tol=tol,
        max_iter=max_iter,
        updates=updates,
        scaling=scaling,
        relaxation=1.0,
        anderson=anderson,
        check_every=check_every,
        gradient=gradient,
    )
    with without_autocast(whole.a):
        self_x, self_y = (
            solve(whole.with_itself(side), points, settings.one_sided(), (None, None), gradient)
            for side, points in ((0, x), (1, y))
        )
        # Where the sets are equal their own potentials are the solution, which alternating steps would creep up to.
        cross = solve(whole, y, settings, (self_x.f.detach(), self_y.f.detach()), gradient)
        difference = whole.a.sum() - whole.b.sum()
        value = cross.value - (self_x.value + self_y.value) / 2 + whole.epsilon / 2 * difference.square()
    warn_unless_converged(cross, self_x, self_y, tol=settings.tol, stacklevel=2)
    return DivergenceResult(value, cross, self_x, self_y)
