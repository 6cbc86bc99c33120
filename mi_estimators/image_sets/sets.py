"""What an image set is: images as stored, with labels, in a training and a test split."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""


class PairedShape(tuple[int, int, int]):
    """The shape of paired arrays, whose values stand in one row: that of ``first``, then that of ``second``."""

    first: Shape
    second: Shape

    def __new__(cls, first: Shape, second: Shape) -> PairedShape:
        """The shape of the row, (1, 1, values)."""
        made = super().__new__(cls, (1, 1, math.prod(first) + math.prod(second)))
        made.first, made.second = first, second
        return made


@dataclass(frozen=True)
class Split:
    """Images as stored, with labels.

    Attributes:
        images: ``[N, C, H, W]``; uint8, or float32 of arrays that were floating.
        labels: int64, ``[N]``.
        scale: the stored value that stands for white; pixels are ``images / scale``, in ``[0, 1]``.
    """

    images: Tensor
    labels: Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Selected images in ``[0, 1]``, float32, on the device that holds the set."""
        return self.images[index].float() / self.scale

    def to(self, device: torch.device | str) -> Split:
        """The same split held on another device."""
        return Split(self.images.to(device), self.labels.to(device), self.scale)


@dataclass(frozen=True)
class ImageSet:
    """A training and a test split of one image set, with a digest of both."""

    name: str
    train: Split
    test: Split
    digest: str
    pair: PairedShape | None = None
    """Of a set of paired arrays, their shapes."""

    @property
    def shape(self) -> Shape:
        """Channels, height and width of an image."""
        if self.pair is not None:
            return self.pair
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def image_set(name: str, train: Split, test: Split, pair: PairedShape | None = None) -> ImageSet:
    """A set with the digest of its splits."""
    digest = hashlib.sha256()
    for split in (train, test):
        digest.update(split.images.numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    return ImageSet(name, train, test, digest.hexdigest(), pair)


def split_every(count: int, nth: int = 5) -> tuple[Tensor, Tensor]:
    """Which of ``count`` items train, and which, one in ``nth``, are held out where a set brings no split."""
    held_out = torch.arange(count) % nth == nth - 1
    return torch.nonzero(~held_out)[:, 0], torch.nonzero(held_out)[:, 0]
