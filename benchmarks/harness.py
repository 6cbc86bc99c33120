"""Measuring: correctness first, then time, contenders alternated in one process.

An :class:`Entry` says what is computed; this module says how it is measured and knows no operation. For each
:class:`Case` of an entry and each pass (``forward``, or ``both``: forward and backward):

1. Every contender's outputs and gradients are compared with the entry's fp64 reference (:class:`Check`). One that is
   off, fails, is not available here, or would take too long (:mod:`benchmarks.limits`) is reported with the reason and
   not timed.
2. The contenders and the floor (:mod:`benchmarks.floor`) are called in turn, A B C A B C ..., so that a slow spell of
   the machine falls on all of them. A sample is the mean of enough consecutive calls to last MIN_SAMPLE_S. Slow
   contenders leave after the first few rounds.
3. Ratios are medians over the rounds of the quotient within one round, which drift of the machine cancels from.

Memory is taken apart from time, in fresh processes: :mod:`benchmarks.memory`.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.floor import Products, row_block_products
from benchmarks.limits import History

Params = Mapping[str, Any]
Tensors = tuple[Tensor, ...]
Forward = Callable[[Params, Tensors], Tensors]

OURS = "ours"
EAGER = "torch eager"
COMPILE = "torch.compile"
FLOOR = "products"
MODES = {"forward": "forward", "both": "forward + backward"}
MIN_SAMPLE_S = 5e-3

# Largest error allowed before timing, relative to the largest element of the reference. This guards against timing a
# contender that computes something else; the accuracy of the kernels is tested in tests/, far more tightly.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class State:
    """What setup makes: the leaves that gradients are taken with respect to, and the gradient of every output."""

    inputs: Tensors
    cotangents: Tensors


@dataclass(frozen=True)
class Contender:
    """One way to compute an entry.

    ``wrap`` is applied to the function, and ``prepare`` to the inputs, once a case, outside every measurement. Above
    ``max_n`` the contender is not run, for the reason ``because``. A ``costly`` one takes so long to get ready that
    quick runs leave it out.
    """

    name: str
    forward: Forward
    wrap: Callable[[Forward], Forward] | None = None
    prepare: Callable[[State], State] | None = None
    max_n: int | None = None
    because: str = ""
    costly: bool = False

    def build(self) -> Forward:
        return self.forward if self.wrap is None else self.wrap(self.forward)

    def prepared(self, state: State) -> State:
        return state if self.prepare is None else self.prepare(state)


def is_peer(name: str) -> bool:
    """Whether a contender is someone else's: neither ours, nor ours in another way, nor the floor."""
    return name != FLOOR and not name.startswith(OURS)


def is_library(name: str) -> bool:
    """Whether a contender is a library's, not the operation written out in torch."""
    return is_peer(name) and not name.startswith((EAGER, COMPILE))


def heaviest(modes: Collection[str]) -> str:
    """The pass whose memory is taken and whose times are drawn."""
    return "both" if "both" in modes else "forward"


@dataclass(frozen=True)
class Case:
    """One problem of an entry and what to take of it.

    ``threads``: how many, if not as many as the run. ``memory``: take the peak extra memory of every contender timed.
    ``alone``: too large for the others; only ours is called, unchecked, once warm, in a fresh process.
    """

    params: Params
    modes: tuple[str, ...] = ("both",)
    threads: int | None = None
    memory: bool = False
    alone: bool = False


def autograd_backward(outputs: Tensors, state: State) -> Tensors:
    """Gradients of every input, by autograd: the backward of an entry that does not bring its own."""
    return torch.autograd.grad(outputs, state.inputs, state.cotangents)


# --------------------------------------------------------------------------------------------------------- correctness


def relative_error(got: Tensors, want: Tensors) -> float:
    """Largest elementwise error of any tensor, relative to its reference's largest finite element; NaN stays NaN."""
    return _largest_error(got, want, relative=True)


def absolute_error(got: Tensors, want: Tensors) -> float:
    """Largest elementwise error of any tensor; NaN stays NaN."""
    return _largest_error(got, want, relative=False)


def _largest_error(got: Tensors, want: Tensors, *, relative: bool) -> float:
    if len(got) != len(want):
        return math.inf
    worst = 0.0
    for g, w in zip(got, want, strict=True):
        if g.shape != w.shape:
            return math.inf
        # Equal infinities are no error, and inf - inf would make them one.
        error = torch.where(g.double() == w, 0.0, g.double() - w).abs().max().item()
        if relative:
            finite = w[torch.isfinite(w)].abs()
            size = finite.max().item() if finite.numel() else 1.0
            error = error / size if size > 0 else error
        if not (error <= worst):  # also taken when error is NaN, which no later error replaces
            worst = error
        if math.isnan(worst):
            return worst
    return worst


