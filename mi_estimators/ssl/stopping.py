"""How a run is asked to stop: by a signal that it sees between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(RuntimeError):
    """The run was asked to stop (SIGTERM or SIGINT), saved a checkpoint and can be resumed."""


@contextmanager
def stop_signals() -> Iterator[list[str]]:
    """Collect the names of SIGTERM and SIGINT instead of dying of them, so that a step ends before the run does."""
    received: list[str] = []
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield received
        return

    def note(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
