"""Checkpoints: whole or absent, and read without running what is in them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mi_estimators._files import replacing

FORMAT = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Save a checkpoint of tensors, numbers, strings and containers of them, atomically."""
    with replacing(path) as partial:
        torch.save({"format": FORMAT, **state}, partial)


def restore(networks: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Give networks the weights and memories of a checkpoint.

    Raises:
        ValueError: they are of other networks.
    """
    try:
        networks.load_state_dict(state["method"])
    except RuntimeError as error:
        what = " ".join(str(error).split())
        raise ValueError(f"out: {path} is of other networks than its settings make now: {what[:400]}") from error


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