@dataclass(frozen=True)
class Check:
    """How far a contender may be from the reference: a measure, its name, and its bound (TOLERANCE where None)."""

    error: Callable[[Tensors, Tensors], float] = relative_error
    name: str = "relative error"
    at_most: float | None = None

    def bound(self, dtype: torch.dtype) -> float:
        return TOLERANCE[dtype] if self.at_most is None else self.at_most


# ---------------------------------------------------------------------------------------------------------------- table


@dataclass(frozen=True)
class Entry:
    """One operation to measure. Its functions are module-level ones, so that an entry can be sent to a fresh process.

    ``cases`` make a whole run, smaller n first; ``quick`` those of ``--quick``.
    """

    name: str
    cases: tuple[Case, ...]
    quick: tuple[Case, ...]
    setup: Callable[[Params], State]
    contenders: tuple[Contender, ...]
    reference: Forward
    floor: Callable[[Params], Products]
    backward: Callable[[Tensors, State], Tensors] = autograd_backward
    check: Check = Check()

    def contender(self, name: str) -> Contender:
        return next(c for c in self.contenders if c.name == name)


@dataclass
class Row:
    """One line of the results: a contender (or the floor) on one case and pass. Times are in seconds."""

    entry: str
    params: dict[str, Any]
    mode: str
    contender: str
    threads: int
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
    launches: int | None = None
    flops: int | None = None
    io_bytes: int | None = None
    note: str = ""
    samples_s: list[float] = field(default_factory=list)

    def take_times(self, samples: Sequence[float], calls: int) -> None:
        self.samples_s, self.rounds, self.calls_per_sample = list(samples), len(samples), calls
        if len(samples) > 1:
            self.q1_s, self.median_s, self.q3_s = statistics.quantiles(samples, n=4, method="inclusive")
        else:
            self.q1_s = self.median_s = self.q3_s = samples[0]

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary, ready for JSON, which has no NaN; the note of such a row says what was wrong."""
        finite = self.error is not None and math.isfinite(self.error)
        return {**asdict(self), "error": self.error if finite else None}


@dataclass(frozen=True)
class Budget:
    """How long to time a pass of a case.

    Each contender takes part in up to ``rounds`` rounds, and after ``min_rounds`` leaves once it has used ``seconds``.
    One whose single call takes more than ``call_s`` does not take part.
    """

    seconds: float
    rounds: int = 30
    min_rounds: int = 5
    call_s: float = 4.0


# --------------------------------------------------------------------------------------------------------------- calls


def call(entry: Entry, forward: Forward, params: Params, state: State, mode: str) -> Tensors:
    """One call: the outputs for ``forward``, the outputs and the gradients for ``both``."""
    if mode == "forward":
        with torch.no_grad():
            return forward(params, state.inputs)
    outputs = forward(params, state.inputs)
    return (*outputs, *entry.backward(outputs, state))


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


def once(function: Callable[[], object]) -> float:
    """Seconds of one call; the faster of two if not long, where the first may still grow pools and wake threads."""
    seconds = timed(function, 1)
    return min(seconds, timed(function, 1)) if seconds < 1 else seconds


def alternate(
    functions: Mapping[str, Callable[[], object]],
    calls: Mapping[str, int],
    budget: Budget,
    timer: Callable[[Callable[[], object], int], float] | None = None,
) -> dict[str, list[float]]:
    """Samples of every function, taken in turn; the i-th samples of all are of one round.

    ``timer`` says how long a call of a function takes, the mean of so many; by default :func:`timed` does. A function
    leaves for good once it has used its time, so that slow ones do not take the time of the others. Nobody
    is timed without a neighbour.
    """
    samples: dict[str, list[float]] = {name: [] for name in functions}
    active = list(functions)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for done in range(budget.rounds):
            if done >= budget.min_rounds:
                active = [name for name in active if sum(samples[name]) * calls[name] < budget.seconds]
            if done > 0 and len(active) < 2:
                break
            for name in active:
                if calls[name] > 1:
                    functions[name]()  # uncounted: a short call is not to pay for the caches that its neighbour left
                samples[name].append((timer or timed)(functions[name], calls[name]))
    finally:
        if collecting:
            gc.enable()
    return samples


def paired_ratio(samples: Sequence[float], base: Sequence[float]) -> float:
    """Median, over the rounds that both took part in, of the quotient within a round."""
    return statistics.median(a / b for a, b in zip(samples, base, strict=False))


# ----------------------------------------------------------------------------------------------------------------- all


def reason(error: BaseException) -> str:
    """An exception as one short line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def _ready(
    entry: Entry, contender: Contender, case: Case, mode: str, state: State, want: Tensors, row: Row, history: History
) -> tuple[Callable[[], object], float] | None:
    """A contender's call, checked and warm, and the seconds of the check.

    None, and a note in the row, where it is not timed.
    """
    n = case.params["n"]
    if contender.max_n is not None and n > contender.max_n:
        row.note = f"not run: n <= {contender.max_n} only, {contender.because}"
        return None
    refusal = history.refusal(entry.name, contender.name, row.threads, n)
    if refusal is not None and is_peer(contender.name):
        row.note = refusal
        return None
    dtype = state.inputs[0].dtype
    try:
        forward, own = contender.build(), contender.prepared(state)
        start = time.perf_counter()
        got = call(entry, forward, case.params, own, mode)
        seconds = time.perf_counter() - start
        row.error = entry.check.error(got, want)
        del got
    except Exception as error:  # a contender that cannot run here must not end the others' run
        row.note = reason(error)
        return None
    allowed = entry.check.bound(dtype)
    if not (row.error <= allowed):
        row.note = f"wrong: {entry.check.name} {row.error:.2g}, at most {allowed:.0e} allowed"
        return None
    return partial(call, entry, forward, case.params, own, mode), seconds


