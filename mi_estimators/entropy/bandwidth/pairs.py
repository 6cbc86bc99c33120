r"""The narrowest kernel that two densities may share: of points, and of each point given its partner.

With one kernel for both, their normalisers cancel in :math:`-\mathbb E \log \hat p_{-i}(x_i) + \mathbb E \log q(x_i)`,
and its derivative by the logarithm of the scale s (:math:`\kappa / 2`, :math:`1 / 2h^2`) is s times

.. math::
    \sum_{ij} w_i W_{ij} |x_i - x_j|^2 - \mathbb E |x_i - y_i|^2,

with W as for the leave-one-out likelihood. The first term falls as kernels get narrower. Where it is below the second,
pairs lie further apart than what the kernel takes for neighbours: the value gains by drawing all points together, and
a bandwidth that follows them never makes that stop. So no kernel is narrower than where both are equal, and there the
value is as large as one bandwidth for both allows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mi_estimators.entropy.bandwidth.likelihood import COLD_STRIDE, mean_square_distances
from mi_estimators.entropy.bandwidth.sample import sample_of
from mi_estimators.entropy.bandwidth.search import follow

_WIDEST = 1e-6  # of the scale that is given


@torch.no_grad()
def no_narrower_than_pairs(x: Tensor, mean_square: float, kernel: str, bandwidth: float) -> float:
    """The bandwidth, or the widened one at which neighbours are as far apart, on average, as pairs are.

    Args:
        x: the points.
        mean_square: mean squared distance of a point and its partner.
        kernel: ``"gaussian"`` or ``"vmf"``.
        bandwidth: the one to start from.

    Shape:
        - x: :math:`(N, d)`; Output: a number.
    """
    sample = sample_of(x, None, constant_columns=True)
    on_sphere = kernel == "vmf"
    start = math.log(0.5 * bandwidth) if on_sphere else -math.log(2) - 2 * math.log(bandwidth)
    wanted = math.log(max(mean_square, 1e-300))

    def steps(places: Sequence[float]) -> list[float]:
        found = mean_square_distances(sample, [math.exp(u) for u in places])
        return [math.log(max(square, 1e-300)) - wanted for square in found]

    if steps([start])[0] >= 0:
        return bandwidth
    log_scale = follow(steps, start, start + math.log(_WIDEST), start, stride=2 * COLD_STRIDE)
    return 2 * math.exp(log_scale) if on_sphere else math.sqrt(0.5 * math.exp(-log_scale))
