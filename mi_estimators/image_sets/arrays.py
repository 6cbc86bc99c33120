"""Pairs of arrays in an ``.npz`` file: two views of the same things, of any kind."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mi_estimators.image_sets.sets import ImageSet, PairedShape, Shape, Split, image_set, split_every


def paired_arrays(name: str, data_dir: Path | None) -> ImageSet:
    """``x1`` and ``x2``, one row a pair, with or without ``labels``; test rows in ``x1_test`` ..., or every fifth.

    Arrays are ``[N, d]``, ``[N, H, W]`` or ``[N, C, H, W]``; the two may differ in shape. uint8 stands for 0 to 255,
    and comes out in ``[0, 1]``; other numbers are taken as they are. Without labels all rows count as one class.

    Raises:
        ValueError: no file is given, it is damaged, or its arrays do not go together.
        FileNotFoundError: there is none.
    """
    if data_dir is None:
        raise ValueError(f"data_dir: {name} needs the path of an .npz file with the arrays x1 and x2")
    if not data_dir.is_file():
        raise FileNotFoundError(f"data_dir: no file {str(data_dir)!r}")
    held = _read(data_dir)
    first, second, labels = _pair(held, data_dir, "")
    if "x1_test" in held or "x2_test" in held:
        train = first, second, labels
        test = _pair(held, data_dir, "_test")
        for key, one, other in (("x1", first, test[0]), ("x2", second, test[1])):
            if one.shape[1:] != other.shape[1:]:
                shapes = f"{tuple(other.shape[1:])}, want {tuple(one.shape[1:])}, as of {key}"
                raise ValueError(f"data_dir: rows of {key}_test in {data_dir} have the shape {shapes}")
    else:
        chosen, held_out = split_every(len(first))
        train, test = ((first[i], second[i], labels[i]) for i in (chosen, held_out))
    return image_set(name, _split(*train), _split(*test), PairedShape(_shape(first), _shape(second)))


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError, AttributeError) as error:
        raise ValueError(f"data_dir: {path} is not a sound .npz file of arrays: {error}") from error


def _pair(held: dict[str, np.ndarray], path: Path, suffix: str) -> tuple[Tensor, Tensor, Tensor]:
    """Both arrays of a split, float32, and its labels."""
    for key in (f"x1{suffix}", f"x2{suffix}"):
        if key not in held:
            raise ValueError(f"data_dir: {path} has no array {key!r}; it has {', '.join(sorted(held)) or 'none'}")
    arrays = [_values(held[f"{key}{suffix}"], f"{key}{suffix}", path) for key in ("x1", "x2")]
    count = len(arrays[0])
    if len(arrays[1]) != count:
        raise ValueError(f"data_dir: {path} has {count} rows in x1{suffix}, but {len(arrays[1])} in x2{suffix}")
    if count < 10:
        raise ValueError(f"data_dir: {path} has {count} rows in x1{suffix}, want at least 10")
    labels = held.get(f"labels{suffix}", np.zeros(count, dtype=np.int64))
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(
            f"data_dir: labels{suffix} in {path}: want {count} integers from 0 up, got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    return arrays[0], arrays[1], torch.from_numpy(labels.astype(np.int64))


def _values(array: np.ndarray, key: str, path: Path) -> Tensor:
    if array.dtype.kind not in "iuf" or not 2 <= array.ndim <= 4 or array.size == 0:
        raise ValueError(
            f"data_dir: {key} in {path}: want numbers of shape [N, d], [N, H, W] or [N, C, H, W], got {array.dtype} of "
            f"shape {array.shape}"
        )
    values = torch.from_numpy(array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1))
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"data_dir: {key} in {path} holds NaN or infinite values")
    return values


def _shape(values: Tensor) -> Shape:
    rest = values.shape[1:]
    channels, height, width = (1,) * (3 - len(rest)) + tuple(rest)
    return channels, height, width


def _split(first: Tensor, second: Tensor, labels: Tensor) -> Split:
    rows = torch.cat([first.flatten(1), second.flatten(1)], dim=1)
    assert rows.shape[1] == math.prod(first.shape[1:]) + math.prod(second.shape[1:])
    return Split(rows[:, None, None], labels, 1.0)
