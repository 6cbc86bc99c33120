"""Measuring: correctness first, then time and memory, contenders alternated in one process.

An :class:`Entry` says what is computed; this module says how it is measured and knows no operation. For each case of an
entry and each pass (``forward``, or ``both``: forward and backward):

1. Every contender's outputs and gradients are compared with the entry's fp64 reference. One that is off, fails or is
   not available here is reported with the reason and not timed.
2. The contenders and the floor are called in turn, A B C A B C ..., so that a slow spell of the machine falls on all
   of them. A sample is the mean of enough consecutive calls to last MIN_SAMPLE_S.
3. Ratios are medians over the rounds of the quotient within one round, which drift of the machine cancels from.
4. Memory: a process that runs nothing but this contender makes the call once to warm up, returns what it freed to the
   system, and takes the rise of the peak resident memory over a second call.

The floor is the time of the matrix products alone, each taken a block of rows at a time into a buffer that is used
again: what is left of the computation when everything but BLAS is free.
"""

from __future__ import annotations

import ctypes
import gc
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Params = Mapping[str, Any]
Tensors = tuple[Tensor, ...]
Forward = Callable[[Params, Tensors], Tensors]

OURS = "ours"
FLOOR = "products"
MIN_SAMPLE_S = 5e-3
FLOOR_ROWS = 256

# Largest error allowed before timing, relative to the largest element of the reference. This guards against timing a
# contender that computes something else; the accuracy of the kernels is tested in tests/, far more tightly.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class State:
    """What setup makes: the leaves that gradients are taken with respect to, and the gradient of every output."""

    inputs: Tensors
    cotangents: Tensors


@dataclass(frozen=True)
class Products:
    """The matrix products an operation on n x m pairs of dimension d cannot do without, and how many of them."""

    n: int
    m: int
    d: int
    forward: int
    both: int

    def count(self, mode: str) -> int:
        return self.forward if mode == "forward" else self.both

    def flops(self, mode: str) -> int:
        return 2 * self.n * self.m * self.d * self.count(mode)


@dataclass(frozen=True)
class Contender:
    """One way to compute an entry. ``wrap`` is applied to the function once a case, outside every measurement."""

    name: str
    forward: Forward
    wrap: Callable[[Forward], Forward] | None = None

    def build(self) -> Forward:
        return self.forward if self.wrap is None else self.wrap(self.forward)


def autograd_backward(outputs: Tensors, state: State) -> Tensors:
    """Gradients of every input, by autograd: the backward of an entry that does not bring its own."""
    return torch.autograd.grad(outputs, state.inputs, state.cotangents)


@dataclass(frozen=True)
class Entry:
    """One operation to measure. Its functions are module-level ones, so that an entry can be sent to a fresh process.

    ``cases`` are timed; ``quick`` is the part of them that ``--quick`` times; at ``memory_cases`` only the memory of
    our own contender is taken, where the others would not fit.
    """

    name: str
    suite: str
    cases: tuple[Params, ...]
    quick: tuple[Params, ...]
    setup: Callable[[Params], State]
    contenders: tuple[Contender, ...]
    reference: Forward
    floor: Callable[[Params], Products]
    memory_cases: tuple[Params, ...] = ()
    modes: tuple[str, ...] = ("forward", "both")
    backward: Callable[[Tensors, State], Tensors] = autograd_backward

    def contender(self, name: str) -> Contender:
        return next(c for c in self.contenders if c.name == name)


