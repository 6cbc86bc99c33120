"""Memory for the kernels of the SIMT tests, guarded on both sides; the element types; what every launch must return."""

from __future__ import annotations

import ctypes

import numpy as np
import torch

DTYPES = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
CODES = {name: code for code, name in enumerate(DTYPES)}
# Around every buffer that the kernels see. It must survive, and what is read from it (NaN) shows in the results.
GUARD = 64
NO_GROUP = -999


class Buffer:
    """Memory for a kernel, all NaN (a group that no point has) at first, with a guard on both sides."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.size = int(np.prod(shape))
        poison = torch.nan if dtype.is_floating_point else NO_GROUP
        self.memory = torch.full((self.size + 2 * GUARD,), poison, dtype=dtype)
        self.tensor = self.memory[GUARD : GUARD + self.size].view(shape)

    @property
    def pointer(self) -> int:
        return self.tensor.data_ptr()

    def check(self, name: str) -> None:
        intact = self.memory.isnan() if self.memory.is_floating_point() else self.memory == NO_GROUP
        assert intact[:GUARD].all(), f"{name}: written before its start"
        assert intact[GUARD + self.size :].all(), f"{name}: written past its end"


class Buffers(dict[str, Buffer]):
    """The buffers of one call, by name."""

    def give(self, name: str, value: torch.Tensor | None) -> int | None:
        """A pointer to a copy of the value; null for none."""
        if value is None:
            return None
        pointer = self.take(name, tuple(value.shape), value.dtype)
        self[name].tensor.copy_(value)
        return pointer

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        self[name] = Buffer(shape, dtype)
        return self[name].pointer

    def space(self, name: str, size: int) -> ctypes.c_void_p:
        """Workspace of so many bytes."""
        return ctypes.c_void_p(self.take(name, (size // 4,), torch.float32))

    def check(self) -> None:
        for name, buffer in self.items():
            buffer.check(name)


def assert_launched(library: ctypes.CDLL, status: int) -> None:
    assert status == 0, library.last_error().decode() or f"error {status}"
