"""The critics of a staircase, for training: the same functions of the same parameters, with less overhead.

:class:`PairCritic` is a :class:`~mi_estimators.critics.Concatenated` critic with a backward written by hand. With two
hidden layers of h units its cost is three products of ``[K^2, h]`` and ``[h, h]`` a step. Beside them autograd visits
the pairs again for every sum, bias, ReLU, mask and cast; here the first and the last layer, with all of that, are one
visit each forward and one backward (:mod:`mi_estimators.ops.pair_layers`).

In ``bfloat16`` the two large factors of every product are rounded to 8 bits of mantissa and the sums are taken in
float32, which CPUs with AMX do several times faster. Parameters, the sums of their gradients over a batch's blocks, the
first and the last layer, scores and the bound stay float32.

:class:`SeparableStack` trains several separable critics together: one batched product for each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mi_estimators.critics import Concatenated, Separable

BLOCK = 4096
"""Pairs that pass through all layers together, so that memory and its traffic are those of a part of a large batch."""


class _PairMLP(torch.autograd.Function):
    """Scores ``[N, M]`` from the first layer's parts ``[N, h]`` and ``[M, h]`` and the layers behind it."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, from_x: Tensor, from_y: Tensor, *layers: Tensor) -> Tensor:
        *hidden, weight, bias = layers
        casts = [value.to(dtype) for value in hidden]
        scores, blocks = [], []
        for rows in from_x.split(max(1, BLOCK // len(from_y))):
            activations = [torch.ops.mi_estimators.pair_relu(rows, from_y, dtype != from_x.dtype)]
            for index in range(0, len(casts), 2):
                if index:
                    activations[-1].relu_()
                activations.append(torch.addmm(casts[index + 1], activations[-1], casts[index].T))
            scores.append(torch.ops.mi_estimators.relu_dot(activations[-1], weight[0]).view(len(rows), -1))
            blocks.append(activations)
        ctx.blocks, ctx.casts = blocks, casts
        ctx.save_for_backward(*layers)
        return torch.cat(scores) + bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.blocks is None:
            raise RuntimeError("backward: what the forward pass kept was freed by its first backward")
        blocks, casts = ctx.blocks, ctx.casts
        ctx.blocks = None
        *hidden, weight, _ = ctx.saved_tensors
        grads = [torch.zeros_like(value) for value in (*hidden, weight)]
        d_x, d_y = [], []
        for rows in gradient.split(max(1, BLOCK // gradient.shape[1])):
            first, *behind = blocks.pop(0)
            last = behind.pop() if behind else first
            d, d_weight, sums = torch.ops.mi_estimators.relu_dot_backward(rows.reshape(-1), last, weight[0])
            del last
            grads[-1][0] += d_weight
            for index in range(len(hidden) - 2, -1, -2):
                below = behind.pop() if index else first
                grads[index + 1] += sums
                grads[index] += d.T @ below
                d = d @ casts[index]
                if index:
                    d = torch.ops.aten.threshold_backward(d, below, 0)
                    sums = d.sum(0, dtype=weight.dtype)
            from_rows, from_columns = torch.ops.mi_estimators.pair_relu_backward(d, first, len(rows))
            d_x.append(from_rows)
            d_y.append(from_columns)
        return None, torch.cat(d_x), torch.stack(d_y).sum(0), *grads, gradient.sum().view(1)


class PairCritic(nn.Module):
    """A :class:`~mi_estimators.critics.Concatenated` critic, its parameters included, with a backward of its own.

    Scores and gradients are those of the critic, to rounding. First derivatives only.

    Args:
        critic: whose parameters to use.
        dtype: of the large factors of the products; None takes that of the parameters.
    """

    def __init__(self, critic: Concatenated, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.critic = critic
        self.dtype = dtype

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Score every pair.

        Shape:
            - x: ``[N, dim_x]``; y: ``[M, dim_y]``.
            - output: ``[N, M]``.
        """
        first = self.critic.first
        if not torch.is_grad_enabled():
            return cast(Tensor, self.critic(x, y))
        weight_x, weight_y = first.weight.split([self.critic.dim_x, self.critic.dim_y], dim=1)
        linear = [module for module in self.critic.rest.modules() if isinstance(module, nn.Linear)]
        layers = [value for module in linear for value in (module.weight, module.bias)]
        dtype = self.dtype or first.weight.dtype
        from_x = torch.addmm(first.bias, x, weight_x.T)
        return cast(Tensor, _PairMLP.apply(dtype, from_x, y @ weight_y.T, *layers))


class SeparableStack:
    """Separable critics of the same sizes, trained together: one batched product for each layer of all of them.

    Args:
        critics: whose weights to start from; they are not changed.

    Attributes:
        weights: ``[S, P]``, all weights of critic s in row s, for an optimizer that takes a critic as one tensor.
        gradients: ``[S, P]``, theirs.
    """

    def __init__(self, critics: Sequence[Separable]) -> None:
        states = [list(critic.parameters()) for critic in critics]
        shapes = [parameter.shape for parameter in states[0]]
        with torch.no_grad():
            self.weights = torch.stack([torch.cat([parameter.flatten() for parameter in state]) for state in states])
        self.gradients = torch.zeros_like(self.weights)
        parts = self.weights.split([shape.numel() for shape in shapes], dim=1)
        self._layers = [part.unflatten(1, shape).requires_grad_() for part, shape in zip(parts, shapes, strict=True)]

    def scores(self, x: Tensor, y: Tensor) -> Tensor:
        """Score every pair by every critic.

        Shape:
            - x: ``[S, K, dim_x]``; y: ``[S, K, dim_y]``, a batch for each of S critics.
            - output: ``[S, K, K]``.
        """
        half = len(self._layers) // 2
        return _stacked_mlp(x, self._layers[:half]) @ _stacked_mlp(y, self._layers[half:]).mT

    def backward(self, scores: Tensor, gradient: Tensor) -> None:
        """Fill ``gradients`` from that of the scores.

        Shape:
            - scores, gradient: ``[S, K, K]``.
        """
        gradients = torch.autograd.grad(scores, self._layers, gradient)
        torch.cat([gradient.flatten(1) for gradient in gradients], dim=1, out=self.gradients)


def _stacked_mlp(value: Tensor, layers: Sequence[Tensor]) -> Tensor:
    for index in range(0, len(layers), 2):
        if index:
            value = value.relu_()
        value = torch.baddbmm(layers[index + 1].unsqueeze(1), value, layers[index].mT)
    return value
