"""Files that are either whole or absent, and checkpoints made of them."""

from __future__ import annotations

import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

FORMAT = 1


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside its place, flush it to the disk, then move it there in one step.

    A process killed at any moment leaves the old file or the new one, never a part of one.

    Args:
        path: the file; its folder exists.
        write: called with the open binary file.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private to the user; a run's files get the permissions any other new file would.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def save(path: Path, state: dict[str, Any]) -> None:
    """Save a checkpoint of tensors, numbers, strings and containers of them, atomically."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU; nothing but tensors and plain values is unpickled.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of another format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"out: no checkpoint at {path}, so there is no run to resume")
    # What is no archive would go to an unpickler of old formats, which fails on noise with any error there is.
    if not zipfile.is_zipfile(path):
        raise ValueError(f"out: {path} is not a sound checkpoint (no complete archive)")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"out: {path} is not a sound checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"out: {path} is not a checkpoint of this package, format {FORMAT}")
    return state
