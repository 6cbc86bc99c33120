"""Encoders of the trainers, by name: what maps images to the features that heads, probes and bounds read.

=====================  =====================================================================================
``mlp``, ``convnet``   the small ones of Tschannen et al. (2020)
``resnet18``           residual networks, with a 3 x 3 stem up to 64 pixels; also ``resnet50``
``vit``, ``vit/4``     a small vision transformer; the number is the side of a patch in pixels
``realnvp``            bijections of the pixels; ``realnvp-scale`` also changes volumes
``skip-mlp``           a residual MLP that starts near the identity
``package.module:Net`` any ``torch.nn.Module``, or what makes one
``timm:NAME``          an architecture of timm, if that is installed
=====================  =====================================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from mi_estimators import _checks
from mi_estimators.ssl.augment import Shape
from mi_estimators.ssl.encoders.base import Encoder, shape_of
from mi_estimators.ssl.encoders.bijective import RealNVP, SkipMLP, log_condition_numbers
from mi_estimators.ssl.encoders.external import External, by_import_path, of_timm
from mi_estimators.ssl.encoders.resnet import ResNet, resnet18, resnet50
from mi_estimators.ssl.encoders.small import MLP, ConvNet
from mi_estimators.ssl.encoders.vit import ViT

ENCODERS: dict[str, Callable[[Shape], Encoder]] = {
    "mlp": MLP,
    "convnet": ConvNet,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "vit": ViT,
    "realnvp": RealNVP,
    "realnvp-scale": functools.partial(RealNVP, scaled=True),
    "skip-mlp": SkipMLP,
}


def encoder_builder(name: str) -> Callable[[Shape], Encoder]:
    """What builds the encoder of a name for images of a shape.

    A name with a colon is imported: take it, and the settings of a run that hold it, only from whom you trust.

    Args:
        name: a key of :data:`ENCODERS`; ``"vit/PATCH"``; ``"package.module:Name"``; or ``"timm:NAME"``.

    Raises:
        ValueError: an unknown name, with the nearest that is known, or one that cannot be imported.
        ImportError: timm is asked for and not installed.
    """
    if not isinstance(name, str):
        raise TypeError(f"encoder: want a name, got {_checks.describe(name)}")
    if name in ENCODERS:
        return ENCODERS[name]
    family, slash, patch = name.partition("/")
    if family == "vit" and slash and patch.isdecimal() and int(patch) > 0:
        return functools.partial(ViT, patch=int(patch))
    package, colon, model = name.partition(":")
    if colon:
        return of_timm(model) if package == "timm" else by_import_path(name)
    raise ValueError(f"encoder: {_checks.unknown(name, ENCODERS)}; or package.module:Name, timm:NAME, vit/PATCH")


__all__ = [
    "ENCODERS", "MLP", "ConvNet", "Encoder", "External", "RealNVP", "ResNet", "SkipMLP", "ViT", "encoder_builder",
    "log_condition_numbers", "resnet18", "resnet50", "shape_of",
]  # fmt: skip
