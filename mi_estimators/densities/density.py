"""What every conditional density is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mi_estimators import _checks
from mi_estimators.networks import batch, batches, linear, mlp, sizes

LOG_SCALE_LIMIT = 10.0
"""Logarithms of learned scales are softly kept within this of 0, so that no step of training overflows."""


class ConditionalDensity(nn.Module):
    """A density q(y | x). A known channel is a subclass whose :meth:`log_prob` says its density.

    Args:
        dim_x: size of x; 0 for a density of y alone.
        dim_y: size of y.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size is negative, or ``dim_y`` is 0.
    """

    def __init__(self, dim_x: int, dim_y: int) -> None:
        super().__init__()
        self.dim_x = 0 if type(dim_x) is int and dim_x == 0 else _checks.count("dim_x", dim_x)
        self.dim_y = _checks.count("dim_y", dim_y)

    def log_prob(self, y: Tensor, x: Tensor | None = None) -> Tensor:
        """``log q(y_i | x_i)`` of each pair.

        Shape:
            - y: ``[N, dim_y]``; x: ``[N, dim_x]``, or None where ``dim_x`` is 0.
            - output: ``[N]``, nats.

        Raises:
            TypeError: an argument is not a floating-point tensor, or their dtypes differ.
            ValueError: other shapes, values that are not finite.
        """
        raise NotImplementedError

    def log_prob_matrix(self, y: Tensor, x: Tensor) -> Tensor:
        """``log q(y_j | x_i)`` of every pair.

        Shape:
            - y: ``[M, dim_y]``; x: ``[N, dim_x]``.
            - output: ``[N, M]``, nats.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`.
        """
        batches(x, y, self.dim_x, self.dim_y)
        n, m = len(x), len(y)
        pairs_x = x.unsqueeze(1).expand(n, m, self.dim_x).reshape(n * m, self.dim_x)
        pairs_y = y.unsqueeze(0).expand(n, m, self.dim_y).reshape(n * m, self.dim_y)
        return self.log_prob(pairs_y, pairs_x).reshape(n, m)

    def check(self, y: Tensor, x: Tensor | None) -> None:
        """Check the arguments of :meth:`log_prob`."""
        if self.dim_x == 0:
            if x is not None:
                raise ValueError(f"x: want None for a density of y alone (dim_x = 0), got {_checks.describe(x)}")
            batch("y", y, self.dim_y)
            return
        if x is None:
            raise ValueError(f"x: want shape [N, {self.dim_x}], got None")
        batches(x, y, self.dim_x, self.dim_y)
        if len(x) != len(y):
            raise ValueError(f"y: want as many rows as x ({len(x)}), got {_checks.describe(y)}")


class Conditioner(nn.Module):
    """Parameters of a density as a function of what it is given: an MLP, or where nothing is given, a learned vector.

    Args:
        dim: size of what is given; 0 for nothing.
        count: number of parameters.
        hidden: sizes of the hidden ReLU layers.
        generator: source of the initial weights; None takes PyTorch's global one.
    """

    def __init__(self, dim: int, count: int, hidden: Sequence[int], generator: torch.Generator | None) -> None:
        super().__init__()
        widths = sizes("hidden", hidden)
        if dim:
            self.network: nn.Module | None = mlp([dim, *widths, count], generator)
        else:
            self.network = None
            self.vector = nn.Parameter(linear(1, count, generator).bias.detach())

    def forward(self, given: Tensor | None) -> Tensor:
        """``[N, dim] -> [N, count]``; where nothing is given, ``[1, count]``."""
        if self.network is None or given is None:
            return self.vector.unsqueeze(0)
        return self.network(given)
