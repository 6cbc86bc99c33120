"""What users hold, brought to what methods take: arrays, tensors, data frames and loaders to float64 ``[n, d]``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from mi_estimators.estimators.table import Kind

Variable = Tensor | ArrayLike
"""Samples of one variable: a tensor, what ``numpy.asarray`` takes, or a pandas Series or DataFrame."""


@dataclass(frozen=True)
class Samples:
    """Samples of one variable as the methods take them.

    Attributes:
        values: ``[n, d]`` float64. Categories are whole numbers from 0; but integers stay what they are for an
            estimator of mixed variables, which may measure distances between them.
        discrete: whether they are categories.
        device: of the tensor they came from, or None.
    """

    values: np.ndarray
    discrete: bool
    device: torch.device | None


def paired(x: Any, y: Any, kind: Kind) -> tuple[Samples, Samples]:
    """Check and convert both variables, or both halves of what a loader yields where ``y`` is None.

    Raises:
        TypeError: a dtype that an estimator of this kind does not take, or not samples at all.
        ValueError: a wrong shape, numbers of samples or pandas indexes that differ, missing or infinite values, or a
            constant column.
    """
    if y is None:
        x, y = collected(x)
    elif isinstance(x, Dataset | DataLoader):
        raise TypeError(f"x: a {type(x).__name__} yields both variables; leave y out")
    if _is_pandas(x) and _is_pandas(y) and len(x) == len(y) and not x.index.equals(y.index):
        raise ValueError("y: want the index of x, got another one: align the two frames, or give their .to_numpy()")
    a, b = _samples("x", x, kind), _samples("y", y, kind)
    if len(a.values) != len(b.values):
        raise ValueError(f"y: want as many samples as x ({len(a.values)}), got {len(b.values)}")
    return a, b


def _is_pandas(value: object) -> bool:
    """Whether this is a Series or DataFrame, without an import of pandas."""
    return hasattr(value, "iloc") and any(base.__module__.partition(".")[0] == "pandas" for base in type(value).__mro__)


def _samples(name: str, value: Any, kind: Kind) -> Samples:
    array, discrete = _from_pandas(name, value, kind) if _is_pandas(value) else _from_array(name, value, kind)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: want finite values, got {int((~np.isfinite(array)).sum())} NaN or infinite")
    constant = np.flatnonzero(np.ptp(array, axis=0) == 0)
    if constant.size:
        raise ValueError(f"{name}: column {constant[0]} is constant: it carries no information; leave it out")
    return Samples(array, discrete, value.device if isinstance(value, Tensor) else None)


def _from_array(name: str, value: Variable, kind: Kind) -> tuple[np.ndarray, bool]:
    if isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
        raise ValueError(f"{name}: want no missing values, got {int(np.ma.getmaskarray(value).sum())} masked ones")
    array = _numpy(value)
    discrete = _is_discrete(name, array.dtype.kind, array.dtype, kind)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name}: want shape [n] or [n, d], got {array.shape}; flatten what one sample holds")
    if array.size == 0:
        raise ValueError(f"{name}: want at least one sample and one column, got shape {array.shape}")
    array = array.reshape(len(array), -1)
    if not discrete:
        return np.asarray(array, dtype=np.float64), kind == "discrete" and _whole(name, array)
    return np.stack([_codes(name, column, kind) for column in array.T], axis=1), True


def _from_pandas(name: str, value: Any, kind: Kind) -> tuple[np.ndarray, bool]:
    columns = [value.iloc[:, i] for i in range(value.shape[1])] if value.ndim == 2 else [value]
    if value.size == 0:
        raise ValueError(f"{name}: want at least one sample and one column, got shape {value.shape}")
    discrete = [_is_discrete(f"{name}: column {c.name!r}", c.dtype.kind, c.dtype, kind) for c in columns]
    if any(discrete) != all(discrete):
        mixture = ", ".join(f"{column.name!r} {column.dtype}" for column in columns)
        raise TypeError(f"{name}: want columns of one kind, all categories or all floating-point, got {mixture}")
    if discrete[0]:
        missing = sum(int(column.isna().sum()) for column in columns)
        if missing:
            raise ValueError(f"{name}: want no missing values, got {missing}")
        return np.stack([_codes(name, column.to_numpy(), kind) for column in columns], axis=1), True
    array = np.stack([column.to_numpy(dtype=np.float64, na_value=np.nan) for column in columns], axis=1)
    return array, kind == "discrete" and _whole(name, array)


def _is_discrete(name: str, code: str, dtype: object, kind: Kind) -> bool:
    """Whether a dtype, by NumPy's letter for it, means categories; an error where the estimator does not take it."""
    if code not in "fiubOUST":
        raise TypeError(f"{name}: want numbers or categories, got dtype {dtype}")
    if code != "f" and kind == "continuous":
        raise TypeError(
            f"{name}: want floating-point samples of a continuous variable, got dtype {dtype}; convert integers that "
            "stand for a continuous quantity, or take an estimator of discrete variables"
        )
    return code != "f"