def measure(
    entry: Entry, case: Case, mode: str, budget: Budget, *, threads: int, history: History, quick: bool = False
) -> list[Row]:
    """All contenders of an entry on one case and pass, checked and timed; the floor last."""
    torch.set_num_threads(threads)
    torch._dynamo.reset()  # a compiled contender is specialised to one case; others must not count against its cache
    params = case.params
    state = entry.setup(params)
    dtype = state.inputs[0].dtype
    want = truth(entry, params, state, mode)
    io_bytes = sum(t.nbytes for t in state.inputs) + sum(t.numel() * dtype.itemsize for t in want)
    products = entry.floor(params)

    def new_row(name: str) -> Row:
        return Row(entry.name, dict(params), mode, name, threads, flops=products.flops(mode), io_bytes=io_bytes)

    rows: dict[str, Row] = {}
    functions: dict[str, Callable[[], object]] = {}
    calls: dict[str, int] = {}

    def admit(name: str, function: Callable[[], object], seconds: float | None = None) -> None:
        if seconds is None:
            seconds = once(function)
        calls[name] = max(1, math.ceil(MIN_SAMPLE_S / seconds))
        if seconds <= budget.call_s:
            functions[name] = function
        else:
            rows[name].take_times([seconds], 1)
            rows[name].note = f"not alternated: one call took more than the limit of {budget.call_s:g} s"
            history.time(entry.name, name, threads, params["n"], seconds)

    for contender in entry.contenders:
        if quick and contender.costly:
            continue
        row = rows[contender.name] = new_row(contender.name)
        ready = _ready(entry, contender, case, mode, state, want, row, history)
        if ready is not None:
            function, seconds = ready
            # The check is a sample where a second call would tell nothing new but for its minutes.
            told = seconds > 2 * budget.call_s and contender.wrap is None and not contender.costly
            admit(contender.name, function, seconds if told else None)
    del want
    rows[FLOOR] = new_row(FLOOR)
    rows[FLOOR].note = products.text(mode)
    floor = row_block_products(products, dtype, mode)
    floor()
    admit(FLOOR, floor)

    samples = alternate(functions, calls, budget)
    for name, taken in samples.items():
        rows[name].take_times(taken, calls[name])
        # The fastest sample: a slow spell of the machine must not keep a contender from the larger sizes.
        history.time(entry.name, name, threads, params["n"], min(taken))
        if FLOOR in samples:
            rows[name].ratio_to_floor = paired_ratio(taken, samples[FLOOR])
        if OURS in samples:
            rows[name].ratio_to_ours = paired_ratio(taken, samples[OURS])
    ours = rows[OURS].median_s if OURS in rows else None
    for row in rows.values():
        if row.contender not in samples and row.median_s is not None and ours is not None:
            row.ratio_to_ours = row.median_s / ours  # of one call, outside the rounds
    return list(rows.values())


def row_alone(entry: Entry, case: Case, mode: str, *, threads: int) -> Row:
    """The row of our own contender on a case too large for the others, to be filled in by the memory probe."""
    return Row(
        entry.name,
        dict(case.params),
        mode,
        OURS,
        threads,
        flops=entry.floor(case.params).flops(mode),
        note="alone: one warm call in a fresh process, not checked here",
    )
