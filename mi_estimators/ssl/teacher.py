"""Teachers of the distillation methods: networks that follow others slowly."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    r"""A copy of a network whose weights are an exponential moving average of that network's.

    :math:`\theta' \leftarrow m\, \theta' + (1 - m)\, \theta` at each :meth:`follow`; no gradient reaches it. Batch
    statistics are its own.

    Args:
        student: the network it starts as a copy of.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """The network's output, without a gradient."""
        return self.network(images)

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        """Move towards the student's weights."""
        for slow, fast in zip(self.network.parameters(), student.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)


def cosine(start: float, end: float, progress: float) -> float:
    """From ``start`` to ``end`` along half a cosine, as ``progress`` goes from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def linear(start: float, end: float, progress: float) -> float:
    """From ``start`` to ``end`` along a line, as ``progress`` goes from 0 to 1."""
    return end + (start - end) * (1 - progress)
