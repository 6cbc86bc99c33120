"""Checks of arguments that the contrastive losses share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mi_estimators import _checks

REDUCTIONS = ("mean", "sum", "none")
SMALLEST_TEMPERATURE = 1e-30  # under it, scores of float32 overflow


def check_pairs(first_name: str, first: Tensor, second_name: str, second: Tensor, minimum: int) -> None:
    """Shape, dtype and device of two batches of paired points; their values are not looked at."""
    _checks.floating(first_name, first)
    _checks.floating(second_name, second)
    _checks.alike(second_name, second, first_name, first, same_shape=True)
    if first.shape[0] < minimum:
        raise ValueError(f"{first_name}: want at least {minimum} pairs, got {_checks.describe(first)}")


def check_views(first_name: str, first: Tensor, second_name: str, second: Tensor, minimum: int) -> None:
    """Check for two batches of paired points: same shape, dtype and device, finite, at least ``minimum`` pairs."""
    check_pairs(first_name, first, second_name, second, minimum)
    _checks.finite(first_name, first)
    _checks.finite(second_name, second)


def check_temperature(temperature: float | Tensor) -> None:
    """Check for a finite number > 0 whose inverse float32 holds, or a tensor with one such element."""
    _checks.positive("temperature", temperature)
    if isinstance(temperature, Tensor) and temperature.numel() != 1:
        raise ValueError(f"temperature: want a number or one element, got {_checks.describe(temperature)}")
    if _checks.concrete(temperature) and not temperature >= SMALLEST_TEMPERATURE:
        raise ValueError(f"temperature: want at least {SMALLEST_TEMPERATURE}, got {temperature!r}")


def _check_number(name: str, value: float, largest: float, want: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: want a number, got {_checks.describe(value)}")
    if not 0 <= value <= largest or value == math.inf:
        raise ValueError(f"{name}: want {want}, got {value!r}")


def check_settings(
    *,
    temperature: float | Tensor,
    reduction: str,
    label_smoothing: float = 0.0,
    decoupled: bool = False,
    hard_negative_beta: float = 0.0,
) -> None:
    """Check what does not depend on a batch, alone and together."""
    _checks.choice("reduction", reduction, REDUCTIONS)
    check_temperature(temperature)
    _check_number("label_smoothing", label_smoothing, 1.0, "a number from 0 to 1")
    _check_number("hard_negative_beta", hard_negative_beta, math.inf, "a finite number >= 0")
    if label_smoothing and (decoupled or hard_negative_beta):
        other = "decoupled" if decoupled else "hard_negative_beta"
        raise ValueError(
            f"label_smoothing: want 0 with {other}, which is no cross-entropy over candidates whose labels could be "
            f"smoothed, got {label_smoothing!r}"
        )


def check_ids(name: str, ids: Tensor, points: Tensor) -> Tensor:
    """Integers, one for each row of the points, as int64."""
    _checks.integer(name, ids, ndim=1)
    if ids.shape[0] != points.shape[0]:
        raise ValueError(f"{name}: want one id for each of {points.shape[0]} rows, got {_checks.describe(ids)}")
    if ids.device != points.device:
        raise ValueError(f"{name}: want the device of the points ({points.device}), got {_checks.describe(ids)}")
    return ids.to(torch.int64)


def check_weights(weights: Tensor, x: Tensor, reduction: str) -> None:
    """Check for one finite constant >= 0 for each pair, not all of them 0 for a mean."""
    _checks.floating("weights", weights, ndim=1)
    if weights.shape[0] != x.shape[0]:
        raise ValueError(f"weights: want one for each of {x.shape[0]} pairs, got {_checks.describe(weights)}")
    if weights.device != x.device:
        raise ValueError(f"weights: want the device of the points ({x.device}), got {_checks.describe(weights)}")
    if weights.requires_grad:
        raise ValueError("weights: want constants, got a tensor that requires a gradient: detach() it")
    if not _checks.concrete(weights):
        return
    if not bool(((weights >= 0) & (weights < math.inf)).all()):
        raise ValueError("weights: want finite values >= 0, got negative, infinite or NaN ones")
    if reduction == "mean" and not bool((weights > 0).any()):
        raise ValueError("weights: want at least one above 0 for a mean, got zeros only")


def check_negatives_exist(name: str, points: Tensor, groups: Tensor | None) -> None:
    """Decoupled, an anchor without a negative has the loss log 0."""
    if points.shape[0] == 1:
        raise ValueError(f"decoupled: want a negative for every anchor, got a single row in {name}")
    if groups is not None and _checks.concrete(groups) and bool((groups == groups[0]).all()):
        raise ValueError(f"decoupled: want a negative for every anchor, got one id for all rows of {name}")


def check_bank(name: str, bank: object, points: Tensor) -> Tensor:
    """Check for finite rows of the points' width."""
    bank = _checks.floating(name, bank)
    if bank.device != points.device:
        raise ValueError(f"{name}: want the device of the views ({points.device}), got {_checks.describe(bank)}")
    if bank.shape[1] != points.shape[1]:
        raise ValueError(f"{name}: want the width of the views ({points.shape[1]}), got {_checks.describe(bank)}")
    _checks.finite(name, bank)
    return bank


def blame_points(loss: Tensor, views: dict[str, Tensor]) -> None:
    """An error if a loss is not finite, this may be looked at, and it comes from points that are not finite."""
    if not _checks.concrete(loss):
        return
    value = loss.detach()
    if not math.isfinite((value if value.ndim == 0 else value.sum()).item()):
        for name, points in views.items():
            _checks.finite(name, points)
