"""Result files that are whole or absent. Without the package, which the check of a GPU builds first."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a text file, and the folders it stands in, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, document: Any) -> None:
    """Write JSON likewise; what JSON has no form for is written as text."""
    write_text(path, json.dumps(document, indent=1, default=str) + "\n")
