"""How an image becomes the pair of views a method compares, and which view the probe is given.

Views are made on tensors, a batch at a time, on the device that holds the images.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from mi_estimators._extras import require
from mi_estimators.image_sets.sets import PairedShape, Shape

Views = tuple[Tensor, Tensor]
"""A pair of views of a batch; from :class:`MultiCrop` with small crops behind it."""


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


def _augmentation(shape: Shape, *, cropped: bool = False) -> nn.Module:
    """A random change of images, drawn anew for each, of grey ones or of colour ones.

    *Grey*: geometry, contrast, noise, a small erased box. Rotation, shift, scale and shear leave a digit a digit. No
    flips and no crops: both change what an image of 8 x 8 pixels shows.

    *Colour*: SimCLR's for CIFAR-10 (Chen et al. 2020, app. B.9): a resized crop, a flip, jitter of colours, and colour
    dropped in a fifth of the images.

    What comes ``cropped`` is not cropped, shifted or scaled again.
    """
    _check_images(shape)
    augmentation = require("kornia.augmentation", "train")
    channels, height, width = shape
    if channels == 1:
        moves: dict[str, Any] = {} if cropped else {"translate": (0.1, 0.1), "scale": (0.85, 1.15)}
        return nn.Sequential(
            augmentation.RandomAffine(degrees=15.0, shear=(-8.0, 8.0), p=1.0, **moves),
            augmentation.RandomContrast(contrast=(0.7, 1.3), p=0.8),
            augmentation.RandomGaussianNoise(std=0.05, p=0.5),
            augmentation.RandomErasing(scale=(0.02, 0.15), ratio=(0.5, 2.0), p=0.5),
        )
    if channels == 3:
        crop = nn.Identity() if cropped else augmentation.RandomResizedCrop((height, width), scale=(0.2, 1.0))
        return nn.Sequential(
            crop,
            augmentation.RandomHorizontalFlip(),
            augmentation.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
            augmentation.RandomGrayscale(p=0.2),
        )
    raise ValueError(f"data: augmentations are for images of 1 or 3 channels, got {channels}")


def _check_images(shape: Shape) -> None:
    if isinstance(shape, PairedShape):
        raise ValueError("view: this one is made of images, and the data are paired arrays: choose pairs")


class TwoAugmentations:
    """Two independent random augmentations of the whole image; the probe reads the image as it is.

    Shape:
        - images: ``[N, C, H, W]`` in ``[0, 1]``, C 1 or 3.
        - output: two views, each ``[N, C, H, W]``.
    """

    def __init__(self, shape: Shape) -> None:
        self.augment = _augmentation(shape)

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


class MultiCrop(TwoAugmentations):
    """Two large crops and several small ones, of half the side, all augmented; the probe reads the image as it is.

    Large crops show 40 to 100 percent of the image, small ones 10 to 40 percent, at a lower resolution: they cost a
    quarter each. Methods that take them (``takes_small_crops``) predict the large views' targets from all views, and
    need an encoder for images of any size.

    Args:
        shape: of an image.
        crops: number of small crops.

    Shape:
        - images: ``[N, C, H, W]`` in ``[0, 1]``, C 1 or 3.
        - output: two views ``[N, C, H, W]``, then ``crops`` of ``[N, C, H // 2, W // 2]``.

    Source: Caron et al. (2020), arXiv 2006.09882, sec. 3.3; the scales are those of Caron et al. (2021), arXiv
    2104.14294.
    """

    def __init__(self, shape: Shape, *, crops: int) -> None:
        super().__init__(shape)
        self.crops = crops
        crop = require("kornia.augmentation", "train").RandomResizedCrop
        channels, height, width = shape
        self.small_shape = channels, height // 2, width // 2
        self.large = nn.Sequential(crop((height, width), scale=(0.4, 1.0)), _augmentation(shape, cropped=True))
        of_small = _augmentation(self.small_shape, cropped=True)
        self.small = nn.Sequential(crop(self.small_shape[1:], scale=(0.1, 0.4)), of_small)

    def __call__(self, images: Tensor) -> Views:
        """Augment the large crops in one pass, and the small ones in another."""
        large = self.large(torch.cat([images, images])).chunk(2)
        small = self.small(torch.cat([images] * self.crops)).chunk(self.crops)
        return cast(Views, (*large, *small))

    def held_out(self, images: Tensor) -> Views:
        """Two augmentations of the whole image, as of :class:`TwoAugmentations`: bounds are of a pair."""
        return super().__call__(images)


class Halves:
    """The top and the bottom half of an image (Tschannen et al. 2020, sec. 3); the probe reads the top half.

    Args:
        shape: of an image; ValueError where its height is odd.
        augmented: augment each half independently of the other. That adds nothing that the halves share, so their
            information can only fall; on a small set it keeps the encoders from learning the images by heart.

    Shape:
        - images: ``[N, C, H, W]`` with H even.
        - output: two views, each ``[N, C, H / 2, W]``.
    """

    def __init__(self, shape: Shape, *, augmented: bool = False) -> None:
        _check_images(shape)
        channels, height, width = shape
        if height % 2:
            raise ValueError(f"data: halves need images of even height, got {height} x {width} pixels")
        self.augment = _augmentation((channels, height // 2, width)) if augmented else nn.Identity()

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


class LumaChroma:
    """Brightness and colour of an augmented colour image: CMC's two modalities; the probe reads the brightness.

    Y and (Cb, Cr) of the YCbCr colours, one of the two splits of Tian et al. (2020), sec. 4.

    Args:
        shape: of an image; ValueError where it has not 3 channels.

    Shape:
        - images: ``[N, 3, H, W]`` in ``[0, 1]``.
        - output: ``[N, 1, H, W]`` and ``[N, 2, H, W]``.
    """

    def __init__(self, shape: Shape) -> None:
        _check_images(shape)
        if shape[0] != 3:
            raise ValueError(f"data: luma and chroma need images of 3 channels, got {shape[0]}")
        self.augment = _augmentation(shape)

    def __call__(self, images: Tensor) -> Views:
        """Augment the image, then split it: the two views show the same crop."""
        return self.held_out(self.augment(images))

    def held_out(self, images: Tensor) -> Views:
        """The split of the plain image."""
        split = require("kornia.color", "train").rgb_to_ycbcr(images)
        return split[:, :1], split[:, 1:]

    def anchor(self, images: Tensor) -> Tensor:
        """The brightness."""
        return self.held_out(images)[0]


class Pairs:
    """Two arrays that came as pairs; the probe reads the first.

    Args:
        shape: of a set of paired arrays; ValueError of images.

    Shape:
        - rows: ``[N, 1, 1, values]``, both arrays' values in one row.
        - output: two views of the arrays' own shapes, ``[N, C, H, W]``.
    """

    def __init__(self, shape: Shape) -> None:
        if not isinstance(shape, PairedShape):
            raise ValueError(f"view: pairs are for paired arrays (data npz), got images of shape {tuple(shape)}")
        self.first, self.second = shape.first, shape.second

    def __call__(self, images: Tensor) -> Views:
        """The arrays as they are."""
        rows = images.flatten(1)
        first, second = rows.split([math.prod(self.first), math.prod(self.second)], dim=1)
        return first.unflatten(1, self.first), second.unflatten(1, self.second)

    def held_out(self, images: Tensor) -> Views:
        """The arrays as they are."""
        return self(images)

    def anchor(self, images: Tensor) -> Tensor:
        """The first array."""
        return self(images)[0]


VIEWS: dict[str, Callable[[Shape], ViewMaker]] = {
    "augment": TwoAugmentations,
    "halves": Halves,
    "augmented-halves": functools.partial(Halves, augmented=True),
    "luma-chroma": LumaChroma,
    "pairs": Pairs,
    "multi-crop": functools.partial(MultiCrop, crops=4),
    "multi-crop-8": functools.partial(MultiCrop, crops=8),
}
