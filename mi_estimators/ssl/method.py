"""What a method is to the training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.backbones import Encoder

MakeEncoder = Callable[[], Encoder]


@dataclass(frozen=True)
class Preset:
    """Defaults of a method on one image set: views, number of steps, batch size and Adam's learning rate."""

    view: str
    steps: int
    batch_size: int
    lr: float


class Method(nn.Module):
    """Base of the methods in :data:`mi_estimators.ssl.METHODS`.

    A method owns its networks and its loss; the loop owns everything else. Its constructor takes a function that
    makes a fresh encoder, then its own settings as keywords annotated ``Annotated[type, "help"]`` with defaults: they
    become options of ``mi-estimators train NAME``.

    Attributes:
        presets: defaults by image set; ``"mnist"`` serves the sets not named.
        bounds: entries of :data:`mi_estimators.bounds.SCORE_BOUNDS` its critic scores are evaluated with.
        kappa: von Mises-Fisher concentration at which the ER bound is evaluated, on the unit sphere.
    """

    presets: ClassVar[Mapping[str, Preset]]
    bounds: tuple[str, ...] = ("infonce",)
    kappa: float = 10.0

    def step(self, views: Views) -> dict[str, Tensor]:
        """Scalars of one batch: ``"loss"``, which is minimised, and any term of it worth logging, all in nats."""
        raise NotImplementedError

    def embed(self, views: Views) -> Views:
        """The pair ``(z1, z2)``, each ``[K, d]``, that the bounds are evaluated on."""
        raise NotImplementedError

    def scores(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Critic scores ``[K, K]`` of an embedded pair: row i scores z1_i against every z2_j by inner product."""
        return z1 @ z2.T

    def directions(self, z1: Tensor, z2: Tensor) -> Views:
        """An embedded pair on the unit sphere, for the ER bound: z1's direction is the mean of q(z2 | z1)."""
        return F.normalize(z1, dim=1), F.normalize(z2, dim=1)

    def represent(self, view: Tensor) -> Tensor:
        """The representation ``[N, d]`` of the view that the probe classifies."""
        raise NotImplementedError
