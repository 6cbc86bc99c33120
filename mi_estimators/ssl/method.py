"""What a method is to the training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators import _checks
from mi_estimators.bounds import i_nce
from mi_estimators.distributed import gather_with_gradient, rank, world_size
from mi_estimators.entropy.vmf import log_vmf_normalizer
from mi_estimators.er import ERBound, er_bound
from mi_estimators.ssl.augment import MultiCrop, Shape, ViewMaker, Views
from mi_estimators.ssl.encoders import Encoder

Terms = dict[str, Tensor]
"""Scalars of one batch, ``"loss"`` among them."""

OverImages = Callable[[Callable[[Tensor], Tensor]], Tensor]
"""Applies a function to the plain view of all training images, in evaluation mode and without gradient."""


@dataclass(frozen=True)
class Setting:
    """What a method is made for.

    Attributes:
        make_encoder: makes a fresh encoder for a view, 0 or 1.
        size: number of training images, whose indices ``step`` is given.
    """

    make_encoder: Callable[[int], Encoder]
    size: int


@dataclass(frozen=True)
class Preset:
    """Defaults of a method on one image set: views, number of steps, batch size and Adam's learning rate."""

    view: str
    steps: int
    batch_size: int
    lr: float


class Method(nn.Module):
    """Base of the methods in :data:`mi_estimators.ssl.METHODS`.

    A method owns its networks and its loss; the loop owns everything else. Its constructor takes a :class:`Setting`,
    then its own settings as keywords annotated ``Annotated[type, "help"]`` with defaults: they become options of
    ``mi-estimators train NAME``. What it remembers from step to step stands in buffers, so that a checkpoint holds it.

    Attributes:
        presets: defaults by image set; ``"mnist"`` serves the sets not named.
        has_teacher: whether slow copies of the networks follow with the setting ``momentum``.
        kappa: von Mises-Fisher concentration at which the ER bound is evaluated, on the unit sphere.
        scale: what multiplies inner products in the critic: one over a temperature, or a concentration.
        online: encoder and head in a row, where a method has one encoder and no other use for the name.
        progress: the part of the training that is done, from 0 to 1; the loop keeps it.
        gather_distributed: whether other processes hold parts of the batch; the loop sets it, here and in the losses
            and memories of the method, while it trains in several processes.
        skips_parameters: whether some trained parameters get no gradient in some steps.
        takes_small_crops: whether ``step`` takes more views than two, small ones.
    """

    skips_parameters: ClassVar[bool] = False
    takes_small_crops: ClassVar[bool] = False

    presets: ClassVar[Mapping[str, Preset]] = {
        "digits": Preset("augment", steps=1500, batch_size=256, lr=1e-3),
        "mnist": Preset("augment", steps=5000, batch_size=256, lr=1e-3),
        "npz": Preset("pairs", steps=5000, batch_size=256, lr=1e-3),
    }
    has_teacher: ClassVar[bool] = False
    kappa: float = 10.0
    scale: float | Tensor
    online: nn.Sequential
    progress: float = 0.0
    gather_distributed: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0  # not of the class, so that a method may make it a buffer

    def step(self, views: Views, index: Tensor | None) -> Terms:
        """Scalars of one batch: ``"loss"``, which is minimised, and any term of it worth logging, all in nats.

        Args:
            views: the batch's pairs, small crops behind them where the method takes such.
            index: which training images they are of; None for images outside the training set.
        """
        raise NotImplementedError

    def begin_epoch(self, epoch: int, over_images: OverImages) -> None:
        """Called before the first step of each epoch, the first of which is 0."""

    def end_step(self) -> None:
        """Called after each step of the optimizer."""

    def joined(self, rows: Tensor) -> Tensor:
        """The rows of all processes, with gradients, where they hold parts of one batch; else the rows themselves."""
        return gather_with_gradient(rows) if self.gather_distributed else rows

    def own_share(self, rows: Tensor) -> Tensor:
        """Of rows that all processes hold, those that this one is to bring into a computation of all."""
        return rows[rank() :: world_size()] if self.gather_distributed else rows

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The processes that hold parts of one batch, None where this one holds it all."""
        return dist.group.WORLD if self.gather_distributed else None

    def embed(self, views: Views) -> Views:
        """The pair ``(z1, z2)``, each ``[K, d]``, that the bounds are evaluated on."""
        raise NotImplementedError

    def scores(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Critic scores ``[K, K]`` of an embedded pair: row i scores z1_i against every z2_j by inner product."""
        return self.scale * (z1 @ z2.T)

    def bounds(self, z1: Tensor, z2: Tensor) -> Terms:
        """Bounds of an embedded pair with the method's own critic, by name, in nats: ``"infonce"`` among them."""
        return {"infonce": i_nce(self.scores(z1, z2).float())}

    def er_bound(self, z1: Tensor, z2: Tensor) -> ERBound:
        """The ER bound of an embedded pair: here of their directions, z1's being the mean of q(z2 | z1)."""
        return er_bound(F.normalize(z1, dim=1), F.normalize(z2, dim=1), support="sphere", bandwidth=self.kappa)

    def entropy_floor(self, dim: int) -> float:
        """The entropy that :meth:`er_bound` gives where all z2, of width ``dim``, are one point: the kernel's at 0."""
        return -float(log_vmf_normalizer(dim, self.kappa)) - self.kappa

    def represent(self, view: Tensor) -> Tensor:
        """The representation ``[N, d]`` of the view that the probe classifies: the encoder's output, not the head's."""
        return self.online[0](view)


