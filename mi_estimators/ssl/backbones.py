"""Encoders and heads of the reference trainers. An encoder maps images to ``[N, encoder.dim]``."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.ssl.augment import Shape


def shape_of(images: Tensor) -> Shape:
    """Channels, height and width of a batch of images."""
    _, channels, height, width = images.shape
    return channels, height, width


class Encoder(nn.Module):
    """Base of the encoders: made for images of one shape (channels, height, width), gives ``dim`` features each."""

    dim: int = 100

    def initialise(self) -> None:
        """Glorot-uniform weights and zero biases, the paper's TensorFlow defaults.

        PyTorch's own weights are about half as large here, and leave MI maximisation on MNIST's halves five points of
        probe accuracy lower after 3,000 steps.
        """
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class MLP(Encoder):
    """The MLP encoder of Tschannen et al. (2020): two hidden layers of 300 ReLU units, 100 linear outputs.

    238,300 parameters on half an MNIST image (392 pixels).

    Shape:
        - images: ``[N, C, H, W]``.
        - output: ``[N, 100]``.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), 300),
            nn.ReLU(),
            nn.Linear(300, 300),
            nn.ReLU(),
            nn.Linear(300, self.dim),
        )
        self.initialise()

    def forward(self, images: Tensor) -> Tensor:
        """Encode a batch of images."""
        return self.layers(images)


class ConvNet(Encoder):
    """The ConvNet encoder of Tschannen et al. (2020): 5 x 5 convolutions of 64 and 128 channels, both of stride 2.

    Then a layer norm over channels, height and width, the mean over positions and 100 linear outputs. About 220,000
    parameters, whatever the size of the image.

    Shape:
        - images: ``[N, C, H, W]``.
        - output: ``[N, 100]``.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(shape[0], 64, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(64, 128, 5, stride=2, padding=2),
            nn.ReLU(),
            # One group is a layer norm over [C, H, W] whose gain and bias are per channel.
            nn.GroupNorm(1, 128),
        )
        self.output = nn.Linear(128, self.dim)
        self.initialise()

    def forward(self, images: Tensor) -> Tensor:
        """Encode a batch of images."""
        return self.output(self.convolutions(images).mean(dim=(2, 3)))


def projection_head(dim: int, out: int) -> nn.Sequential:
    """SimCLR's projection: a hidden layer of 256 units with batch norm and ReLU, then ``out`` linear outputs."""
    return nn.Sequential(nn.Linear(dim, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, out))


class PrototypeHead(nn.Module):
    """DINO's head: an MLP to a unit bottleneck, then its cosines with ``outputs`` prototypes.

    The cosines are what the paper's weight-normalised last layer gives with its gains held at 1.

    While ``frozen`` is set the prototypes get no gradient.

    Args:
        dim: size of the encoder's output.
        outputs: number of prototypes.
        bottleneck: size of the unit vectors.

    Shape:
        - features: ``[N, dim]``.
        - output: ``[N, outputs]``, in [-1, 1].
    """

    def __init__(self, dim: int, outputs: int, bottleneck: int = 64) -> None:
        super().__init__()
        self.layers = projection_head(dim, bottleneck)
        self.prototypes = nn.Parameter(torch.randn(outputs, bottleneck))
        self.frozen = False

    def forward(self, features: Tensor) -> Tensor:
        """Cosines with the prototypes."""
        prototypes = self.prototypes.detach() if self.frozen else self.prototypes
        return F.normalize(self.layers(features), dim=1) @ F.normalize(prototypes, dim=1).T


ENCODERS: dict[str, Callable[[Shape], Encoder]] = {"mlp": MLP, "convnet": ConvNet}