@dataclass
class Row:
    """One line of the results: a contender (or the floor) on one case and pass. Times are in seconds."""

    entry: str
    params: dict[str, Any]
    mode: str
    contender: str
    error: float | None = None
    median_s: float | None = None
    q1_s: float | None = None
    q3_s: float | None = None
    rounds: int = 0
    calls_per_sample: int = 0
    ratio_to_ours: float | None = None
    ratio_to_floor: float | None = None
    peak_extra_bytes: int | None = None
    kept_bytes: int | None = None
    memory_method: str | None = None
    flops: int | None = None
    io_bytes: int | None = None
    note: str = ""
    samples_s: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary, ready for JSON, which has no NaN; the note of such a row says what was wrong."""
        finite = self.error is not None and math.isfinite(self.error)
        return {**asdict(self), "error": self.error if finite else None}


@dataclass(frozen=True)
class Budget:
    """How long to time a pass of a case: up to ``rounds`` or ``seconds``, but ``min_rounds`` at least."""

    seconds: float
    rounds: int = 30
    min_rounds: int = 5


# --------------------------------------------------------------------------------------------------------------- calls


def call(entry: Entry, forward: Forward, params: Params, state: State, mode: str) -> Tensors:
    """One call: the outputs for ``forward``, the outputs and the gradients for ``both``."""
    if mode == "forward":
        with torch.no_grad():
            return forward(params, state.inputs)
    outputs = forward(params, state.inputs)
    return (*outputs, *entry.backward(outputs, state))


def row_block_products(products: Products, dtype: torch.dtype, mode: str) -> Callable[[], None]:
    """The floor: a function that takes the matrix products alone, each by blocks of rows into one reused buffer.

    A product into the scores is followed by those that use the scores, block by block, as in a fused kernel: the
    buffer stays in cache if anything does.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(products.n, products.d, generator=generator).to(dtype)
    y = torch.randn(products.m, products.d, generator=generator).to(dtype)
    rows = min(FLOOR_ROWS, products.n)
    scores = torch.empty(rows, products.m, dtype=dtype)
    dx, dy = torch.empty_like(x), torch.empty_like(y)

    def to_scores(start: int, stop: int) -> None:
        torch.mm(x[start:stop], y.T, out=scores[: stop - start])

    def to_dx(start: int, stop: int) -> None:
        torch.mm(scores[: stop - start], y, out=dx[start:stop])

    def to_dy(start: int, stop: int) -> None:
        dy.addmm_(scores[: stop - start].T, x[start:stop])

    # Forward, then in a second sweep the recomputed scores and the gradients that need a product each.
    sweeps: list[Sequence[Callable[[int, int], None]]] = [(to_scores,)] * products.forward
    if mode == "both":
        sweeps.append((to_scores, to_dx, to_dy)[: products.both - products.forward])

    def run() -> None:
        with torch.no_grad():
            dy.zero_()
            for steps in sweeps:
                for start in range(0, products.n, rows):
                    stop = min(start + rows, products.n)
                    for step in steps:
                        step(start, stop)

    return run


# --------------------------------------------------------------------------------------------------------- correctness


def relative_error(got: Tensors, want: Tensors) -> float:
    """Largest elementwise error of any tensor, relative to its reference's largest finite element; NaN stays NaN."""
    if len(got) != len(want):
        return math.inf
    worst = 0.0
    for g, w in zip(got, want, strict=True):
        if g.shape != w.shape:
            return math.inf
        # Equal infinities are no error, and inf - inf would make them one.
        difference = torch.where(g.double() == w, 0.0, g.double() - w).abs().max().item()
        finite = w[torch.isfinite(w)].abs()
        size = finite.max().item() if finite.numel() else 1.0
        error = difference / size if size > 0 else difference
        if not (error <= worst):  # also taken when error is NaN, which no later error replaces
            worst = error
        if math.isnan(worst):
            return worst
    return worst


def truth(entry: Entry, params: Params, state: State, mode: str) -> Tensors:
    """The entry's reference on the same numbers in fp64."""
    wide = State(
        inputs=tuple(t.detach().double().requires_grad_(t.requires_grad) for t in state.inputs),
        cotangents=tuple(t.double() for t in state.cotangents),
    )
    if mode == "forward":
        with torch.no_grad():
            return entry.reference(params, wide.inputs)
    outputs = entry.reference(params, wide.inputs)
    # Always by autograd: an entry's own backward is part of what is being checked.
    return (*(o.detach() for o in outputs), *autograd_backward(outputs, wide))


# ---------------------------------------------------------------------------------------------------------------- time


def timed(function: Callable[[], object], calls: int) -> float:
    """Seconds a call, the mean of ``calls`` consecutive ones."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def alternate(
    functions: Mapping[str, Callable[[], object]], budget: Budget
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Samples of every function, taken in turn, and how many calls a sample of each is made of."""
    calls: dict[str, int] = {}
    for name, function in functions.items():
        function()
        # Two warm calls before counting: the first may still grow allocator pools and wake threads.
        once = min(timed(function, 1), timed(function, 1))
        calls[name] = max(1, math.ceil(MIN_SAMPLE_S / once))
    samples: dict[str, list[float]] = {name: [] for name in functions}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for done in range(budget.rounds):
            if done >= budget.min_rounds and time.perf_counter() - start > budget.seconds:
                break
            for name, function in functions.items():
                samples[name].append(timed(function, calls[name]))
    finally:
        if collecting:
            gc.enable()
    return samples, calls


