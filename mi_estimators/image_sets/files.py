"""Files of image sets: found, unpacked and parsed, or named in the error that says what is wrong with them."""

from __future__ import annotations

import gzip
import lzma
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def find(name: str, data_dir: Path, stem: str, *inner: str) -> Path:
    """A file of an image set, packed or plain, in the folder given or in one inside it of the set's name.

    Args:
        name: of the image set.
        data_dir: the folder.
        stem: the file's name, unpacked.
        *inner: further folders inside ``data_dir`` to look in.

    Raises:
        FileNotFoundError: it is nowhere.
    """
    folders = (data_dir, *(data_dir / folder for folder in (name, *inner)))
    for folder in folders:
        for suffix in (".gz", ".xz", ""):
            if (path := folder / f"{stem}{suffix}").is_file():
                return path
    raise FileNotFoundError(
        f"data_dir: {name} needs {stem} (plain, .gz or .xz), which is in none of {', '.join(map(str, folders))}"
    )


def read(path: Path) -> bytes:
    """The unpacked bytes of a file.

    Raises:
        ValueError: it is packed, and not sound.
    """
    if path.suffix not in _PACKED:
        return path.read_bytes()
    kind, opened = _PACKED[path.suffix]
    try:
        with opened(path, "rb") as file:
            return file.read()
    except EOFError as error:
        raise ValueError(f"data_dir: {path} is truncated: its {kind} stream ends early") from error
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"data_dir: {path} is not a sound {kind} file: {error}") from error


_PACKED: dict[str, tuple[str, Callable[..., Any]]] = {".gz": ("gzip", gzip.open), ".xz": ("xz", lzma.open)}


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


def parse_cifar(payload: bytes, path: Path, *, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Parse the binary version of CIFAR-10 or CIFAR-100.

    Args:
        payload: records of ``labels`` bytes, then 3 x 32 x 32 pixels, channel by channel.
        path: the file, for error messages.
        labels: bytes of labels a record, the last of which is taken: 1 for CIFAR-10, 2 for CIFAR-100.

    Returns:
        Writable uint8 images ``[N, 3, 32, 32]`` and int64 labels ``[N]``.

    Raises:
        ValueError: empty, or not a whole number of records.
    """
    record = labels + 3 * 32 * 32
    if len(payload) == 0 or len(payload) % record:
        raise ValueError(
            f"data_dir: {path} is truncated or of another format: {len(payload)} bytes, want a multiple of {record}"
        )
    rows = np.frombuffer(payload, dtype=np.uint8).reshape(-1, record)
    return rows[:, labels:].reshape(-1, 3, 32, 32).copy(), rows[:, labels - 1].astype(np.int64)
