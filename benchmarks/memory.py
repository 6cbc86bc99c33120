"""Peak extra memory of a call, taken in a process that runs one contender alone."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import resource
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.harness import Entry, Row, call, reason

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


@dataclass(frozen=True)
class Memory:
    """What one call took. ``seconds`` is its time, alone on the machine but for what else runs there."""

    peak_extra_bytes: int
    kept_bytes: int | None
    method: str
    seconds: float


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status: no line {key}")


def _reset_peak() -> bool:
    """Set the peak resident memory to the present one; whether that could be done (Linux, where the system allows)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status_bytes("VmHWM") - _status_bytes("VmRSS") < 1 << 20
    except OSError:
        return False


def _return_freed_memory() -> None:
    """Give freed heap memory back to the system, so that a later rise shows what a call asks for (glibc only)."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _max_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def call_memory(entry: Entry, name: str, params: dict[str, object], mode: str, threads: int) -> Memory:
    """Memory and time of one call. Runs in a worker."""
    torch.set_num_threads(threads)
    torch._dynamo.reset()
    contender = entry.contender(name)
    state = contender.prepared(entry.setup(params))
    forward = contender.build()
    if not _reset_peak():
        # The lifetime's peak cannot be set back, so no warm-up call may come first: one-off costs are included.
        before, start = _max_rss_bytes(), time.perf_counter()
        call(entry, forward, params, state, mode)
        seconds = time.perf_counter() - start
        return Memory(_max_rss_bytes() - before, None, "rise of ru_maxrss over a first call", seconds)
    _return_freed_memory()
    cold = _status_bytes("VmRSS")
    call(entry, forward, params, state, mode)
    _return_freed_memory()
    _reset_peak()
    before, start = _status_bytes("VmRSS"), time.perf_counter()
    result = call(entry, forward, params, state, mode)
    seconds = time.perf_counter() - start
    peak = _status_bytes("VmHWM")
    del result
    return Memory(max(0, peak - before), before - cold, "rise of VmHWM over a second call", seconds)


def _end_with_parent() -> None:
    """Have the system end this worker when the run is killed (Linux), so that no call goes on without it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class MemoryProbe:
    """Takes memory in a process a contender, so that one contender's pools do not hide another's need."""

    def __init__(self) -> None:
        self._workers: dict[str, ProcessPoolExecutor] = {}

    def __enter__(self) -> MemoryProbe:
        return self

    def __exit__(self, *_: object) -> None:
        for name in tuple(self._workers):
            self._end(name)

    def _end(self, name: str) -> None:
        if name in self._workers:
            self._workers.pop(name).shutdown()

    def worker(self, name: str) -> ProcessPoolExecutor:
        """The process of a contender, started when first asked for."""
        if name not in self._workers:
            context = multiprocessing.get_context("spawn")
            self._workers[name] = ProcessPoolExecutor(1, mp_context=context, initializer=_end_with_parent)
        return self._workers[name]

    def take(self, row: Row, entry: Entry, *, fresh: bool = False) -> Memory | None:
        """Fill in the memory of one row, or a note of why there is none.

        ``fresh``: in a process that has run nothing before, so that nothing an earlier case left is used again.
        """
        name = row.contender
        if fresh:
            self._end(name)
        try:
            memory = self.worker(name).submit(call_memory, entry, name, row.params, row.mode, row.threads).result()
        except Exception as error:  # a call that the system ended for want of memory is a result, not the run's end
            row.note = f"memory: {reason(error)}"
            self._end(name)
            return None
        row.peak_extra_bytes, row.kept_bytes, row.memory_method = (
            memory.peak_extra_bytes,
            memory.kept_bytes,
            memory.method,
        )
        if fresh:
            self._end(name)
        return memory
