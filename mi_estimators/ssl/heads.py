"""Heads of the methods: what stands between the encoder and the loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators import _checks


def projection_head(dim: int, out: int, *, batch_norm: bool = True) -> nn.Sequential:
    """SimCLR's projection: a hidden layer of 256 units with batch norm and ReLU, then ``out`` linear outputs."""
    out = _checks.count("projection", out, 2)  # the methods' setting: what lies on a sphere has two dimensions
    hidden = [nn.Linear(dim, 256, bias=False), nn.BatchNorm1d(256)] if batch_norm else [nn.Linear(dim, 256)]
    return nn.Sequential(*hidden, nn.ReLU(), nn.Linear(256, out))


class PrototypeHead(nn.Module):
    """DINO's head: an MLP to a unit bottleneck, then its cosines with ``outputs`` prototypes.

    The cosines are what the paper's weight-normalised last layer gives with its gains held at 1.

    While ``frozen`` is set the prototypes get no gradient.

    Args:
        dim: size of the encoder's output.
        outputs: number of prototypes.
        bottleneck: size of the unit vectors.
        batch_norm: in the hidden layer, as SwAV's head has it and DINO's has not.

    Shape:
        - features: ``[N, dim]``.
        - output: ``[N, outputs]``, in [-1, 1].
    """

    def __init__(self, dim: int, outputs: int, bottleneck: int = 64, *, batch_norm: bool = True) -> None:
        super().__init__()
        self.layers = projection_head(dim, bottleneck, batch_norm=batch_norm)
        self.prototypes = nn.Parameter(torch.randn(outputs, bottleneck))
        self.frozen = False

    def forward(self, features: Tensor) -> Tensor:
        """Cosines with the prototypes."""
        prototypes = self.prototypes.detach() if self.frozen else self.prototypes
        return F.normalize(self.layers(features), dim=1) @ F.normalize(prototypes, dim=1).T
