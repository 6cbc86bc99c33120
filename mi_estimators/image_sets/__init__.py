"""Image sets: bundled digits, the official files of MNIST, Fashion-MNIST and CIFAR, and files of one's own.

Nothing is downloaded. A file that is missing, truncated or corrupt raises an error that names the argument and the
file, before a run writes anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mi_estimators import _checks
from mi_estimators._extras import require
from mi_estimators.image_sets.arrays import paired_arrays
from mi_estimators.image_sets.files import find, parse_cifar, parse_idx, read
from mi_estimators.image_sets.pictures import folder_of_pictures, hugging_face
from mi_estimators.image_sets.sets import ImageSet, PairedShape, Split, image_set


def load(name: str, data_dir: str | Path | None = None) -> ImageSet:
    """Load an image set by its name in :data:`DATASETS`.

    Args:
        name: ``"digits"`` (bundled with scikit-learn), ``"mnist"``, ``"fashion-mnist"``, ``"cifar-10"``,
            ``"cifar-100"``, ``"folder"``, ``"hf"`` or ``"npz"``.
        data_dir: folder of the official files (IDX; of CIFAR the binary version), packed by gzip or xz or plain, or a
            folder that holds them in ``NAME/`` or as the archive unpacks. Of ``"folder"`` a folder of pictures, one
            sub-folder a class; of ``"hf"`` what ``datasets`` saved to disk; of ``"npz"`` a file of paired arrays. Not
            used by ``"digits"``.

    Raises:
        ValueError: unknown name, ``data_dir`` missing or not wanted, or a damaged file.
        FileNotFoundError: a file is not in ``data_dir``.
        ImportError: a package that reads the files is missing.
    """
    name = key_of(name)
    if name not in DATASETS:
        raise ValueError(f"data: {_checks.unknown(name, DATASETS)}")
    return DATASETS[name](name, None if data_dir is None else Path(data_dir))


def key_of(name: str) -> str:
    """The key of :data:`DATASETS` that a name is but for hyphens and capitals (``cifar10``), or the name itself."""
    return {key.replace("-", ""): key for key in DATASETS}.get(name.replace("-", "").lower(), name)


def _digits(name: str, data_dir: Path | None) -> ImageSet:
    """Scikit-learn's digits: 1,797 real 8 x 8 scans, every third one held out (599)."""
    if data_dir is not None:
        raise ValueError(f"data_dir: {name} comes with scikit-learn and takes no folder, got {str(data_dir)!r}")
    bunch = require("sklearn.datasets", "train").load_digits()
    images = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)  # 0..16
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    # Stretches of the set repeat 0 to 9 in order: a stride coprime with 10 keeps both splits balanced.
    held_out = torch.arange(len(labels)) % 3 == 2
    return image_set(
        name,
        Split(images[~held_out], labels[~held_out], 16.0),
        Split(images[held_out], labels[held_out], 16.0),
    )


def _folder(name: str, data_dir: Path | None, files: str) -> Path:
    if data_dir is None:
        raise ValueError(f"data_dir: {name} needs the folder of its official {files}")
    if not data_dir.is_dir():
        raise FileNotFoundError(f"data_dir: no folder {str(data_dir)!r}")
    return data_dir


def _idx_set(name: str, data_dir: Path | None) -> ImageSet:
    """MNIST's layout: four IDX files, images with magic 2051 and labels with magic 2049."""
    folder = _folder(name, data_dir, f"IDX files, e.g. {_FILES[0]}.gz")
    paths = [find(name, folder, stem) for stem in _FILES]
    payloads = [(path, read(path)) for path in paths]
    _check_official(name, payloads)
    splits = []
    for (images_path, images), (labels_path, labels) in (payloads[:2], payloads[2:]):
        pixels = parse_idx(images, images_path, ndim=3)
        targets = parse_idx(labels, labels_path, ndim=1)
        if len(pixels) != len(targets):
            raise ValueError(f"data_dir: {images_path} holds {len(pixels)} images, {labels_path} {len(targets)} labels")
        if targets.max() > 9:
            raise ValueError(f"data_dir: {labels_path} holds the label {int(targets.max())}, want 0 to 9")
        splits.append(Split(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(targets.astype(np.int64)), 255.0))
    train, test = splits
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(
            f"data_dir: images of {payloads[0][0]} are {tuple(train.images.shape[2:])}, those of {payloads[2][0]} "
            f"{tuple(test.images.shape[2:])}"
        )
    return image_set(name, train, test)


def _check_official(name: str, payloads: list[tuple[Path, bytes]]) -> None:
    """Compare files with the checksums of the official ones, unless all are others: sets of one's own are welcome.

    Sets share their file names, so a folder of the wrong one would otherwise train in silence.

    Raises:
        ValueError: a file is one of another set; or it is of the official length and not the official one, though
            another is.
    """
    found = [hashlib.sha256(payload).hexdigest() for _, payload in payloads]
    for (path, _), digest in zip(payloads, found, strict=True):
        for other, checksums in _OFFICIAL.items():
            if other != name and digest in checksums:
                raise ValueError(f"data_dir: {path} is the file of {other}, not of {name}")
    sound = [digest == official for digest, official in zip(found, _OFFICIAL[name], strict=True)]
    for (path, payload), is_sound, length in zip(payloads, sound, _LENGTHS, strict=True):
        if any(sound) and not is_sound and len(payload) == length:
            raise ValueError(f"data_dir: {path} is damaged or changed: its checksum is not that of {name}'s file")


_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# SHA-256 and lengths of the official files, unpacked, in the order above.
_OFFICIAL = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion-mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
_LENGTHS = (47040016, 60008, 7840016, 10008)


def _cifar_set(name: str, data_dir: Path | None) -> ImageSet:
    """The binary version of CIFAR-10, or of CIFAR-100 with its fine labels."""
    train, test, labels, classes, inner = _CIFAR[name]
    folder = _folder(name, data_dir, f"binary version, e.g. {train[0]}")
    splits = []
    for stems in (train, test):
        paths = [find(name, folder, stem, inner) for stem in stems]
        parts = [parse_cifar(read(path), path, labels=labels) for path in paths]
        for path, (_, found) in zip(paths, parts, strict=True):
            if found.max() >= classes:
                raise ValueError(f"data_dir: {path} holds the label {found.max()}, want 0 to {classes - 1}")
        images, targets = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
        splits.append(Split(images, targets, 255.0))
    train_split, test_split = splits
    return image_set(name, train_split, test_split)


# Training files, test files, bytes of labels a record, classes, and the folder that the official archive unpacks to.
_CIFAR = {
    "cifar-10": (
        tuple(f"data_batch_{part}.bin" for part in range(1, 6)), ("test_batch.bin",), 1, 10, "cifar-10-batches-bin",
    ),
    "cifar-100": (("train.bin",), ("test.bin",), 2, 100, "cifar-100-binary"),
}  # fmt: skip

DATASETS: dict[str, Callable[[str, Path | None], ImageSet]] = {
    "digits": _digits,
    "mnist": _idx_set,
    "fashion-mnist": _idx_set,
    "cifar-10": _cifar_set,
    "cifar-100": _cifar_set,
    "folder": folder_of_pictures,
    "hf": hugging_face,
    "npz": paired_arrays,
}

__all__ = ["DATASETS", "ImageSet", "PairedShape", "Split", "load"]
