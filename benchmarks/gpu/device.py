"""What is timed on: a GPU through CUDA's events, its allocator and its profiler; a CPU where tests run the rest.

A sample on the GPU is the time between two events around one call. A buffer larger than the L2 cache is written right
before the first, so that the call finds no operand in the cache. The host runs ahead meanwhile, as it does in training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import reason

Call = Callable[[], object]

# On the host's side, where the profiler shows no kernels.
LAUNCHES = (
    "cudaLaunchKernel",
    "cudaLaunchKernelExC",
    "cudaLaunchCooperativeKernel",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
)


@dataclass(frozen=True)
class Launches:
    """The kernels of one call, by name and in order; or why they could not be counted."""

    names: tuple[str, ...] | None
    why: str = ""


class Device:
    """A CPU: the same interface without events, cache, allocator or kernels."""

    name = "cpu"
    product_size = 256

    def synchronize(self) -> None:
        """Wait for what was asked for."""

    def seconds(self, function: Call, calls: int = 1) -> float:
        """Seconds of a call, the mean of so many."""
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - start) / calls

    def allocated(self) -> int | None:
        """Bytes of all living tensors."""
        return None

    def peak(self, function: Call) -> int | None:
        """The most bytes that a call has beyond those before it, its results included."""
        function()
        return None

    def launches(self, function: Call) -> Launches:
        function()
        return Launches(None, "launches are counted on a GPU only")

    def release(self) -> None:
        """Give freed memory back, so that one contender's cache takes no room from the next."""

    def usable(self) -> bool:
        """Whether the device still works: after an invalid access nothing of this process does any more."""
        return True

    def product(self, dtype: torch.dtype) -> Call:
        """A matrix product whose rate the others are compared with."""
        a, b = _factors(self.product_size, dtype, self.name)
        return partial(torch.mm, a, b, out=torch.empty_like(a))

    @property
    def product_flops(self) -> int:
        return 2 * self.product_size**3


@lru_cache(maxsize=1)
def _factors(size: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    return a, b


class Cuda(Device):
    """The first GPU that torch sees."""

    name = "cuda"
    product_size = 8192

    def __init__(self) -> None:
        cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0)
        self._flush = torch.empty(max(256 << 20, 4 * cache), dtype=torch.uint8, device="cuda")
        # The workspaces of cuBLAS, of this thread and of the one that runs backward passes, are nobody's extra memory.
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(64, 64, device="cuda").to(dtype).requires_grad_()
            (x @ x).sum().backward()
        self.synchronize()

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def seconds(self, function: Call, calls: int = 1) -> float:
        total = 0.0
        for _ in range(calls):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._flush.zero_()
            start.record()
            function()
            stop.record()
            stop.synchronize()
            total += start.elapsed_time(stop) * 1e-3
        return total / calls

    def allocated(self) -> int | None:
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    def peak(self, function: Call) -> int | None:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def launches(self, function: Call) -> Launches:
        from torch.profiler import ProfilerActivity, profile

        try:
            function()
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
                function()
                torch.cuda.synchronize()
            names = kernels_of(seen.events())
        except Exception as error:  # a profiler that may not read the device: a line of the report
            return Launches(None, f"profiler: {reason(error)}")
        return Launches(names) if names else Launches(None, "the profiler saw no kernel")

    def release(self) -> None:
        torch.cuda.empty_cache()

    def usable(self) -> bool:
        try:
            torch.cuda.synchronize()
            return bool((torch.zeros(1, device="cuda") == 0).item())
        except Exception:
            return False


def kernels_of(events: Iterable[Any]) -> tuple[str, ...]:
    """The kernels among a profiler's events, in order, without copies, fills and annotations.

    Where it shows none on the device's side, the calls that launch some.
    """
    listed = sorted(events, key=lambda event: event.time_range.start)
    on_device = [
        event.name
        for event in listed
        if event.device_type == torch.autograd.DeviceType.CUDA
        and not event.name.startswith(("Memcpy", "Memset"))
        and not getattr(event, "is_user_annotation", False)
    ]
    return tuple(on_device or [event.name for event in listed if event.name in LAUNCHES])


def named(name: str) -> Device:
    return Cuda() if name == "cuda" else Device()
