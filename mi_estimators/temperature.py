"""A temperature that is learned, as CLIP learns it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mi_estimators import _checks


class LearnableTemperature(nn.Module):
    r"""A temperature :math:`\tau = e^{-s}` whose parameter is the logarithm of the scale, :math:`s = \log(1/\tau)`.

    The parameter has the name and the meaning of CLIP's ``logit_scale``, a scalar. The scale is kept at or below
    ``max_scale``, as CLIP does: before each use the parameter itself is set back to :math:`\log` ``max_scale`` if an
    optimiser step took it beyond. So the gradient is never cut off at the limit (as it is where the value is clamped
    and the parameter is not, which then may never come back): a step to smaller scales acts at once, one to larger
    scales is undone at the next use.

    Leave the parameter out of weight decay, which would pull the temperature towards 1.

    Args:
        temperature: the first :math:`\tau`. CLIP's is 0.07.
        max_scale: largest :math:`1 / \tau`; ``math.inf`` for none.

    Shape:
        - Output: a scalar, :math:`\tau`, which requires a gradient.

    Raises:
        TypeError, ValueError: a temperature that is not a finite number > 0, or below 1 / ``max_scale``; ``max_scale``
            not > 0.

    Source: Radford et al. (2021), arXiv 2103.00020, section 2.5.
    """

    def __init__(self, temperature: float = 0.07, *, max_scale: float = 100.0) -> None:
        super().__init__()
        _checks.positive("temperature", temperature)
        if isinstance(max_scale, bool) or not isinstance(max_scale, (int, float)):
            raise TypeError(f"max_scale: want a number, got {_checks.describe(max_scale)}")
        if not max_scale > 0:
            raise ValueError(f"max_scale: want a number > 0, got {max_scale!r}")
        # 1 / 0.01 is 100 to rounding only.
        if not 1 / float(temperature) <= max_scale * (1 + 1e-6):
            raise ValueError(f"temperature: want at least 1 / max_scale = {1 / max_scale:.4g}, got {temperature!r}")
        self.max_scale = max_scale
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / float(temperature))))

    def forward(self) -> Tensor:
        """The temperature, after the parameter is set back into its range."""
        if self.max_scale < math.inf:
            with torch.no_grad():
                self.logit_scale.clamp_(max=math.log(self.max_scale))
        return torch.exp(-self.logit_scale)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f"max_scale={self.max_scale}"
