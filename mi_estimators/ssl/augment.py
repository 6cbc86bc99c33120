"""How an image becomes the pair of views a method compares, and which view the probe is given.

Views are made on tensors, a batch at a time, on the device that holds the images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from mi_estimators._extras import require

Views = tuple[Tensor, Tensor]


class ViewMaker(Protocol):
    """Makes a pair of views of a batch of images, and the plain view that a probe reads."""

    def __call__(self, images: Tensor) -> Views:
        """The pair of views a method trains on; random ones draw from torch's global generator."""
        ...

    def held_out(self, images: Tensor) -> Views:
        """The pair that bounds on test images are evaluated on: without what only serves to regularise training."""
        ...

    def anchor(self, images: Tensor) -> Tensor:
        """The view whose representation, or whose pixels, the probe classifies."""
        ...

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise ValueError where images of this shape have no such views."""
        ...


def _augmentation() -> nn.Module:
    """A random change of small grey images, drawn anew for each: geometry, contrast, noise, a small erased box.

    Rotation, shift, scale and shear leave a digit a digit. No flips and no crops: both change what an image of 8 x 8
    pixels shows.
    """
    augmentation = require("kornia.augmentation", "train")
    return nn.Sequential(
        augmentation.RandomAffine(degrees=15.0, translate=(0.1, 0.1), scale=(0.85, 1.15), shear=(-8.0, 8.0), p=1.0),
        augmentation.RandomContrast(contrast=(0.7, 1.3), p=0.8),
        augmentation.RandomGaussianNoise(std=0.05, p=0.5),
        augmentation.RandomErasing(scale=(0.02, 0.15), ratio=(0.5, 2.0), p=0.5),
    )


class TwoAugmentations:
    """Two independent random augmentations of the whole image; the probe reads the image as it is.

    Shape:
        - images: ``[N, 1, H, W]`` in ``[0, 1]``.
        - output: two views, each ``[N, 1, H, W]``.
    """

    def __init__(self) -> None:
        self.augment = _augmentation()

    def __call__(self, images: Tensor) -> Views:
        """Augment both views in one pass over the doubled batch."""
        first, second = self.augment(torch.cat([images, images])).chunk(2)
        return first, second

    def held_out(self, images: Tensor) -> Views:
        """Two augmentations: they are what the bound is about."""
        return self(images)

    def anchor(self, images: Tensor) -> Tensor:
        """The image itself."""
        return images

    def check(self, shape: tuple[int, int, int]) -> None:
        """Any image will do."""


class Halves:
    """The top and the bottom half of an image (Tschannen et al. 2020, sec. 3); the probe reads the top half.

    Args:
        augmented: augment each half independently of the other. That adds nothing that the halves share, so their
            information can only fall; on a small set it keeps the encoders from learning the images by heart.

    Shape:
        - images: ``[N, 1, H, W]`` with H even.
        - output: two views, each ``[N, 1, H / 2, W]``.
    """

    def __init__(self, *, augmented: bool = False) -> None:
        self.augment = _augmentation() if augmented else nn.Identity()

    def __call__(self, images: Tensor) -> Views:
        """Cut at half the height, then augment if asked to."""
        top, bottom = self.augment(torch.cat(self.held_out(images))).chunk(2)
        return top, bottom

    def held_out(self, images: Tensor) -> Views:
        """The plain halves."""
        top, bottom = images.chunk(2, dim=2)
        return top, bottom

    def anchor(self, images: Tensor) -> Tensor:
        """The top half."""
        return self.held_out(images)[0]

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise ValueError for an odd height."""
        if shape[1] % 2:
            raise ValueError(f"data: halves need images of even height, got {shape[1]} x {shape[2]} pixels")


VIEWS: dict[str, Callable[[], ViewMaker]] = {
    "augment": TwoAugmentations,
    "halves": Halves,
    "augmented-halves": functools.partial(Halves, augmented=True),
}
