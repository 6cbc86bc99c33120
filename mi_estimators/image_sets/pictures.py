"""Pictures in files: folders of them, one a class, and datasets that Hugging Face's ``datasets`` saved to disk."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mi_estimators._extras import require
from mi_estimators.image_sets.sets import ImageSet, Split, image_set, split_every

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
HELD_OUT = ("test", "val", "valid", "validation")


def folder_of_pictures(name: str, data_dir: Path | None) -> ImageSet:
    """``train/CLASS/*`` and ``test/CLASS/*`` (or val) in a folder, or ``CLASS/*``: then every fifth is held out.

    Classes are numbered in the order of their names. Pictures are of one size, and become grey ones only if all are.

    Raises:
        ValueError: no folder is given, a picture is damaged or of another size, or a class has none.
        FileNotFoundError: there is no such folder.
        ImportError: Pillow is not installed.
    """
    if data_dir is None:
        raise ValueError(f"data_dir: {name} needs a folder of pictures with one sub-folder a class")
    if not data_dir.is_dir():
        raise FileNotFoundError(f"data_dir: no folder {str(data_dir)!r}")
    opened = require("PIL.Image", "vision").open
    held_out = next((data_dir / split for split in HELD_OUT if (data_dir / split).is_dir()), None)
    if (data_dir / "train").is_dir() and held_out is not None:
        parts = [_classes(data_dir / "train"), _classes(held_out)]
        if unknown := sorted(parts[1].keys() - parts[0].keys()):
            raise ValueError(f"data_dir: {held_out} has the class {unknown[0]!r}, which {data_dir / 'train'} has not")
    else:
        whole = _classes(data_dir)
        chosen = {kind: split_every(len(paths)) for kind, paths in whole.items()}
        parts = [{kind: [whole[kind][i] for i in index[part]] for kind, index in chosen.items()} for part in (0, 1)]
        if not any(parts[1].values()):
            raise ValueError(f"data_dir: {data_dir} has too few pictures: every fifth of a class would be held out")
    numbers = {kind: number for number, kind in enumerate(sorted(parts[0]))}
    splits = []
    for part in parts:
        pictures = [(path, numbers[kind]) for kind in sorted(part) for path in part[kind]]
        splits.append(_decoded(((str(path), functools.partial(opened, path), n) for path, n in pictures), data_dir))
    return _alike(name, splits, data_dir)


def hugging_face(name: str, data_dir: Path | None) -> ImageSet:
    """What ``datasets``' ``save_to_disk`` wrote: splits train and test (or validation), or one: every fifth held out.

    The first column of images and the first of class labels (or one named ``label``) are taken.

    Raises:
        ValueError: no folder is given, it is no such dataset, or has no such columns.
        FileNotFoundError: there is no such folder.
        ImportError: ``datasets`` is not installed.
    """
    if data_dir is None:
        raise ValueError(f"data_dir: {name} needs the folder of a dataset saved by save_to_disk")
    if not data_dir.is_dir():
        raise FileNotFoundError(f"data_dir: no folder {str(data_dir)!r}")
    datasets = require("datasets", "vision")
    try:
        found = datasets.load_from_disk(str(data_dir))
    except (FileNotFoundError, OSError, ValueError) as error:
        raise ValueError(f"data_dir: {data_dir} is no sound dataset of save_to_disk: {error}") from error
    if isinstance(found, dict):  # a DatasetDict
        held_out = next((split for split in HELD_OUT if split in found), None)
        if "train" not in found or held_out is None:
            raise ValueError(f"data_dir: {data_dir} has the splits {', '.join(found)}; want train and test")
        parts = [found["train"], found[held_out]]
    else:
        parts = [found.select(index.tolist()) for index in split_every(len(found))]
    splits = []
    for part in parts:
        kinds = {column: type(feature).__name__ for column, feature in part.features.items()}
        pictures = next((column for column, kind in kinds.items() if kind == "Image"), None)
        labels = next((c for c, kind in kinds.items() if kind == "ClassLabel"), "label" if "label" in kinds else None)
        if pictures is None or labels is None:
            raise ValueError(f"data_dir: {data_dir} needs a column of images and one of class labels, it has {kinds}")
        openers = [functools.partial(_of_row, part, i, pictures) for i in range(len(part))]
        names = [f"row {i} of {data_dir}" for i in range(len(part))]
        splits.append(_decoded(zip(names, openers, map(int, part[labels]), strict=True), data_dir))
    return _alike(name, splits, data_dir)


def _of_row(part: Any, row: int, column: str) -> Any:
    return part[row][column]


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each class, in the order of their names."""
    found = {
        kind.name: sorted(path for path in kind.iterdir() if path.suffix.lower() in SUFFIXES)
        for kind in sorted(folder.iterdir())
        if kind.is_dir()
    }
    if not found:
        raise ValueError(f"data_dir: {folder} has no sub-folders, want one a class")
    for kind, paths in found.items():
        if not paths:
            raise ValueError(f"data_dir: {folder / kind} holds no pictures ({', '.join(SUFFIXES)})")
    return found


def _decoded(sources: Iterable[tuple[str, Callable[[], Any], int]], data_dir: Path) -> Split:
    """Pictures as one tensor, ``[N, C, H, W]``."""
    arrays: list[np.ndarray] = []
    labels: list[int] = []
    for name, opened, label in sources:
        try:
            picture = opened()
            array = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert(_mode(picture.mode)))
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's errors of damaged files
            raise ValueError(f"data_dir: {name} is not a sound picture: {error}") from error
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        if arrays and array.shape[1:] != arrays[0].shape[1:]:
            sizes = f"{array.shape[2]} x {array.shape[1]} pixels, others {arrays[0].shape[2]} x {arrays[0].shape[1]}"
            raise ValueError(f"data_dir: {name} has {sizes}; bring all to one size first")
        arrays.append(array)
        labels.append(label)
    if not arrays:
        raise ValueError(f"data_dir: a split of {data_dir} holds no pictures")
    channels = max(len(array) for array in arrays)
    images = np.stack([np.broadcast_to(array, (channels, *array.shape[1:])) for array in arrays])
    return Split(torch.from_numpy(images), torch.tensor(labels), 255.0)


def _mode(mode: str) -> str:
    return "L" if mode in ("1", "LA") else "RGB"


def _alike(name: str, splits: list[Split], data_dir: Path) -> ImageSet:
    """The set of both splits, grey pictures of one as colour where the other has colour."""
    sizes = [f"{split.images.shape[3]} x {split.images.shape[2]}" for split in splits]
    if sizes[0] != sizes[1]:
        raise ValueError(f"data_dir: pictures of the splits in {data_dir} have {' and '.join(sizes)} pixels")
    channels = max(split.images.shape[1] for split in splits)
    train, test = (
        Split(split.images.expand(-1, channels, -1, -1).contiguous(), split.labels, split.scale) for split in splits
    )
    return image_set(name, train, test)
