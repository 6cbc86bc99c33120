"""A small vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.ssl.augment import Shape
from mi_estimators.ssl.encoders.base import Encoder

POSITIONS = 32
"""Patches that an image has at least, where its size allows."""


class ViT(Encoder):
    """Patches, learned positions, a class token, six pre-norm blocks of width 192; 192 features of the class token.

    2.7 million parameters. Images of other sizes than ``shape`` are taken too, if patches divide them: positions are
    then interpolated.

    Args:
        shape: of an image.
        patch: side of a patch in pixels. None: the largest of 16, 8, 4 and 2 that divides both sides and leaves at
            least 32 patches, else 1.

    Raises:
        ValueError: ``patch`` does not divide the sides.
    """

    def __init__(self, shape: Shape, patch: int | None = None, *, dim: int = 192, depth: int = 6) -> None:
        super().__init__()
        channels, height, width = shape
        if patch is None:
            fitting = (
                p for p in (16, 8, 4, 2) if not (height % p or width % p) and height * width >= POSITIONS * p * p
            )
            patch = next(fitting, 1)
        self.dim, self.patch = dim, patch
        self.grid = self._grid_of(height, width)
        self.embed = nn.Conv2d(channels, dim, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, math.prod(self.grid), dim))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    dim, dim // 64, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(dim)
        for parameter in (self.token, self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.MultiheadAttention)):
                weight = module.weight if isinstance(module, nn.Linear) else module.in_proj_weight
                nn.init.trunc_normal_(weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Encode a batch of images."""
        patches = self.embed(images).flatten(2).transpose(1, 2)  # [N, positions, dim]
        positions = self._positions(self._grid_of(*images.shape[2:]))
        token = self.token.expand(len(images), -1, -1)
        return self.norm(self.blocks(torch.cat([token, patches + positions], dim=1))[:, 0])

    def _grid_of(self, height: int, width: int) -> tuple[int, int]:
        if height % self.patch or width % self.patch:
            raise ValueError(f"encoder: patches of {self.patch} pixels do not divide images of {height} x {width}")
        return height // self.patch, width // self.patch

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if grid == self.grid:
            return self.positions
        whole = self.positions.transpose(1, 2).unflatten(2, self.grid)  # [1, dim, rows, columns]
        return F.interpolate(whole, size=grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
