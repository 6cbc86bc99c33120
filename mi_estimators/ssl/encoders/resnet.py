"""Residual networks (He et al. 2016, arXiv 1512.03385), with the usual small stem for small images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.ssl.augment import Shape
from mi_estimators.ssl.encoders.base import Encoder

SMALL = 64
"""Pixels up to which the shorter side of an image gets the small stem."""


def _convolution(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)


class _Residual(nn.Module):
    """A block: what its branch adds to the input, which a 1 x 1 convolution fits to it where sizes differ."""

    expansion: int

    def __init__(self, branch: nn.Sequential, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.branch = branch
        fits = stride == 1 and channels == out
        self.shortcut = (
            nn.Identity() if fits else nn.Sequential(_convolution(channels, out, 1, stride), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


class _Basic(_Residual):
    """Two 3 x 3 convolutions."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        branch = nn.Sequential(
            _convolution(channels, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            _convolution(width, width, 3), nn.BatchNorm2d(width),
        )  # fmt: skip
        super().__init__(branch, channels, width, stride)


class _Bottleneck(_Residual):
    """1 x 1, 3 x 3 (which has the stride) and 1 x 1 convolutions."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        out = 4 * width
        branch = nn.Sequential(
            _convolution(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            _convolution(width, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            _convolution(width, out, 1), nn.BatchNorm2d(out),
        )  # fmt: skip
        super().__init__(branch, channels, out, stride)


class ResNet(Encoder):
    """Four groups of residual blocks, then the mean over positions.

    Images whose shorter side has up to 64 pixels get a 3 x 3 stem without pooling, as is usual on CIFAR; larger ones
    the paper's 7 x 7 stem of stride 2 and a pooling. Takes images of any size.

    Args:
        shape: of an image.
        block: kind of the blocks.
        blocks: their number in each group.
    """

    def __init__(
        self, shape: Shape, block: type[_Basic] | type[_Bottleneck], blocks: tuple[int, int, int, int]
    ) -> None:
        super().__init__()
        small = min(shape[1:]) <= SMALL
        self.stem = nn.Sequential(
            _convolution(shape[0], 64, 3) if small else _convolution(shape[0], 64, 7, stride=2),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1),
        )
        layers: list[nn.Module] = []
        channels = 64
        for group, count in enumerate(blocks):
            for place in range(count):
                layers.append(block(channels, 64 << group, stride=2 if group and not place else 1))
                channels = (64 << group) * block.expansion
        self.blocks = nn.Sequential(*layers)
        self.dim = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Encode a batch of images."""
        return self.blocks(self.stem(images)).mean(dim=(2, 3))


def resnet18(shape: Shape) -> ResNet:
    """ResNet-18: 512 features; 11.17 million parameters on small colour images."""
    return ResNet(shape, _Basic, (2, 2, 2, 2))


def resnet50(shape: Shape) -> ResNet:
    """ResNet-50: 2,048 features; 23.5 million parameters."""
    return ResNet(shape, _Bottleneck, (3, 4, 6, 3))
