"""The small encoders of Tschannen et al. (2020), arXiv 1907.13625, sec. 3."""

from __future__ import annotations

import math

from torch import Tensor, nn

from mi_estimators.ssl.augment import Shape
from mi_estimators.ssl.encoders.base import Encoder

DIM = 100


class MLP(Encoder):
    """The MLP encoder: two hidden layers of 300 ReLU units, 100 linear outputs.

    238,300 parameters on half an MNIST image (392 pixels).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dim = DIM
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), 300),
            nn.ReLU(),
            nn.Linear(300, 300),
            nn.ReLU(),
            nn.Linear(300, DIM),
        )
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Encode a batch of images."""
        return self.layers(images)


class ConvNet(Encoder):
    """The ConvNet encoder: 5 x 5 convolutions of 64 and 128 channels, both of stride 2.

    Then a layer norm over channels, height and width, the mean over positions and 100 linear outputs. 219,748
    parameters on grey images, whatever their size.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dim = DIM
        self.convolutions = nn.Sequential(
            nn.Conv2d(shape[0], 64, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(64, 128, 5, stride=2, padding=2),
            nn.ReLU(),
            # One group is a layer norm over [C, H, W] whose gain and bias are per channel.
            nn.GroupNorm(1, 128),
        )
        self.output = nn.Linear(128, DIM)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Encode a batch of images."""
        return self.output(self.convolutions(images).mean(dim=(2, 3)))


def _initialise(network: nn.Module) -> None:
    """Glorot-uniform weights and zero biases, the paper's TensorFlow defaults.

    PyTorch's own weights are about half as large here, and leave MI maximisation on MNIST's halves five points of
    probe accuracy lower after 3,000 steps.
    """
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