def paired_ratio(samples: Sequence[float], base: Sequence[float]) -> float:
    """Median over rounds of the quotient within one round."""
    return statistics.median(a / b for a, b in zip(samples, base, strict=True))


# -------------------------------------------------------------------------------------------------------------- memory


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


def call_memory(entry: Entry, name: str, params: Params, mode: str, threads: int) -> tuple[int, int | None, str]:
    """Peak extra memory of one call, what the call before it has kept, and how it was taken. Runs in a worker."""
    torch.set_num_threads(threads)
    torch._dynamo.reset()
    state = entry.setup(params)
    forward = entry.contender(name).build()
    if not _reset_peak():
        # The lifetime's peak cannot be set back, so no warm-up call may come first: one-off costs are included.
        before = _max_rss_bytes()
        call(entry, forward, params, state, mode)
        return _max_rss_bytes() - before, None, "rise of ru_maxrss over a first call"
    _return_freed_memory()
    cold = _status_bytes("VmRSS")
    call(entry, forward, params, state, mode)
    _return_freed_memory()
    _reset_peak()
    before = _status_bytes("VmRSS")
    result = call(entry, forward, params, state, mode)
    peak = _status_bytes("VmHWM")
    del result
    return max(0, peak - before), before - cold, "rise of VmHWM over a second call"


class MemoryProbe:
    """Takes memory in a process a contender, so that one contender's pools do not hide another's need."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._workers: dict[str, ProcessPoolExecutor] = {}

    def __enter__(self) -> MemoryProbe:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.shutdown()

    def take(self, row: Row, entry: Entry) -> None:
        """Fill in the memory of one row, or a note of why there is none."""
        name = row.contender
        if name not in self._workers:
            context = multiprocessing.get_context("spawn")
            self._workers[name] = ProcessPoolExecutor(max_workers=1, mp_context=context)
        try:
            row.peak_extra_bytes, row.kept_bytes, row.memory_method = (
                self._workers[name].submit(call_memory, entry, name, row.params, row.mode, self.threads).result()
            )
        except Exception as error:  # a call that the system ended for want of memory is a result, not the run's end
            row.note = f"memory: {_reason(error)}"
            self._workers.pop(name).shutdown()


# ----------------------------------------------------------------------------------------------------------------- all


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def measure(entry: Entry, params: Params, mode: str, budget: Budget) -> list[Row]:
    """All contenders of an entry on one case and pass, checked and timed; the floor last."""
    torch._dynamo.reset()  # a compiled contender is specialised to one case; others must not count against its cache
    state = entry.setup(params)
    dtype = state.inputs[0].dtype
    want = truth(entry, params, state, mode)
    io_bytes = sum(t.nbytes for t in state.inputs) + sum(t.numel() * dtype.itemsize for t in want)
    products = entry.floor(params)

    rows: dict[str, Row] = {}
    functions: dict[str, Callable[[], object]] = {}
    for contender in entry.contenders:
        row = rows[contender.name] = Row(
            entry.name, dict(params), mode, contender.name, flops=products.flops(mode), io_bytes=io_bytes
        )
        try:
            forward = contender.build()
            row.error = relative_error(call(entry, forward, params, state, mode), want)
        except Exception as error:  # a contender that cannot run here must not end the others' run
            row.note = _reason(error)
            continue
        if not (row.error <= TOLERANCE[dtype]):
            row.note = f"wrong: relative error {row.error:.2g}, at most {TOLERANCE[dtype]:.0e} allowed"
            continue
        functions[contender.name] = partial(call, entry, forward, params, state, mode)
    del want
    rows[FLOOR] = Row(entry.name, dict(params), mode, FLOOR, flops=products.flops(mode), io_bytes=io_bytes)
    functions[FLOOR] = row_block_products(products, dtype, mode)

    samples, calls = alternate(functions, budget)
    for name, row in rows.items():
        if name not in samples:
            continue
        times = samples[name]
        row.samples_s, row.rounds, row.calls_per_sample = times, len(times), calls[name]
        row.q1_s, row.median_s, row.q3_s = statistics.quantiles(times, n=4, method="inclusive")
        row.ratio_to_floor = paired_ratio(times, samples[FLOOR])
        if OURS in samples:
            row.ratio_to_ours = paired_ratio(times, samples[OURS])
    return list(rows.values())


def memory_only(entry: Entry, params: Params, mode: str) -> Row:
    """A row for our own contender on a case too large for the others: nothing is checked or timed there."""
    return Row(entry.name, dict(params), mode, OURS, flops=entry.floor(params).flops(mode), note="memory only")
