"""Checks of what every evaluation takes: features and labels of a training and of a test split."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_estimators import _checks


def check_split(features: Tensor, labels: Tensor, prefix: str = "") -> None:
    """Check features ``[N, d]``, floating and finite, and labels ``[N]``, integers from 0, on one device.

    Args:
        features: checked under the name ``{prefix}features``.
        labels: checked under the name ``{prefix}labels``.
        prefix: of the names in errors.

    Raises:
        TypeError: of another dtype.
        ValueError: of another shape, NaN or infinite, negative, or on two devices.
    """
    names = f"{prefix}features", f"{prefix}labels"
    _checks.floating(names[0], features)
    _checks.integer(names[1], labels, ndim=1)
    if len(labels) != len(features):
        raise ValueError(f"{names[1]}: want {len(features)} labels, one a row of {names[0]}, got {len(labels)}")
    if labels.device != features.device:
        raise ValueError(f"{names[1]}: want the device of {names[0]} ({features.device}), got {labels.device}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError(f"{names[0]}: want finite features, got NaN or infinite values")
    if int(labels.min()) < 0:
        raise ValueError(f"{names[1]}: want labels from 0 up, got {int(labels.min())}")


def check_splits(train_features: Tensor, train_labels: Tensor, features: Tensor, labels: Tensor) -> None:
    """Check both splits, and that their features are of one width and device.

    Raises:
        TypeError: as :func:`check_split`.
        ValueError: as :func:`check_split`, or the splits differ.
    """
    check_split(train_features, train_labels, "train_")
    check_split(features, labels)
    _checks.alike("features", features, "train_features", train_features)
