"""``mi-estimators demo``: what ``make demo`` shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mi_estimators.commands.options import as_command, parameter


def demo_command() -> Callable[..., None]:
    """``demo``: what ``make demo`` shows."""
    parameters = [
        parameter("out", Path, "folder of plots and results; a demo there is replaced", "runs/demo"),
        parameter("seed", int, "seed of everything random", "0"),
    ]

    def body(given: dict[str, Any]) -> None:
        from mi_estimators.demo import demo

        demo(given["out"] or Path("runs/demo"), seed=given["seed"] or 0)

    return as_command(
        body, parameters, "Bounds against known information, then three trainers on real digits. Takes minutes."
    )
