"""Watching the process that measures: what hangs is stopped, what crashes is left out, and the rest goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.progress import Progress
from benchmarks.gpu.worker import START_AGAIN
from benchmarks.provenance import ROOT

CONTENDER_S = 75.0  # for one contender: to compile, to be checked, or to be timed
IDLE_S = 60.0  # without one: to start, and between cases
GRACE_S = 5.0  # between the time that the process ends by itself and the time that it is stopped
STARTS = 8
STEP_S = 0.2


def supervise(command: Sequence[str], path: Path, seconds: float, contender_s: float = CONTENDER_S) -> tuple[bool, str]:
    """Run the command on the file of progress until it ends well; whether it did, and its output.

    The command is told ``--until`` when to measure, by :func:`time.time`. A process that ends badly, or is silent for
    too long, is started again without the contender that it was at.
    """
    deadline = time.monotonic() + seconds
    output = ""
    for _ in range(STARTS):
        left = deadline - time.monotonic()
        if left <= 0:
            return False, output + "\nout of time"
        until = time.time() + max(0.0, left - GRACE_S)
        status, said, late = _watch([*command, "--until", f"{until:.1f}"], path, deadline, contender_s)
        output += said
        if status == 0:
            return True, output
        progress = Progress.load(path)
        running = progress.running
        if late == "run":
            return False, output + f"\nstopped after {seconds:.0f} s"
        if status == START_AGAIN and running is None:
            continue
        if running is None or running["contender"] in progress.excluded.get(running["case"], {}):
            return False, output + f"\nended with status {status} before anything was begun"
        why = f"stopped: took more than {contender_s:g} s" if late else f"ended the process: status {status}"
        output += f"\n{running['case']}, {running['contender']}: {why}\n"
        progress.exclude(running["case"], running["contender"], why)
    return False, output + f"\nended {STARTS} times"


def _watch(command: Sequence[str], path: Path, deadline: float, contender_s: float) -> tuple[int, str, str]:
    """Status and output of one process, and which limit it was stopped for: "run", "contender" or none."""
    late = ""
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        idle_since = time.time()
        while process.poll() is None and not late:
            time.sleep(STEP_S)
            running, now = Progress.load(path).running, time.time()
            if running is not None:
                idle_since = now
            if time.monotonic() > deadline:
                late = "run"
            elif now - idle_since > IDLE_S or (running is not None and now - running["since"] > contender_s):
                late = "contender"
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # what it has started too
        status = process.wait()
        log.seek(0)
        return status, log.read(), late
