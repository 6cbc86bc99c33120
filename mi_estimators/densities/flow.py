"""A conditional normalising flow of affine couplings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mi_estimators import _checks
from mi_estimators.densities.density import LOG_SCALE_LIMIT, ConditionalDensity, Conditioner
from mi_estimators.densities.gaussian import GaussianMixture
from mi_estimators.networks import soft_clip

_COUPLING_LIMIT = 2.0  # logarithms of scales that depend on y: couplings multiply, and a far point would overflow


class AffineFlow(ConditionalDensity):
    r"""The density of y that an invertible map, given x, turns into a mixture of Gaussians given x.

    .. math::
        \log q(y \mid x) = \log b(T_x(y) \mid x) + \log |\det \partial T_x / \partial y|

    :math:`T_x` shifts and scales every coordinate by amounts that depend on x, and then ``couplings`` times permutes
    the coordinates and shifts and scales one half of them by amounts that depend on x and the other half: it takes care
    of dependence among the coordinates of y. The base b, a :class:`GaussianMixture`, takes care of several modes, and
    of a single coordinate, which leaves nothing to couple.

    Args:
        dim_x: size of x; 0 for a density of y alone.
        dim_y: size of y.
        couplings: number of couplings; two change every coordinate.
        components: of the base.
        hidden: sizes of the hidden ReLU layers of each network.
        generator: source of the initial weights and the permutations; None takes PyTorch's global one.

    Source:
        Dinh et al. 2017 (arXiv 1605.08803), sec. 3.
    """

    permutations: Tensor

    def __init__(
        self,
        dim_x: int,
        dim_y: int,
        *,
        couplings: int = 4,
        components: int = 4,
        hidden: Sequence[int] = (64, 64),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(dim_x, dim_y)
        couplings = _checks.count("couplings", couplings) if dim_y > 1 else 0
        self.moved = (dim_y + 1) // 2
        self.first = Conditioner(dim_x, 2 * dim_y, hidden, generator)
        self.couplings = nn.ModuleList(
            Conditioner(dim_x + dim_y - self.moved, 2 * self.moved, hidden, generator) for _ in range(couplings)
        )
        self.base = GaussianMixture(dim_x, dim_y, components=components, hidden=hidden, generator=generator)
        # Every other one brings forward what the one before left alone: no coordinate is passed over by bad luck.
        orders = [
            torch.arange(dim_y).roll(dim_y - self.moved) if k % 2 else torch.randperm(dim_y, generator=generator)
            for k in range(couplings)
        ]
        self.register_buffer("permutations", torch.stack(orders) if orders else torch.empty(0, dim_y, dtype=torch.long))

    def transform(self, y: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The point z of the base that y becomes, and the logarithm of the determinant of its derivative by y.

        Shape:
            - y: ``[N, dim_y]``; x: ``[N, dim_x]`` or None.
            - output: z ``[N, dim_y]``, log determinant ``[N]``.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`.
        """
        self.check(y, x)
        z, log_det = _affine(y, self.first(x), LOG_SCALE_LIMIT)
        for coupling, order in zip(self.couplings, self.permutations, strict=True):
            z = z[:, order]
            moved, kept = z[:, : self.moved], z[:, self.moved :]
            moved, change = _affine(
                moved, coupling(kept if x is None else torch.cat([x, kept], dim=1)), _COUPLING_LIMIT
            )
            z, log_det = torch.cat([moved, kept], dim=1), log_det + change
        return z, log_det.expand(len(y))

    def log_prob(self, y: Tensor, x: Tensor | None = None) -> Tensor:
        """``log q(y_i | x_i)``: see :meth:`ConditionalDensity.log_prob`."""
        z, log_det = self.transform(y, x)
        return self.base.log_prob(z, x) + log_det


def _affine(y: Tensor, parameters: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """``(y - shift) / scale`` and the logarithm of its determinant."""
    shift, log_scale = parameters.chunk(2, dim=-1)
    log_scale = soft_clip(log_scale, limit)
    return (y - shift) * (-log_scale).exp(), -log_scale.sum(dim=-1)
