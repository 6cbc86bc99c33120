"""The critics of a staircase, for training: the same functions of the same parameters, with less overhead.

:class:`PairCritic` is a :class:`~mi_estimators.critics.Concatenated` critic with a backward written by hand. With two
hidden layers of h units its cost is three products of ``[K^2, h]`` and ``[h, h]`` a step. Beside them autograd
allocates and keeps a result for every operation; here there is one buffer a layer, used again at every step, and a ReLU
overwrites what it reads: its mask is the sign of its output. The mask of the last hidden layer is multiplied by the
gradients of the scores alone; the weights of the output layer, which would multiply its columns, are multiplied into
the small factor of each product instead.

In ``bfloat16`` the two large factors of every product are rounded to 8 bits of mantissa and the sums are taken in
float32, which CPUs with AMX do several times faster. Parameters, the sums of their gradients over a batch's blocks, the
first and the last layer, scores and the bound stay float32.

:class:`SeparableStack` trains several separable critics together: one batched product for each layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mi_estimators.critics import Concatenated, Separable

BLOCK = 4096
"""Pairs that pass through all layers together, so that memory and its traffic are those of a part of a large batch."""


class Workspace:
    """Buffers used again from step to step, by size and dtype. What a pass takes it has to give back."""

    def __init__(self) -> None:
        self._free: dict[tuple[int, torch.dtype, torch.device], list[Tensor]] = {}

    def take(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer that nobody else holds."""
        free = self._free.get((math.prod(shape), dtype, device))
        return free.pop().view(shape) if free else torch.empty(shape, dtype=dtype, device=device)

    def give(self, *buffers: Tensor) -> None:
        """Let others have them."""
        for buffer in buffers:
            self._free.setdefault((buffer.numel(), buffer.dtype, buffer.device), []).append(buffer)


class _PairMLP(torch.autograd.Function):
    """Scores ``[N, M]`` from the first layer's parts ``[N, h]`` and ``[M, h]`` and the layers behind it."""

    @staticmethod
    def forward(
        ctx: Any,
        workspace: Workspace,
        dtype: torch.dtype,
        from_x: Tensor,
        from_y: Tensor,
        *layers: Tensor,
    ) -> Tensor:
        m = len(from_y)
        *hidden, weight, bias = layers
        casts = [value.to(dtype) for value in hidden]
        scores, blocks = [], []
        for rows in from_x.split(max(1, BLOCK // m)):
            pairs = (len(rows), m, from_x.shape[1])
            first = workspace.take(pairs, from_x.dtype, from_x.device)
            torch.add(rows.unsqueeze(1), from_y, out=first)
            activations = [_narrowed(first.view(-1, pairs[2]), dtype, workspace).relu_()]
            for w, b in zip(casts[::2], casts[1::2], strict=True):
                out = workspace.take((len(rows) * m, len(b)), dtype, from_x.device)
                activations.append(torch.addmm(b, activations[-1], w.T, out=out).relu_())
            last = _widened(activations[-1], from_x.dtype, workspace)
            scores.append(torch.addmv(bias, last, weight[0]).view(-1, m))
            if last is not activations[-1]:
                workspace.give(last)
            blocks.append(activations)
        ctx.workspace, ctx.dtype, ctx.blocks = workspace, dtype, blocks
        ctx.save_for_backward(*layers)
        return torch.cat(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.blocks is None:
            raise RuntimeError("backward: the buffers of this forward pass were given back by its first backward")
        workspace, dtype, blocks = ctx.workspace, ctx.dtype, ctx.blocks
        ctx.blocks = None
        *hidden, weight, _ = ctx.saved_tensors
        grads = [torch.zeros_like(value) for value in (*hidden, weight)]
        m, scale = gradient.shape[1], weight[0]
        # Of a hidden layer that feeds the output layer, the columns of d are multiplied by its weights: here, once.
        scaled = [w.to(dtype) for w in hidden[::2]]
        if scaled:
            scaled[-1] = (hidden[-2] * scale.unsqueeze(1)).to(dtype)
        d_x, d_y = [], torch.zeros(m, blocks[0][0].shape[1], dtype=gradient.dtype, device=gradient.device)
        for activations, rows in zip(blocks, gradient.split(max(1, BLOCK // m)), strict=True):
            flat = rows.reshape(-1)
            narrow = flat.to(dtype)
            grads[-1][0] += torch.mv(activations[-1].T, narrow)
            d = workspace.take(tuple(activations[-1].shape), dtype, gradient.device)
            _masked(narrow.unsqueeze(1).expand_as(d), activations[-1], d)
            workspace.give(activations[-1])
            for index in range(len(activations) - 2, -1, -1):
                below = activations[index]
                grads[2 * index + 1] += d.sum(0)
                if dtype == gradient.dtype:
                    grads[2 * index].addmm_(d.T, below)
                else:
                    grads[2 * index] += d.T @ below
                into = workspace.take(tuple(below.shape), dtype, gradient.device)
                torch.mm(d, scaled[index], out=into)
                _masked(into, below, into)
                workspace.give(d, below)
                d = into
            pairs = d.view(-1, m, d.shape[1])
            d_x.append(pairs.sum(1))
            d_y += pairs.sum(0)
            workspace.give(d)
        joined = torch.cat(d_x).to(gradient.dtype)
        if hidden:
            grads[-3] *= scale.unsqueeze(1)
            grads[-2] *= scale
        else:
            joined, d_y = joined * scale, d_y * scale
        return None, None, joined, d_y, *grads, gradient.sum().view(1)


def _narrowed(value: Tensor, dtype: torch.dtype, workspace: Workspace) -> Tensor:
    """The value in another type, its own buffer given back."""
    if value.dtype == dtype:
        return value
    narrow = workspace.take(tuple(value.shape), dtype, value.device).copy_(value)
    workspace.give(value)
    return narrow


def _widened(value: Tensor, dtype: torch.dtype, workspace: Workspace) -> Tensor:
    if value.dtype == dtype:
        return value
    return workspace.take(tuple(value.shape), dtype, value.device).copy_(value)


def _masked(gradient: Tensor, activation: Tensor, out: Tensor) -> None:
    """Write the gradient where the ReLU's output is positive, 0 elsewhere."""
    torch.ops.aten.threshold_backward.grad_input(gradient, activation, 0, grad_input=out)


class PairCritic(nn.Module):
    """A :class:`~mi_estimators.critics.Concatenated` critic, its parameters included, with a backward of its own.

    Scores and gradients are those of the critic, to rounding. First derivatives only.

    Args:
        critic: whose parameters to use.
        workspace: buffers to share with other critics.
        dtype: of the large factors of the products; None takes that of the parameters.
    """

    def __init__(self, critic: Concatenated, workspace: Workspace, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.critic = critic
        self.workspace = workspace
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
        return cast(Tensor, _PairMLP.apply(self.workspace, dtype, from_x, y @ weight_y.T, *layers))


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
