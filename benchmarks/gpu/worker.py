"""The process that measures: goes through the plan, and writes down every case when it is done.

It may be started again on the same file and goes on where the last one ended.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import harness
from benchmarks.gpu import plan as table
from benchmarks.gpu.device import Device
from benchmarks.gpu.measure import BUDGET, OUT_OF_TIME, Conditions, DeviceLostError, Measured, measure, refused
from benchmarks.gpu.plan import Item
from benchmarks.gpu.progress import WHOLE_CASE, Progress
from benchmarks.harness import Budget, Contender, is_library, reason

START_AGAIN = 75  # exit status: the device is lost to this process, what remains is for another
RATES = "matrix products"
LEAST_S = 5.0  # what must be left to begin a case


def work(path: Path, device: Device, plan: Sequence[Item], until: float, budget: Budget = BUDGET) -> int:
    """Measure what of the plan is not in the file yet, until that :func:`time.time`."""
    deadline = time.monotonic() + until - time.time()
    torch.set_float32_matmul_precision("highest")
    progress = Progress.load(path)
    if not progress.rates and RATES not in progress.excluded:
        progress.begin(RATES, WHOLE_CASE)
        progress.rates = rates(device)
        progress.save()
    for item in plan:
        if item.key in progress.done:
            continue
        start = time.monotonic()
        excluded = progress.excluded.get(item.key, {})
        conditions = Conditions(
            device, deadline, budget, lambda name, item=item: progress.begin(item.key, name), excluded
        )
        why = excluded.get(WHOLE_CASE) or not_begun(item, progress, conditions)
        try:
            measured = refused(item, why) if why else measured_or_refused(item, conditions)
        except DeviceLostError as error:
            progress.exclude(item.key, error.contender, f"lost the device: {error}")
            return START_AGAIN
        progress.finish(item.key, measured, time.monotonic() - start)
        print(f"{item.key}: {time.monotonic() - start:.1f} s", flush=True)
    return 0


def measured_or_refused(item: Item, conditions: Conditions) -> Measured:
    """The case, or why it has no numbers: its inputs or its reference failed."""
    conditions.began(WHOLE_CASE)
    torch.set_float32_matmul_precision(item.precision)
    try:
        return measure(item, conditions)
    except DeviceLostError:
        raise
    except Exception as error:
        why = reason(error)
    if not conditions.device.usable():
        raise DeviceLostError(WHOLE_CASE, why)
    conditions.device.release()
    return refused(item, why)


def not_begun(item: Item, progress: Progress, conditions: Conditions) -> str:
    """Why a case is not begun; empty if it is."""
    if conditions.left < LEAST_S:
        return OUT_OF_TIME
    if item.alone:
        seconds = table.expected_seconds(item, progress.measured())
        if seconds is None:
            return "not run: no smaller case tells how long it would take"
        if seconds > conditions.left - LEAST_S:
            return f"not run: would take {seconds:.0f} s at the rate of the smaller case"
    return ""


def rates(device: Device) -> dict[str, float]:
    """TFLOP/s of matrix products."""

    def rate(dtype: torch.dtype) -> float:
        product = device.product(dtype)
        for _ in range(3):
            product()
        median = statistics.median(device.seconds(product) for _ in range(10))
        return device.product_flops / median * 1e-12

    found = {"bfloat16": rate(torch.bfloat16), "float32": rate(torch.float32)}
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    found["float32 by TF32"] = rate(torch.float32)
    torch.set_float32_matmul_precision(precision)
    return found


def compiles_itself(contender: Contender) -> bool:
    return contender.wrap is not None or is_library(contender.name)


def compile_all(device: Device, plan: Sequence[Item]) -> int:
    """Call what compiles itself once, so that a later process finds the kernels in the caches of torch and Triton."""
    for item in plan:
        for contender in filter(compiles_itself, item.contenders):
            start = time.monotonic()
            try:
                torch._dynamo.reset()
                with torch.device(device.name):
                    state = item.entry.setup(item.params)
                harness.call(item.entry, contender.build(), item.params, state, item.mode)
                device.synchronize()
                outcome = "compiled"
            except Exception as error:
                outcome = reason(error)
            print(f"{item.key}: {contender.name}: {outcome}, {time.monotonic() - start:.1f} s", flush=True)
    return 0