class ClassMethod(Method):
    """Base of the methods whose embeddings are logits of classes: q(z2 | z1) and the ER bound are of the classes."""

    def er_bound(self, z1: Tensor, z2: Tensor) -> ERBound:
        """The ER bound of the second view's class, predicted from the first view."""
        return er_bound(z1, z2, support="discrete", logits=True)

    def entropy_floor(self, dim: int) -> float:
        """Of a class that is certain."""
        return 0.0

    def scores(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Expected log-probability of each z2's class under each z1."""
        return F.log_softmax(z1, dim=1) @ F.softmax(z2, dim=1).T


OBJECTIVES = ("native", "er")


def check_objective(objective: str, **positive: float) -> None:
    """Check the objective, and that the other settings given are above 0."""
    _checks.choice("objective", objective, OBJECTIVES)
    for name, value in positive.items():
        _checks.positive(name, value)


def check_share(name: str, value: float) -> None:
    """Check a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name}: want a number from 0 to 1, got {_checks.describe(value)}")


def check_not_negative(name: str, value: float) -> None:
    """Check for a finite number that is not below zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: want a number, got {_checks.describe(value)}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: want a finite value >= 0, got {value!r}")


def terms_of(bound: ERBound) -> Terms:
    """The terms of a step whose loss is the negative of an ER bound."""
    return {"loss": -bound.value, "train_entropy": bound.entropy, "train_reconstruction": bound.reconstruction}


def mean_of(*terms: Terms) -> Terms:
    """The mean of the terms of several directions."""
    first, *rest = terms
    return {name: sum((other[name] for other in rest), first[name]) / len(terms) for name in first}


def directions(views: int) -> list[tuple[int, int]]:
    """Which view predicts which: every view the first two, but none itself."""
    return [(view, target) for target in (1, 0) for view in range(views) if view != target]


def check_small_crops(view: ViewMaker, method: Method) -> None:
    """Check that a method, and its encoder, take the small crops that a view maker makes, if it makes some.

    Raises:
        ValueError: they do not.
    """
    if not isinstance(view, MultiCrop):
        return
    if not method.takes_small_crops:
        raise ValueError("view: small crops are for the methods that predict from them, dino and swav; choose augment")
    text = f"encoder: it does not take small crops of shape {view.small_shape}; choose another, e.g. convnet"
    check_takes(method.online[0], view.small_shape, text)


def check_takes(encoder: nn.Module, shape: Shape, text: str) -> None:
    """Check that an encoder takes images of another shape than that it was made for.

    Raises:
        ValueError: it does not; with this text.
    """
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            encoder(torch.zeros(2, *shape))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{text} ({error})") from error
    finally:
        encoder.train(training)
