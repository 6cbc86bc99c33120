"""Image sets: bundled digits, and the official IDX files of MNIST and Fashion-MNIST.

Nothing is downloaded. A file that is missing, truncated or corrupt raises an error that names the argument and the
file, before a run writes anything.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators._extras import require


@dataclass(frozen=True)
class Split:
    """Images as stored, with labels.

    Attributes:
        images: uint8, ``[N, 1, H, W]``.
        labels: int64, ``[N]``.
        scale: the stored value that stands for white; pixels are ``images / scale``, in ``[0, 1]``.
    """

    images: Tensor
    labels: Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Selected images in ``[0, 1]``, float32, on the device that holds the set."""
        return self.images[index].float() / self.scale

    def to(self, device: torch.device | str) -> Split:
        """The same split held on another device."""
        return Split(self.images.to(device), self.labels.to(device), self.scale)


@dataclass(frozen=True)
class ImageSet:
    """A training and a test split of one image set, with a digest of both."""

    name: str
    train: Split
    test: Split
    digest: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def load(name: str, data_dir: str | Path | None = None) -> ImageSet:
    """Load an image set by its name in :data:`DATASETS`.

    Args:
        name: ``"digits"`` (bundled with scikit-learn), ``"mnist"`` or ``"fashion-mnist"``.
        data_dir: folder of the official IDX files, gzipped or plain, or a folder that holds them in ``NAME/``; not
            used by ``"digits"``.

    Raises:
        ValueError: unknown name, ``data_dir`` missing or not wanted, or a damaged file.
        FileNotFoundError: a file is not in ``data_dir``.
    """
    if name not in DATASETS:
        raise ValueError(f"data: {_checks.unknown(name, DATASETS)}")
    return DATASETS[name](name, None if data_dir is None else Path(data_dir))


def _image_set(name: str, train: Split, test: Split) -> ImageSet:
    digest = hashlib.sha256()
    for split in (train, test):
        digest.update(split.images.numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    return ImageSet(name, train, test, digest.hexdigest())


def _digits(name: str, data_dir: Path | None) -> ImageSet:
    """Scikit-learn's digits: 1,797 real 8 x 8 scans, every third one held out (599)."""
    if data_dir is not None:
        raise ValueError(f"data_dir: {name} comes with scikit-learn and takes no folder, got {str(data_dir)!r}")
    bunch = require("sklearn.datasets", "train").load_digits()
    images = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)  # 0..16
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    # Stretches of the set repeat 0 to 9 in order: a stride coprime with 10 keeps both splits balanced.
    held_out = torch.arange(len(labels)) % 3 == 2
    return _image_set(
        name,
        Split(images[~held_out], labels[~held_out], 16.0),
        Split(images[held_out], labels[held_out], 16.0),
    )


def _idx_set(name: str, data_dir: Path | None) -> ImageSet:
    """MNIST's layout: four IDX files, images with magic 2051 and labels with magic 2049."""
    if data_dir is None:
        raise ValueError(f"data_dir: {name} needs the folder of its official IDX files, e.g. {_FILES[0]}.gz")
    if not data_dir.is_dir():
        raise FileNotFoundError(f"data_dir: no folder {str(data_dir)!r}")
    payloads = [_read(_find(name, data_dir, stem)) for stem in _FILES]
    splits = []
    for (images_path, images), (labels_path, labels) in (payloads[:2], payloads[2:]):
        for other, checksums in _OFFICIAL.items():
            if other != name and hashlib.sha256(labels).hexdigest() in checksums:
                raise ValueError(f"data_dir: {labels_path} is the file of {other}, not of {name}")
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
    return _image_set(name, train, test)


_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# SHA-256 of the official label files, unpacked. The sets share their file names, so a folder of the wrong one would
# otherwise train in silence.
_OFFICIAL = {
    "mnist": (
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion-mnist": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


def _find(name: str, data_dir: Path, stem: str) -> Path:
    folders = (data_dir, data_dir / name)
    for folder in folders:
        for path in (folder / f"{stem}.gz", folder / stem):
            if path.is_file():
                return path
    raise FileNotFoundError(
        f"data_dir: {name} needs {stem}.gz (or {stem}), which is in neither {folders[0]} nor {folders[1]}"
    )


def _read(path: Path) -> tuple[Path, bytes]:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as file:
                return path, file.read()
        return path, path.read_bytes()
    except EOFError as error:
        raise ValueError(f"data_dir: {path} is truncated: its gzip stream ends early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"data_dir: {path} is not a sound gzip file: {error}") from error


def parse_idx(payload: bytes, path: Path, *, ndim: int) -> np.ndarray:
    """Parse unpacked IDX bytes of unsigned 8-bit values.

    Args:
        payload: big-endian header (magic ``0x0800 + ndim``, then one 32-bit size per dimension) and the values.
        path: the file, for error messages.
        ndim: number of dimensions wanted: 3 for images, 1 for labels.

    Returns:
        A writable uint8 array.

    Raises:
        ValueError: wrong magic, a size of zero, or fewer or more bytes than the header announces.
    """
    header = 4 + 4 * ndim
    if len(payload) < header:
        raise ValueError(f"data_dir: {path} is truncated: {len(payload)} bytes, its header alone takes {header}")
    magic, *sizes = struct.unpack(f">{ndim + 1}I", payload[:header])
    if magic != 0x0800 + ndim:
        raise ValueError(
            f"data_dir: {path} starts with magic {magic:#010x}, want {0x0800 + ndim:#010x} (IDX, uint8, "
            f"{ndim} dimension{'s' if ndim > 1 else ''})"
        )
    if 0 in sizes:
        raise ValueError(f"data_dir: {path} announces an empty array of shape {tuple(sizes)}")
    if len(payload) - header != math.prod(sizes):
        word = "truncated" if len(payload) - header < math.prod(sizes) else "too long"
        raise ValueError(
            f"data_dir: {path} is {word}: {len(payload) - header} bytes of data, its header announces "
            f"{math.prod(sizes)} for shape {tuple(sizes)}"
        )
    return np.frombuffer(payload, dtype=np.uint8, offset=header).reshape(sizes).copy()


DATASETS: dict[str, Callable[[str, Path | None], ImageSet]] = {
    "digits": _digits,
    "mnist": _idx_set,
    "fashion-mnist": _idx_set,
}
