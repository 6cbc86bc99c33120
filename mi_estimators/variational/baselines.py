"""Baselines a(y) of TUBA and I_alpha: they stand in for the critic's partition function of each y."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mi_estimators.networks import mlp, sizes


class Constant(nn.Module):
    """``log a = 0``: the critic itself has to be the log density ratio. No parameters."""

    def __init__(self, dim_y: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()

    def forward(self, y: Tensor) -> Tensor:
        """``[K, dim_y] -> [K]``."""
        return y.new_zeros(len(y))


class Learned(nn.Module):
    """``log a(y) = MLP(y)``.

    Args:
        dim_y: size of y.
        hidden: sizes of the hidden ReLU layers.
        generator: source of the initial weights; None takes PyTorch's global one.
    """

    def __init__(
        self, dim_y: int, *, hidden: Sequence[int] = (64, 64), generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.network = mlp([dim_y, *sizes("hidden", hidden), 1], generator)

    def forward(self, y: Tensor) -> Tensor:
        """``[K, dim_y] -> [K]``."""
        return self.network(y).squeeze(1)


class Gaussian(nn.Module):
    r"""``log a(y)``: a learned constant plus the exponent of a Gaussian with learned mean and deviations.

    Starts nearly flat, with variances 1 + d: for standardised y the mean of 1/a, and so of a fresh critic's
    exponentials, is then close to 1. Started at a standard normal it would be infinite.
    """

    def __init__(self, dim_y: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dim_y))
        self.log_std = nn.Parameter(torch.full((dim_y,), 0.5 * math.log(1 + dim_y)))
        self.constant = nn.Parameter(torch.tensor(0.5 * dim_y / (1 + dim_y)))

    def forward(self, y: Tensor) -> Tensor:
        """``[K, dim_y] -> [K]``."""
        z = (y - self.mean) * (-self.log_std).exp()
        return self.constant - 0.5 * z.square().sum(dim=1)


BASELINES: dict[str, Callable[..., nn.Module]] = {"constant": Constant, "learned": Learned, "gaussian": Gaussian}
"""Baselines by name: ``(dim_y, *, generator, **options)`` to a module from ``y [K, dim_y]`` to ``log a [K]``."""
