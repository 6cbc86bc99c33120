"""Measuring one case on a device: each contender right, then its memory, then all of them in turn.

As :mod:`benchmarks.harness` does it on a CPU, with three differences: a sample is one call, memory is what torch's
allocator counts, and the floor is a large matrix product of the same dtype, timed in the same rounds and scaled to the
operations of the entry. A contender that fails in any way is a row with a note. Only a device that no longer works ends
the process (:class:`DeviceLostError`), and another goes on without that contender.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch

from benchmarks import harness
from benchmarks.gpu.device import Call, Device
from benchmarks.gpu.plan import Item
from benchmarks.harness import FLOOR, OURS, Budget, Contender, Forward, Row, State, paired_ratio, reason

COMPILE_S = 30.0  # what must be left to begin on a costly contender
OUT_OF_TIME = "not run: out of time"
BUDGET = Budget(seconds=0.5, rounds=40, min_rounds=5, call_s=2.0)


class DeviceLostError(RuntimeError):
    """The device answers no more; ``contender`` was the last to use it."""

    def __init__(self, contender: str, why: str) -> None:
        super().__init__(why)
        self.contender = contender


@dataclass
class Conditions:
    """What all cases of a process share.

    ``deadline``: of :func:`time.monotonic`. ``began`` is told which contender is about to run, ``excluded`` says why
    one of the case must not.
    """

    device: Device
    deadline: float
    budget: Budget = BUDGET
    began: Callable[[str], None] = lambda name: None
    excluded: Mapping[str, str] = field(default_factory=dict)

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()


@dataclass
class Measured:
    """The rows of a case, and the kernels of each contender whose launches were counted."""

    rows: list[Row]
    kernels: dict[str, tuple[str, ...]] = field(default_factory=dict)


class _Failed(Exception):
    def __init__(self, contender: str, error: Exception) -> None:
        super().__init__(contender)
        self.contender, self.error = contender, error


def guarded(name: str, function: Call) -> Call:
    """The function, with its name on its errors: the alternation calls all of them."""

    def run() -> object:
        try:
            return function()
        except Exception as error:
            raise _Failed(name, error) from error

    return run


def measure(item: Item, conditions: Conditions) -> Measured:
    """All contenders of an item, checked and timed; the matrix product last."""
    return _Case(item, conditions).run()


def refused(item: Item, why: str) -> Measured:
    """The rows of an item that is not begun."""
    case = _Case(item, Conditions(Device(), deadline=0))
    rows = [case.new_row(contender.name) for contender in item.contenders]
    for row in rows:
        row.note = why
    return Measured(rows)


class _Case:
    def __init__(self, item: Item, conditions: Conditions) -> None:
        self.item, self.conditions, self.device = item, conditions, conditions.device
        self.entry, self.params, self.mode = item.entry, item.params, item.mode
        self.flops = self.entry.floor(self.params).flops(self.mode)
        self.result = Measured([])

    def new_row(self, name: str) -> Row:
        threads = torch.get_num_threads()
        return Row(self.entry.name, dict(self.params), self.mode, name, threads, flops=self.flops)

    def run(self) -> Measured:
        if any(contender.wrap is not None for contender in self.item.contenders):
            torch._dynamo.reset()  # a compiled contender is specialised to one case
        with torch.device(self.device.name):
            state = self.entry.setup(self.params)
        if self.item.alone:
            return self.alone(state)
        want = harness.truth(self.entry, self.params, state, self.mode)
        functions: dict[str, Call] = {}
        rows: dict[str, Row] = {}
        for contender in self.item.contenders:
            row = rows[contender.name] = self.new_row(contender.name)
            self.result.rows.append(row)
            function = self.ready(contender, state, want, row)
            if function is not None:
                functions[contender.name] = function
        del want
        self.device.release()
        row = rows[FLOOR] = self.new_row(FLOOR)
        self.result.rows.append(row)
        dtype = state.inputs[0].dtype
        size = self.device.product_size
        row.note = f"a product of {size} x {size} in {str(dtype).removeprefix('torch.')}, scaled to these operations"
        functions[FLOOR] = self.device.product(dtype)
        self.time(functions, rows)
        if self.item.launches:
            for name in [name for name in functions if name != FLOOR]:
                self.count(name, functions[name], rows[name])
        return self.result

    def failed(self, row: Row, error: Exception) -> None:
        """Note why a contender is not timed; where it took the device with it, end here."""
        row.note = reason(error)
        usable = self.device.usable()
        # The traceback holds the tensors of the call that failed.
        error.__traceback__ = None
        error.__context__ = error.__cause__ = None
        gc.collect()
        if not usable:
            raise DeviceLostError(row.contender, row.note)
        self.device.release()

    def ready(self, contender: Contender, state: State, want: harness.Tensors, row: Row) -> Call | None:
        """A contender's call, checked and its memory taken; None and a note where it is not timed."""
        if contender.name in self.conditions.excluded:
            row.note = self.conditions.excluded[contender.name]
            return None
        if self.conditions.left < (COMPILE_S if contender.costly else 0):
            row.note = OUT_OF_TIME
            return None
        self.conditions.began(contender.name)
        try:
            forward, own = contender.build(), contender.prepared(state)
            before = self.device.allocated()
            row.error = self.error(forward, own, want)
            after = self.device.allocated()
            function: Call = partial(harness.call, self.entry, forward, self.params, own, self.mode)
            row.peak_extra_bytes = self.device.peak(function)
        except Exception as error:  # whatever a contender does must not end the others' run
            self.failed(row, error)
            return None
        if before is not None and after is not None:
            row.kept_bytes, row.memory_method = after - before, "torch's allocator, over a second call"
        self.device.release()
        allowed = self.entry.check.bound(state.inputs[0].dtype)
        if not (row.error <= allowed):
            row.note = f"wrong: {self.entry.check.name} {row.error:.2g}, at most {allowed:.0e} allowed"
            return None
        return function

    def error(self, forward: Forward, state: State, want: harness.Tensors) -> float:
        return self.entry.check.error(harness.call(self.entry, forward, self.params, state, self.mode), want)

    def time(self, functions: dict[str, Call], rows: dict[str, Row]) -> None:
        """Samples of all functions in turn. One that fails leaves, and the others begin again."""
        budget, samples = self.conditions.budget, {}
        scale = {FLOOR: self.flops / self.device.product_flops}
        while functions:
            try:
                active = {}
                for name, function in functions.items():  # the caches of all of them, side by side
                    if name != FLOOR:
                        self.conditions.began(name)
                    guarded(name, function)()
                    seconds = self.device.seconds(guarded(name, function))
                    if seconds <= budget.call_s:
                        active[name] = guarded(name, function)
                    else:
                        rows[name].take_times([scale.get(name, 1.0) * seconds], 1)
                        rows[name].note = f"not alternated: one call took more than {budget.call_s:g} s"
                samples = harness.alternate(active, dict.fromkeys(active, 1), budget, self.device.seconds)
                break
            except _Failed as failure:
                functions.pop(failure.contender)
                self.failed(rows[failure.contender], failure.error)
        for name, taken in samples.items():
            rows[name].take_times([scale.get(name, 1.0) * seconds for seconds in taken], 1)
        for row in rows.values():
            if row.samples_s:
                row.ratio_to_ours = self.ratio(row, rows.get(OURS))
                row.ratio_to_floor = self.ratio(row, rows.get(FLOOR))

    @staticmethod
    def ratio(row: Row, base: Row | None) -> float | None:
        return paired_ratio(row.samples_s, base.samples_s) if base is not None and base.samples_s else None

    def count(self, name: str, function: Call, row: Row) -> None:
        self.conditions.began(name)
        counted = self.device.launches(function)
        if counted.names is None:
            row.note = "; ".join(filter(None, (row.note, f"launches not counted: {counted.why}")))
        else:
            row.launches = len(counted.names)
            self.result.kernels[name] = counted.names

    def alone(self, state: State) -> Measured:
        """One call of a problem too large for a reference, and whether what it gives is finite."""
        (contender,) = self.item.contenders
        row = self.new_row(contender.name)
        self.result.rows.append(row)
        if contender.name in self.conditions.excluded:
            row.note = self.conditions.excluded[contender.name]
            return self.result
        self.conditions.began(contender.name)
        outputs: list[harness.Tensors] = []
        forward = contender.build()
        try:

            def once() -> None:
                outputs.append(harness.call(self.entry, forward, self.params, state, self.mode))

            seconds: list[float] = []
            row.peak_extra_bytes = self.device.peak(lambda: seconds.append(self.device.seconds(once)))
            row.memory_method = "torch's allocator, over the only call"
            if not all(bool(tensor.isfinite().all()) for tensor in outputs[0]):
                row.note = "wrong: not finite"
                return self.result
            row.take_times(seconds, 1)
            row.note = "one call, not checked but for being finite"
        except Exception as error:
            self.failed(row, error)
        return self.result
