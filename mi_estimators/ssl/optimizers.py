"""Optimizers of the training loop, and the learning rate over training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from mi_estimators.ssl.lars import LARS
from mi_estimators.ssl.teacher import cosine

Groups = list[dict[str, Any]]


def _adam(groups: Groups, lr: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=lr, fused=True)


def _adamw(groups: Groups, lr: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def _sgd(groups: Groups, lr: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)


def _lars(groups: Groups, lr: float, momentum: float) -> torch.optim.Optimizer:
    return LARS(groups, lr=lr, momentum=momentum)


OPTIMIZERS: dict[str, Callable[[Groups, float, float], torch.optim.Optimizer]] = {
    "adam": _adam, "adamw": _adamw, "sgd": _sgd, "lars": _lars,
}  # fmt: skip
"""By name: groups of parameters, learning rate and momentum to an optimizer."""

NEEDS_LR = ("sgd", "lars")
"""Optimizers whose learning rate no preset gives: those are Adam's."""


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float = 0.0, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """An optimizer that leaves biases and the parameters of norms, all of one dimension, out of what is not for them.

    That is weight decay, and LARS's scaling. ``adam`` adds the decay to the gradient, ``adamw`` takes it off the
    weights.

    Args:
        name: a key of :data:`OPTIMIZERS`.
        parameters: of the method; those that need no gradient are left out.
        lr: learning rate.
        weight_decay: of weight matrices and kernels.
        momentum: of ``sgd`` and ``lars``.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups: Groups = [{"params": trained, "weight_decay": weight_decay}]
    if weight_decay or name == "lars":
        wide = {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay}
        narrow = {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0}
        if name == "lars":
            narrow["adapt"] = False
        groups = [group for group in (wide, narrow) if group["params"]]
    return OPTIMIZERS[name](groups, lr, momentum)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: cosine(1.0, 0.0, progress),
}
"""By name: the part of the learning rate that is left after a part of the training, both from 0 to 1."""


def rate_factor(schedule: str, step: int, steps: int, warmup: int = 0) -> float:
    """What the learning rate of a step is multiplied by.

    ``(step + 1) / warmup`` in the first ``warmup`` steps, which end at 1; then the schedule over the steps that are
    left. A function of the step alone, so a resumed run needs no scheduler state.

    Args:
        schedule: a key of :data:`SCHEDULES`.
        step: from 0 to ``steps - 1``.
        steps: of the whole training.
        warmup: steps of the linear rise, at most ``steps``.
    """
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[schedule]((step - warmup) / (steps - warmup))
