"""Estimates of mutual information from samples: :func:`estimate_mi` and the table :data:`ESTIMATORS`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.bounds import BOUNDS
from mi_estimators.estimators.result import BASES, MIEstimate, SaturationWarning, warn_if_saturated
from mi_estimators.estimators.table import ESTIMATORS, Estimator


def _samples(name: str, value: Tensor | ArrayLike) -> np.ndarray:
    """Check samples of one variable, and bring them to ``[n, d]`` float64."""
    array = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else np.asarray(value)
    kind = value.dtype if isinstance(value, Tensor) else array.dtype
    if not (value.is_floating_point() if isinstance(value, Tensor) else np.issubdtype(array.dtype, np.floating)):
        raise TypeError(
            f"{name}: want floating-point samples of a continuous variable, got dtype {kind}; convert integers that "
            "stand for a continuous quantity"
        )
    if array.ndim not in (1, 2):
        raise ValueError(f"{name}: want shape [n] or [n, d], got {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name}: want at least one sample and one column, got shape {array.shape}")
    array = np.asarray(array, dtype=np.float64).reshape(len(array), -1)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: want finite values, got {int((~np.isfinite(array)).sum())} NaN or infinite")
    constant = np.flatnonzero(np.ptp(array, axis=0) == 0)
    if constant.size:
        raise ValueError(f"{name}: column {constant[0]} is constant: it carries no information; leave it out")
    return array


def estimate_mi(
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike,
    *,
    estimator: str = "infonce",
    base: str = "nats",
    seed: int = 0,
    **options: Any,
) -> MIEstimate:
    """Estimate the mutual information of paired samples.

    Args:
        x: n samples of the first variable, NumPy array, tensor or what ``numpy.asarray`` takes.
        y: the n paired samples of the second.
        estimator: name in :data:`ESTIMATORS`: a bound trained with a neural critic, ``"ksg"`` or ``"gaussian"``.
        base: unit of the result, ``"nats"`` or ``"bits"``.
        seed: of everything random; the global random state is not touched.
        **options: keyword arguments of the method: see :func:`mi_estimators.estimators.neural.estimate`,
            :func:`mi_estimators.estimators.knn.estimate`, :func:`mi_estimators.estimators.gaussian.estimate`. A neural
            estimator trains on the device of ``x`` if that is a tensor and ``device`` is not given.

    Shape:
        - x: ``[n]`` or ``[n, dim_x]``; y: ``[n]`` or ``[n, dim_y]``; any floating dtype.

    Raises:
        TypeError: samples that are not floating-point; an option that the estimator does not have.
        ValueError: another number of dimensions, numbers of samples that differ, a NaN or infinite value, a constant
            column, too few samples, an unknown estimator or base, an option out of range.

    Warns:
        SaturationWarning: the value is within 5 % of the largest the estimator could give.
    """
    _checks.choice("estimator", estimator, ESTIMATORS)
    _checks.choice("base", base, BASES)
    start = time.perf_counter()
    a, b = _samples("x", x), _samples("y", y)
    if len(a) != len(b):
        raise ValueError(f"y: want as many samples as x ({len(a)}), got {len(b)}")
    if estimator in BOUNDS and isinstance(x, Tensor):
        options.setdefault("device", x.device)
    measured = ESTIMATORS[estimator].method(a, b, seed=seed, **options)
    result = MIEstimate(
        value=measured.value,
        std=measured.std,
        interval=measured.interval(),
        cap=measured.cap,
        curve=measured.curve,
        saturated=measured.saturated,
        estimator=estimator,
        base="nats",
        n=len(a),
        seconds=time.perf_counter() - start,
    ).to(base)
    warn_if_saturated(result, stacklevel=3)
    return result


__all__ = ["ESTIMATORS", "Estimator", "MIEstimate", "SaturationWarning", "estimate_mi"]
