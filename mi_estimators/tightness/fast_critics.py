"""The critics of a staircase, for training: the same functions of the same parameters, with less overhead.

:class:`PairCritic` is a :class:`~mi_estimators.critics.Concatenated` critic with a backward written by hand. With two
hidden layers of h units its cost is three products of ``[K^2, h]`` and ``[h, h]`` a step. Beside them autograd
allocates and keeps a result for every operation; here there is one buffer a layer, used again at every step, and a ReLU
overwrites what it reads: its mask is the sign of its output. The mask of the last hidden layer is multiplied by the
gradients of the scores alone; the weights of the output layer, which would multiply its columns, are multiplied into
the small factor of each product instead.

In ``bfloat16`` the two large factors of every product are rounded to 8 bits of mantissa and the sums are taken in
float32, which CPUs with AMX do several times faster. Parameters, their gradients, the first and the last layer, scores
and the bound stay float32.

:class:`SeparableStack` trains several separable critics together: one batched product for each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mi_estimators.critics import Concatenated, Separable


class Workspace:
    """Buffers used again from step to step, by shape and dtype. What a pass takes it has to give back."""

    def __init__(self) -> None:
        self._free: dict[tuple[tuple[int, ...], torch.dtype, torch.device], list[Tensor]] = {}

    def take(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer that nobody else holds."""
        free = self._free.get((shape, dtype, device))
        return free.pop() if free else torch.empty(shape, dtype=dtype, device=device)

    def give(self, *buffers: Tensor) -> None:
        """Let others have them."""
        for buffer in buffers:
            self._free.setdefault((tuple(buffer.shape), buffer.dtype, buffer.device), []).append(buffer)


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
        n, m = len(from_x), len(from_y)
        *hidden, weight, bias = layers
        casts = [value.to(dtype) for value in hidden]
        first = workspace.take((n, m, from_x.shape[1]), dtype, from_x.device)
        torch.add(from_x.to(dtype).unsqueeze(1), from_y.to(dtype), out=first).relu_()
        activations = [first.view(n * m, -1)]
        for w, b in zip(casts[::2], casts[1::2], strict=True):
            out = workspace.take((n * m, len(b)), dtype, from_x.device)
            torch.addmm(b, activations[-1], w.T, out=out).relu_()
            activations.append(out)
        last = _widened(activations[-1], from_x.dtype, workspace)
        scores = torch.addmv(bias, last, weight[0]).view(n, m)
        ctx.workspace, ctx.size, ctx.dtype, ctx.activations, ctx.last = workspace, (n, m), dtype, activations, last
        ctx.save_for_backward(*layers)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.activations is None:
            raise RuntimeError("backward: the buffers of this forward pass were given back by its first backward")
        n, m = ctx.size
        workspace, activations = ctx.workspace, ctx.activations
        *hidden, weight, _ = ctx.saved_tensors
        flat = gradient.reshape(n * m)
        grads: list[Tensor] = [flat.sum().view(1), (flat @ ctx.last).unsqueeze(0)]  # from the last to the first
        if ctx.last is not activations[-1]:
            workspace.give(ctx.last)
        scale = weight[0]  # of the columns of d, not yet multiplied in
        d = workspace.take(tuple(activations[-1].shape), ctx.dtype, gradient.device)
        _masked(flat.to(ctx.dtype).unsqueeze(1).expand_as(d), activations[-1], d)
        workspace.give(activations[-1])
        for index in range(len(activations) - 2, -1, -1):
            w, below = hidden[2 * index], activations[index]
            grads.append(d.sum(0).to(scale.dtype) * scale)
            grads.append((d.T @ below).to(scale.dtype) * scale.unsqueeze(1))
            into = workspace.take(tuple(below.shape), ctx.dtype, gradient.device)
            torch.mm(d, (w * scale.unsqueeze(1)).to(ctx.dtype), out=into)
            _masked(into, below, into)
            workspace.give(d, below)
            d, scale = into, torch.ones((), dtype=scale.dtype, device=scale.device).expand(into.shape[1])
        pairs = d.view(n, m, -1)
        d_x = pairs.sum(1).to(scale.dtype) * scale
        d_y = pairs.sum(0).to(scale.dtype) * scale
        workspace.give(pairs)
        ctx.activations = ctx.last = None
        return None, None, d_x, d_y, *reversed(grads)


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
