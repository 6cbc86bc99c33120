r"""Anderson acceleration of a fixed-point iteration :math:`x \leftarrow T(x)`.

The next iterate is the combination of the last values of T, with coefficients that sum to 1, whose combined residual
:math:`T(x) - x` is least (Walker and Ni 2011, "Anderson acceleration for fixed-point iterations", problem 1.2). Where
T is linear, that is GMRES.

Nothing here waits for the device: what would be a branch is a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROWTH = 2.0  # of the residual over its least since the beginning, that makes it begin anew
RIDGE = 1e-12  # on the Gram matrix of the residuals, relative to its largest element


class Anderson:
    """Combines up to ``depth`` past iterates with the present one; of depth 0 it hands T(x) through."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._residuals: list[Tensor] = []
        self._values: list[Tensor] = []
        self._counts: list[Tensor] = []  # whether each of these is of the time since it last began anew
        self._least: Tensor | None = None

    def __call__(self, x: Tensor, value: Tensor) -> Tensor:
        """The next iterate, from the last one and its T."""
        if self.depth == 0:
            return value
        residual = (value - x).double()
        size = residual.norm().detach()
        self._residuals.append(residual)
        self._values.append(value)
        if self._least is None:
            self._least = size
            self._counts = [torch.ones_like(size, dtype=torch.bool)]
            return value
        goes_on = size < GROWTH * self._least  # else it was led astray: begin anew from a plain step
        self._least = torch.where(goes_on, torch.minimum(size, self._least), size)
        self._counts = [count & goes_on for count in self._counts] + [torch.ones_like(goes_on)]
        for past in (self._residuals, self._values, self._counts):
            del past[: -self.depth - 1]
        counts = torch.stack(self._counts)  # [k]
        # What does not count is not finite, perhaps: 0 times it would be NaN.
        residuals = torch.where(counts[:, None], torch.stack(self._residuals), 0)  # [k, n]
        values = torch.where(counts[:, None], torch.stack(self._values), 0)
        gram = residuals @ residuals.T
        gram = gram / gram.diagonal().max().clamp_min(torch.finfo(gram.dtype).tiny)
        gram = gram + torch.diag(torch.where(counts, RIDGE, 1.0).to(gram))
        weights = torch.linalg.solve_ex(gram, counts[:, None].to(gram))[0]
        return ((weights / weights.sum()).to(value.dtype) * values).sum(0)
