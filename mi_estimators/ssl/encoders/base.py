"""What an encoder is."""

from __future__ import annotations

from torch import Tensor, nn

from mi_estimators.ssl.augment import Shape


class Encoder(nn.Module):
    """Base of the encoders: made for images of one shape (channels, height, width), gives ``dim`` features each.

    Shape:
        - images: ``[N, C, H, W]``.
        - output: ``[N, dim]``.
    """

    dim: int


def shape_of(images: Tensor) -> Shape:
    """Channels, height and width of a batch of images."""
    _, channels, height, width = images.shape
    return channels, height, width
