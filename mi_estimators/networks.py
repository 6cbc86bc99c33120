"""Small networks that critics, baselines and densities are made of, and checks they share.

Weights are drawn from ``generator`` where one is given, and then the global random state is neither read nor moved.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mi_estimators import _checks


def sizes(name: str, values: Sequence[int]) -> list[int]:
    """Check for a sequence of positive integers."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name}: want a sequence of integers, got {_checks.describe(values)}")
    return [_checks.count(name, value) for value in values]


def batch(name: str, value: Tensor, dim: int) -> None:
    """Check for a finite floating-point matrix of the given width."""
    _checks.floating(name, value)
    if value.shape[1] != dim:
        raise ValueError(f"{name}: want {dim} columns, got {_checks.describe(value)}")
    _checks.finite(name, value)


def batches(x: Tensor, y: Tensor, dim_x: int, dim_y: int) -> None:
    """Check for finite floating-point matrices of the given widths, alike in dtype and device."""
    batch("x", x, dim_x)
    batch("y", y, dim_y)
    _checks.alike("y", y, "x", x, same_width=False)


def _initialise(layer: nn.Linear | nn.Conv2d, fan_in: int, generator: torch.Generator | None) -> None:
    bound = 1 / math.sqrt(fan_in)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)


def linear(in_features: int, out_features: int, generator: torch.Generator | None) -> nn.Linear:
    """A linear layer with PyTorch's usual initialisation, drawn from ``generator``."""
    # skip_init: nn.Linear's own initialisation would draw from the global generator.
    layer = nn.utils.skip_init(nn.Linear, in_features, out_features)
    _initialise(layer, in_features, generator)
    return layer


def conv(in_channels: int, out_channels: int, kernel: int, generator: torch.Generator | None) -> nn.Conv2d:
    """A convolution with stride 2, each side halved (rounded up), initialised as :func:`linear`."""
    layer = nn.utils.skip_init(nn.Conv2d, in_channels, out_channels, kernel, stride=2, padding=kernel // 2)
    _initialise(layer, in_channels * kernel**2, generator)
    return layer


def mlp(widths: Sequence[int], generator: torch.Generator | None) -> nn.Sequential:
    """Linear layers of the given sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [linear(n_in, n_out, generator), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def soft_clip(value: Tensor, limit: float) -> Tensor:
    """``limit tanh(value / limit)``: the identity near 0, never beyond the limit."""
    return limit * torch.tanh(value / limit)
