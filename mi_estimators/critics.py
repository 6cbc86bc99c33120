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
from mi_estimators.bounds import Factored
from mi_estimators.networks import batches, conv, linear, mlp, sizes


class Critic(Protocol):
    """What every critic is: a callable from two batches to their matrix of scores."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Score every pair: ``[N, dim_x], [M, dim_y] -> [N, M]``."""
        ...


class FactoredCritic(nn.Module):
    """A critic whose scores are inner products of two embeddings, ``f(x, y) = u(x) . v(y)``."""

    def __init__(self, dim_x: int, dim_y: int) -> None:
        super().__init__()
        self.dim_x = _checks.count("dim_x", dim_x)
        self.dim_y = _checks.count("dim_y", dim_y)

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
        batches(x, y, self.dim_x, self.dim_y)
        u, v = self.embeddings(x, y)
        return u @ v.T

    def factored(self, x: Tensor, y: Tensor) -> Factored:
        """The scores of a batch of pairs by their factors, which bounds take in place of the matrix.

        Shape:
            - x: ``[K, dim_x]``; y: ``[K, dim_y]``, K >= 2.

        Raises:
            TypeError: an argument is not a floating-point tensor.
            ValueError: an argument has the wrong number of columns, or they have different numbers of rows.
        """
        batches(x, y, self.dim_x, self.dim_y)
        return Factored(*self.embeddings(x, y))


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
        tail = [*sizes("hidden", hidden), _checks.count("embedding", embedding)]
        self.g = mlp([dim_x, *tail], generator)
        self.h = mlp([dim_y, *tail], generator)

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
        self.dim_x = _checks.count("dim_x", dim_x)
        self.dim_y = _checks.count("dim_y", dim_y)
        widths = sizes("hidden", hidden)
        if not widths:
            raise ValueError(
                "hidden: want at least one hidden layer, got none: the critic would be additive in x and y"
            )
        self.first = linear(dim_x + dim_y, widths[0], generator)
        self.rest = nn.Sequential(nn.ReLU(), mlp([*widths, 1], generator))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Score every pair.

        Shape:
            - x: ``[N, dim_x]``; y: ``[M, dim_y]``.
            - output: ``[N, M]``.

        Raises:
            TypeError: an argument is not a floating-point tensor.
            ValueError: an argument has the wrong number of columns.
        """
        batches(x, y, self.dim_x, self.dim_y)
        weight_x, weight_y = self.first.weight.split([self.dim_x, self.dim_y], dim=1)
        from_x = x @ weight_x.T + self.first.bias  # [N, h]
        from_y = y @ weight_y.T  # [M, h]
        return self.rest(from_x.unsqueeze(1) + from_y.unsqueeze(0)).squeeze(-1)


class Hybrid(nn.Module):
    """``f(x, y) = MLP([g(x), h(y)])``: a concatenated critic on the embeddings of a separable one.

    Embeddings take N + M network passes; the N M passes of the head are small.

    Args:
        dim_x: size of x.
        dim_y: size of y.
        hidden: sizes of the hidden ReLU layers of each embedding.
        embedding: size of g(x) and h(y).
        head: sizes of the hidden ReLU layers of the head, at least one.
        generator: source of the initial weights; None takes PyTorch's global one.

    Raises:
        ValueError: ``head`` is empty.
    """

    def __init__(
        self,
        dim_x: int,
        dim_y: int,
        *,
        hidden: Sequence[int] = (100,),
        embedding: int = 32,
        head: Sequence[int] = (64,),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.dim_x, self.dim_y = _checks.count("dim_x", dim_x), _checks.count("dim_y", dim_y)
        tail = [*sizes("hidden", hidden), _checks.count("embedding", embedding)]
        if not sizes("head", head):
            raise ValueError("head: want at least one hidden layer, got none: the critic would be additive in x and y")
        self.g = mlp([dim_x, *tail], generator)
        self.h = mlp([dim_y, *tail], generator)
        self.head = Concatenated(embedding, embedding, hidden=head, generator=generator)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Score every pair.

        Shape:
            - x: ``[N, dim_x]``; y: ``[M, dim_y]``.
            - output: ``[N, M]``.

        Raises:
            TypeError: an argument is not a floating-point tensor.
            ValueError: an argument has the wrong number of columns.
        """
        batches(x, y, self.dim_x, self.dim_y)
        return self.head(self.g(x), self.h(y))


class ConvSeparable(FactoredCritic):
    """``f(x, y) = g(x) . h(y)`` for images, given as rows of C H W numbers: convolutions on each side.

    Each 5 x 5 convolution of stride 2 halves the image; the mean over the positions that remain goes through a linear
    layer.

    Args:
        dim_x: C H W of ``shape_x``.
        dim_y: C H W of ``shape_y``.
        shape_x: ``(C, H, W)`` of the images of x.
        shape_y: of y; None for that of x.
        channels: numbers of channels of the convolutions, at least one.
        embedding: size of g(x) and h(y).
        generator: source of the initial weights; None takes PyTorch's global one.

    Raises:
        ValueError: a shape does not have three sizes, or their product is not the size of the rows.

    Source:
        Tschannen et al. 2020 (arXiv 1907.13625), sec. 3: the ConvNet encoder, here with no normalisation.
    """

    def __init__(
        self,
        dim_x: int,
        dim_y: int,
        *,
        shape_x: Sequence[int],
        shape_y: Sequence[int] | None = None,
        channels: Sequence[int] = (32, 64),
        embedding: int = 100,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(dim_x, dim_y)
        self.shape_x = _image_shape("shape_x", shape_x, dim_x)
        self.shape_y = _image_shape("shape_y", shape_x if shape_y is None else shape_y, dim_y)
        widths = sizes("channels", channels)
        if not widths:
            raise ValueError("channels: want at least one convolution, got none")
        _checks.count("embedding", embedding)
        self.g = _conv_net([self.shape_x[0], *widths], embedding, generator)
        self.h = _conv_net([self.shape_y[0], *widths], embedding, generator)

    def embeddings(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """``g(x)`` and ``h(y)``."""
        return self.g(x.unflatten(1, self.shape_x)), self.h(y.unflatten(1, self.shape_y))


def _image_shape(name: str, shape: Sequence[int], dim: int) -> tuple[int, int, int]:
    values = sizes(name, shape)
    if len(values) != 3 or math.prod(values) != dim:
        raise ValueError(f"{name}: want (C, H, W) whose product is the size of the rows ({dim}), got {tuple(values)}")
    return values[0], values[1], values[2]


def _conv_net(channels: Sequence[int], out: int, generator: torch.Generator | None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(channels):
        layers += [conv(n_in, n_out, 5, generator), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(channels[-1], out, generator))


CRITICS: dict[str, Callable[..., nn.Module]] = {
    "inner_product": InnerProduct,
    "bilinear": Bilinear,
    "separable": Separable,
    "concatenated": Concatenated,
    "hybrid": Hybrid,
    "conv": ConvSeparable,
}
