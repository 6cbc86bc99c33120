"""Critics: networks that score every x of a batch against every y.

A critic maps ``x [N, dim_x]`` and ``y [M, dim_y]`` to ``scores [N, M]`` with ``scores[i, j] = f(x_i, y_j)``. Those that
factor, ``scores = u v^T``, also give ``embeddings(x, y) -> (u, v)``, so that a fused loss need not hold the scores.

Weights are drawn from ``generator`` where one is given, and then the global random state is neither read nor moved.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from mi_estimators import _checks


class Critic(Protocol):
    """What every critic is: a callable from two batches to their matrix of scores."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Score every pair: ``[N, dim_x], [M, dim_y] -> [N, M]``."""
        ...


def _size(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: want an integer, got {_checks.describe(value)}")
    if value < 1:
        raise ValueError(f"{name}: want at least 1, got {value}")
    return value


def _batches(x: Tensor, y: Tensor, dim_x: int, dim_y: int) -> None:
    for name, value, dim in (("x", x, dim_x), ("y", y, dim_y)):
        _checks.floating(name, value)
        if value.shape[1] != dim:
            raise ValueError(f"{name}: want {dim} columns, got {_checks.describe(value)}")
        _checks.finite(name, value)
    _checks.alike("y", y, "x", x, same_width=False)


def _linear(in_features: int, out_features: int, generator: torch.Generator | None) -> nn.Linear:
    """A linear layer with PyTorch's usual initialisation, drawn from ``generator``."""
    # skip_init: nn.Linear's own initialisation would draw from the global generator.
    layer = nn.utils.skip_init(nn.Linear, in_features, out_features)
    bound = 1 / math.sqrt(in_features)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


def _mlp(sizes: Sequence[int], generator: torch.Generator | None) -> nn.Sequential:
    """Linear layers of the given sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [_linear(n_in, n_out, generator), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class FactoredCritic(nn.Module):
    """A critic whose scores are inner products of two embeddings, ``f(x, y) = u(x) . v(y)``."""

    def __init__(self, dim_x: int, dim_y: int) -> None:
        super().__init__()
        self.dim_x = _size("dim_x", dim_x)
        self.dim_y = _size("dim_y", dim_y)

    def embeddings(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The factors u and v of the scores ``u v^T``.

        Shape:
            - x: ``[N, dim_x]``; y: ``[M, dim_y]``.
            - output: u ``[N, e]`` and v ``[M, e]``.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Score every pair.

        Shape:
            - x: ``[N, dim_x]``; y: ``[M, dim_y]``.
            - output: ``[N, M]``.

        Raises:
            TypeError: an argument is not a floating-point tensor.
            ValueError: an argument has the wrong number of columns.
        """
        _batches(x, y, self.dim_x, self.dim_y)
        u, v = self.embeddings(x, y)
        return u @ v.T


class InnerProduct(FactoredCritic):
    """``f(x, y) = x . y``: no parameters; for learned representations of the same size.

    Raises:
        ValueError: ``dim_x`` and ``dim_y`` differ.

    Source:
        Tschannen et al. 2020 (arXiv 1907.13625), sec. 3.2.
    """

    def __init__(self, dim_x: int, dim_y: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__(dim_x, dim_y)
        if dim_x != dim_y:
            raise ValueError(f"dim_y: want dim_x ({dim_x}) for an inner product, got {dim_y}")

    def embeddings(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x and y themselves."""
        return x, y


class Bilinear(FactoredCritic):
    """``f(x, y) = x^T W y`` with a learned W ``[dim_x, dim_y]``.

    Source:
        van den Oord et al. 2018 (arXiv 1807.03748), eq. 3; Tschannen et al. 2020 (arXiv 1907.13625), sec. 3.2.
    """

    def __init__(self, dim_x: int, dim_y: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__(dim_x, dim_y)
        self.weight = nn.Parameter(torch.empty(dim_x, dim_y))
        bound = 1 / math.sqrt(dim_x)
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)

    def embeddings(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """``x W`` and y."""
        return x @ self.weight, y


class Separable(FactoredCritic):
    """``f(x, y) = g(x) . h(y)`` with an MLP on each side: N + M network passes for N M scores.

    Args:
        dim_x: size of x.
        dim_y: size of y.
        hidden: sizes of the hidden ReLU layers of each side.
        embedding: size of g(x) and h(y).
        generator: source of the initial weights; None takes PyTorch's global one.

    Source:
        Tschannen et al. 2020 (arXiv 1907.13625), sec. 3.2: one hidden layer of 100, embeddings of 100.
    """

    def __init__(
        self,
        dim_x: int,
        dim_y: int,
        *,
        hidden: Sequence[int] = (100,),
        embedding: int = 100,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(dim_x, dim_y)
        tail = [*(_size("hidden", size) for size in hidden), _size("embedding", embedding)]
        self.g = _mlp([dim_x, *tail], generator)
        self.h = _mlp([dim_y, *tail], generator)

    def embeddings(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """``g(x)`` and ``h(y)``."""
        return self.g(x), self.h(y)


class Concatenated(nn.Module):
    """``f(x, y) = MLP([x, y])``, also called a joint critic: N M network passes for N M scores.

    The first layer is linear in [x, y], so it is applied to x and to y apart and added: the N M concatenated inputs
    never exist. Memory is that of ``[N, M, hidden]`` activations.

    Args:
        dim_x: size of x.
        dim_y: size of y.
        hidden: sizes of the hidden ReLU layers, at least one.
        generator: source of the initial weights; None takes PyTorch's global one.

    Raises:
        ValueError: ``hidden`` is empty.

    Source:
        Tschannen et al. 2020 (arXiv 1907.13625), sec. 3.2: one hidden layer of 200.
    """

    def __init__(
        self, dim_x: int, dim_y: int, *, hidden: Sequence[int] = (200,), generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.dim_x = _size("dim_x", dim_x)
        self.dim_y = _size("dim_y", dim_y)
        sizes = [_size("hidden", size) for size in hidden]
        if not sizes:
            raise ValueError(
                "hidden: want at least one hidden layer, got none: the critic would be additive in x and y"
            )
        self.first = _linear(dim_x + dim_y, sizes[0], generator)
        self.rest = nn.Sequential(nn.ReLU(), _mlp([*sizes, 1], generator))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Score every pair.

        Shape:
            - x: ``[N, dim_x]``; y: ``[M, dim_y]``.
            - output: ``[N, M]``.

        Raises:
            TypeError: an argument is not a floating-point tensor.
            ValueError: an argument has the wrong number of columns.
        """
        _batches(x, y, self.dim_x, self.dim_y)
        weight_x, weight_y = self.first.weight.split([self.dim_x, self.dim_y], dim=1)
        from_x = x @ weight_x.T + self.first.bias  # [N, h]
        from_y = y @ weight_y.T  # [M, h]
        return self.rest(from_x.unsqueeze(1) + from_y.unsqueeze(0)).squeeze(-1)


CRITICS: dict[str, Callable[..., nn.Module]] = {
    "inner_product": InnerProduct,
    "bilinear": Bilinear,
    "separable": Separable,
    "concatenated": Concatenated,
}
