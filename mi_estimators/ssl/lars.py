"""LARS: gradient descent whose step is scaled layer by layer to the size of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ssl.method import check_not_negative


class LARS(torch.optim.Optimizer):
    r"""Layer-wise adaptive rate scaling, for large batches.

    Of a weight matrix w with gradient g, momentum m, weight decay :math:`\beta` and learning rate :math:`\gamma`:

    .. math::
        \lambda &= \eta\, \frac{\|w\|}{\|g\| + \beta \|w\|} \\
        v &\leftarrow m\, v + \gamma\, \lambda\, (g + \beta w) \\
        w &\leftarrow w - v

    :math:`\lambda = 1` where w or g is 0. In groups with ``adapt=False``, :math:`\lambda = 1`: what biases and the
    parameters of norms take. Parameters without a gradient stay as they are.

    Args:
        params: parameters, or groups of them; a group may set every argument below and ``adapt`` (default true).
        lr: :math:`\gamma`.
        momentum: m.
        weight_decay: :math:`\beta`.
        trust: :math:`\eta`.

    Raises:
        TypeError: a setting is not a number.
        ValueError: ``lr`` or ``trust`` is not > 0, ``momentum`` or ``weight_decay`` is negative, or not finite.

    Source: You, Gitman and Ginsburg (2017), arXiv 1708.03888, algorithm 1, with weight decay inside of the ratio.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        _checks.positive("lr", lr)
        _checks.positive("trust", trust)
        for name, value in (("momentum", momentum), ("weight_decay", weight_decay)):
            check_not_negative(name, value)
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step. ``closure``: computes the loss again, with gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            decay = group["weight_decay"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                change = weight.grad.add(weight, alpha=decay)
                if group["adapt"]:
                    size, slope = weight.norm(), weight.grad.norm()
                    ratio = group["trust"] * size / (slope + decay * size)
                    change.mul_(torch.where((size > 0) & (slope > 0), ratio, 1.0))  # no look that a GPU waits for
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                weight.sub_(state["momentum"].mul_(group["momentum"]).add_(change, alpha=group["lr"]))
        return loss
