"""Which images stand in a batch of the reference trainers, and seeds for every use of randomness."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class Batches:
    """Which images stand in the batch of step k: shuffled epochs, the incomplete last batch dropped.

    Every answer depends on the seed and the step alone, so a resumed run needs no sampler state.

    Args:
        n: number of images.
        batch_size: images a batch, at most ``n``.
        seed: seed of the epochs' orders.

    Raises:
        ValueError: ``batch_size`` is below 2 or above ``n``.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        if not 2 <= batch_size <= n:
            raise ValueError(f"batch_size: want 2 to {n}, the number of images in the set, got {batch_size}")
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.per_epoch = n // batch_size
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def __getitem__(self, step: int) -> Tensor:
        epoch, batch = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "epoch", epoch))
            self._order, self._epoch = torch.randperm(self.n, generator=generator), epoch
        return self._order[batch * self.batch_size : (batch + 1) * self.batch_size]


def derived_seed(seed: int, stream: str, index: int = 0) -> int:
    """A 32-bit seed for one use of randomness: hashed, since nearby seeds of torch's generator start out alike."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=4).digest(), "little")


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of a device: what ``torch.manual_seed`` draws from there.

    That function asks every backend there is, and where CUDA is not in use keeps a stack trace of each call: a tenth of
    a small training step, and memory that grows.
    """
    torch.default_generator.manual_seed(seed)
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).manual_seed(seed)
