"""The invertible encoders of Tschannen et al. (2020), arXiv 1907.13625, sec. 3.1, and what shows how invertible one is.

An invertible encoder keeps all information, so the information of the encodings is the same whatever its weights: what
training on a bound changes is something else.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.ssl.augment import Shape
from mi_estimators.ssl.encoders.base import Encoder

COUPLINGS, HIDDEN = 30, 512


class Coupling(nn.Module):
    r"""Half of the coordinates, scaled and shifted by a function of the others, then all permuted.

    :math:`y = \pi(x_1,\, s(x_1) \odot x_2 + t(x_1))`, with a fixed random permutation :math:`\pi`.

    Args:
        dim: number of coordinates.
        scaled: without it s = 1. With it s is a softplus, shifted so that it starts at 1.
    """

    permutation: Tensor

    def __init__(self, dim: int, *, scaled: bool) -> None:
        super().__init__()
        self.kept, self.moved, self.scaled = dim // 2, dim - dim // 2, scaled
        self.layers = nn.Sequential(
            nn.Linear(self.kept, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, self.moved * (1 + scaled)),
        )  # fmt: skip
        _initialise(self.layers)
        self.register_buffer("permutation", torch.randperm(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``y`` and the log-determinant of its Jacobian, ``[N]``."""
        first, second = x.split([self.kept, self.moved], dim=1)
        shift, scale = self._of(first)
        y = torch.cat([first, second * scale + shift], dim=1)[:, self.permutation]
        return y, scale.log().expand_as(second).sum(dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """``x``."""
        first, second = y[:, self.permutation.argsort()].split([self.kept, self.moved], dim=1)
        shift, scale = self._of(first)
        return torch.cat([first, (second - shift) / scale], dim=1)

    def _of(self, first: Tensor) -> tuple[Tensor, Tensor]:
        found = self.layers(first)
        if not self.scaled:
            return found, found.new_ones(())
        shift, raw = found.chunk(2, dim=1)
        # The floor keeps the inverse finite. The paper's softplus starts at log 2 in each of 30 couplings instead.
        return shift, F.softplus(raw + math.log(math.e - 1)) + 1e-7


class RealNVP(Encoder):
    """30 coupling layers with MLPs of two hidden layers of 512: a bijection of the pixels, near the identity at first.

    ``scaled=False`` only shifts and keeps volume, as in the paper's MI maximisation; ``scaled=True`` is for its
    adversarial experiment. Images of at least 2 values.

    Args:
        shape: of an image; ``dim`` is its number of values.
        scaled: scale the coordinates too.

    Raises:
        ValueError: images of one value, of which no half can be kept.

    Source: Dinh et al. (2017), arXiv 1605.08803.
    """

    def __init__(self, shape: Shape, *, scaled: bool = False) -> None:
        super().__init__()
        self.shape, self.dim = shape, math.prod(shape)
        if self.dim < 2:
            raise ValueError(f"encoder: couplings need images of at least 2 values, got the shape {shape}")
        self.couplings = nn.ModuleList(Coupling(self.dim, scaled=scaled) for _ in range(COUPLINGS))

    def forward(self, images: Tensor) -> Tensor:
        """Encode a batch of images."""
        return self.with_log_det(images)[0]

    def with_log_det(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The encodings ``[N, dim]`` and the log-determinants of the Jacobian ``[N]``."""
        z = images.flatten(1)
        total = z.new_zeros(len(z))
        for coupling in self.couplings:
            z, log_det = coupling(z)
            total = total + log_det
        return z, total

    def inverse(self, z: Tensor) -> Tensor:
        """The images ``[N, C, H, W]`` of encodings ``[N, dim]``."""
        for coupling in reversed(self.couplings):
            z = cast(Coupling, coupling).inverse(z)
        return z.unflatten(1, self.shape)


class SkipMLP(Encoder):
    """Five layers as wide as the image, each added to its input, ReLU but for the last: near the identity at first.

    Training may make it lose information; :func:`log_condition_numbers` shows how near it comes.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dim = math.prod(shape)
        self.layers = nn.ModuleList(nn.Linear(self.dim, self.dim) for _ in range(5))
        _initialise(self.layers)

    def forward(self, images: Tensor) -> Tensor:
        """Encode a batch of images."""
        x = images.flatten(1)
        for layer in self.layers[:-1]:
            x = x + F.relu(layer(x))
        return x + self.layers[-1](x)


def log_condition_numbers(encoder: nn.Module, images: Tensor) -> Tensor:
    r"""Natural log of the largest over the smallest singular value of the encoder's Jacobian at each image.

    0 for an orthogonal map, infinite where information is lost; what sec. 3.1 of the paper follows over training. For
    encoders without statistics of the batch, or in evaluation mode. Costs ``dim`` backward passes of the batch.

    Shape:
        - images: ``[N, C, H, W]``.
        - output: ``[N]``.
    """
    with torch.enable_grad():
        inputs = images.detach().requires_grad_()
        sums = encoder(inputs).sum(dim=0)  # an image's features depend on no other image
        rows = [torch.autograd.grad(feature, inputs, retain_graph=True)[0].flatten(1) for feature in sums]
    values = torch.linalg.svdvals(torch.stack(rows, dim=1))  # of [N, dim, C H W]
    return (values[:, 0] / values[:, -1]).log()


def _initialise(layers: nn.Module) -> None:
    """The paper's small weights: normal, of deviation 0.0001, cut at two deviations; zero biases."""
    for module in layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=1e-4, a=-2e-4, b=2e-4)
            nn.init.zeros_(module.bias)