def _whole(name: str, array: np.ndarray) -> bool:
    """That floating-point values can stand for categories."""
    finite = array[np.isfinite(array)]
    if not (finite == np.round(finite)).all():
        raise TypeError(
            f"{name}: want categories (integers, strings, whole numbers), got floating-point values between them; for "
            'a continuous variable take an estimator that has it, such as "mixed", "ksg" or "histogram"'
        )
    return True


def _codes(name: str, column: np.ndarray, kind: Kind) -> np.ndarray:
    """Categories as whole numbers from 0, in sorted order; integers as they are where distances may count."""
    if column.dtype.kind == "O":
        missing = sum(item is None or item != item for item in column)
        if missing:
            raise ValueError(f"{name}: want no missing values, got {missing}")
        column = column.astype(str)
    if kind == "mixed" and column.dtype.kind in "iub" and np.abs(column.astype(np.float64)).max() < 2**53:
        return column.astype(np.float64)
    return np.unique(column, return_inverse=True)[1].astype(np.float64)


def _numpy(value: Variable) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.double() if value.is_floating_point() else value).numpy()  # NumPy has no bfloat16
    return np.asarray(value)


def collected(source: Any) -> tuple[Variable, Variable]:
    """Both variables of a loader, a dataset or another iterable of batches ``(x, y)``, all of it in memory."""
    wanted = "a DataLoader, a Dataset or another iterable of batches (x, y)"
    if isinstance(source, TensorDataset) and len(source.tensors) == 2:
        return source.tensors
    if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
        source = DataLoader(source, batch_size=1024)  # its items are single samples
    if isinstance(source, Tensor | np.ndarray) or _is_pandas(source) or not isinstance(source, Iterable):
        raise TypeError(f"y: want the samples paired with x; alone, x must be {wanted}, got {type(source).__name__}")
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    device: torch.device | None = None
    for index, batch in enumerate(source):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise TypeError(f"x: want {wanted}, got {type(batch).__name__} as batch {index}")
        for name, part, value in zip("xy", parts, batch, strict=True):
            device = value.device if device is None and isinstance(value, Tensor) else device
            array = _numpy(value)
            if array.ndim not in (1, 2):
                raise ValueError(f"{name}: want batches of shape [n] or [n, d], got {array.shape} as batch {index}")
            part.append(array.reshape(len(array), -1))
            if part[-1].shape[1] != part[0].shape[1]:
                raise ValueError(
                    f"{name}: want {part[0].shape[1]} columns as in batch 0, got {part[-1].shape[1]} in batch {index}"
                )
        if len(parts[0][-1]) != len(parts[1][-1]):
            raise ValueError(
                f"y: want as many samples as x ({len(parts[0][-1])}), got {len(parts[1][-1])} in batch {index}"
            )
    if not parts[0]:
        raise ValueError("x: want at least one batch, got none")
    x, y = (np.concatenate(part) for part in parts)
    return (x, y) if device is None else (torch.as_tensor(x, device=device), torch.as_tensor(y, device=device))
