"""The ER bound as a loss module."""

from __future__ import annotations

import math

from torch import Tensor

from mi_estimators import _checks
from mi_estimators.entropy.kde import check_bandwidth
from mi_estimators.er import KERNEL_OF, SUPPORTS, ERBound, er_bound
from mi_estimators.losses.base import Loss


class EntropyReconstruction(Loss):
    r"""Negative ER bound, :math:`-(w_r\, \mathbb E \log q(z_2 \mid z_1) + w_h H(Z_2))`.

    With ``symmetric`` the mean of both directions, so that the entropy of either view is raised. Weights other than 1
    give a training loss that is no longer the negative of a bound.

    Args:
        support: ``"sphere"`` (SimCLR, BYOL), ``"euclidean"`` or ``"discrete"`` (DINO, clustering).
        bandwidth: of kernel and reconstruction, as for :func:`~mi_estimators.er.er_bound`. The default 10 is the
            paper's concentration.
        entropy_weight: :math:`w_h \ge 0`.
        reconstruction_weight: :math:`w_r \ge 0`.
        symmetric: average both directions.
        leave_one_out: leave each point out of its own density. The paper's code does not.

    Shape:
        - Input: :math:`(K, d)`, :math:`(K, d)`, :math:`K \ge 2`; Output: scalar.

    Raises:
        TypeError, ValueError: bad settings, here; bad inputs, at the call.

    Source: arXiv 2307.10907, eq. 3, and section 4 for what each method maximises.
    """

    def __init__(
        self,
        support: str = "sphere",
        *,
        bandwidth: float | Tensor | str = 10.0,
        entropy_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
        symmetric: bool = True,
        leave_one_out: bool = True,
    ) -> None:
        super().__init__()
        _checks.choice("support", support, SUPPORTS)
        if support != "discrete":
            check_bandwidth(bandwidth, KERNEL_OF[support])
        for name, weight in (("entropy_weight", entropy_weight), ("reconstruction_weight", reconstruction_weight)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name}: want a finite number >= 0, got {weight!r}")
        self.support = support
        self.bandwidth = bandwidth
        self.entropy_weight = entropy_weight
        self.reconstruction_weight = reconstruction_weight
        self.symmetric = symmetric
        self.leave_one_out = leave_one_out

    def terms(self, z1: Tensor, z2: Tensor) -> ERBound:
        """The bound and its two terms; with ``symmetric``, each the mean over both directions."""
        options = {"support": self.support, "bandwidth": self.bandwidth, "leave_one_out": self.leave_one_out}
        there = er_bound(z1, z2, **options)  # type: ignore[arg-type]
        if not self.symmetric:
            return there
        back = er_bound(z2, z1, **options)  # type: ignore[arg-type]
        return ERBound(
            value=(there.value + back.value) / 2,
            entropy=(there.entropy + back.entropy) / 2,
            reconstruction=(there.reconstruction + back.reconstruction) / 2,
            cap=there.cap,
        )

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        """The negative weighted bound of the pairs (z1_i, z2_i)."""
        bound = self.terms(z1, z2)
        return -(self.reconstruction_weight * bound.reconstruction + self.entropy_weight * bound.entropy)
