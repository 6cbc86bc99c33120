"""The Sinkhorn divergence as a loss module."""

from __future__ import annotations

from torch import Tensor

from mi_estimators import _checks
from mi_estimators.losses.base import Loss
from mi_estimators.ot import arguments, sinkhorn_divergence
from mi_estimators.ot.costs import COSTS


class SinkhornDivergence(Loss):
    r"""Sinkhorn divergence between two batches of points, see :func:`~mi_estimators.sinkhorn_divergence`.

    Args:
        epsilon: :math:`\varepsilon > 0`, in the units of the cost. geomloss's ``SamplesLoss`` of blur s is half of this
            loss at ``epsilon=2 * s**2``.
        cost: ``"sqeuclidean"`` or ``"cosine"``.
        rho: price of leaving the marginals; ``None`` holds them.
        tol: largest marginal error that counts as converged.
        max_iter: largest number of iterations.
        scaling: anneal epsilon by this factor an iteration.

    Shape:
        - Input: :math:`(N, d)`, :math:`(M, d)`, weights :math:`(N,)`, :math:`(M,)` or none; Output: scalar.

    Raises:
        TypeError, ValueError: bad settings, here; bad inputs, at the call.
    """

    def __init__(
        self,
        epsilon: float | Tensor,
        *,
        cost: str = "sqeuclidean",
        rho: float | None = None,
        tol: float | None = None,
        max_iter: int = 2000,
        scaling: float | None = None,
    ) -> None:
        super().__init__()
        _checks.positive("epsilon", epsilon)
        _checks.choice("cost", cost, COSTS)
        arguments.one_price(rho)
        arguments.check_stop(tol, max_iter, scaling)
        self.epsilon = epsilon
        self.cost = cost
        self.rho = rho
        self.tol = tol
        self.max_iter = max_iter
        self.scaling = scaling

    def forward(self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        """The divergence between points ``x`` of weights ``a`` and points ``y`` of weights ``b``."""
        settings = {name: getattr(self, name) for name in ("cost", "rho", "tol", "max_iter", "scaling")}
        return sinkhorn_divergence(x, y, a, b, epsilon=self.epsilon, **settings).value
