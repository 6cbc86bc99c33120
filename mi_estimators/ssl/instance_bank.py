"""A memory of one embedding for each training image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.distributed import gather_with_gradient
from mi_estimators.ops import pairwise_lse


class InstanceBank(nn.Module):
    r"""A unit vector for each training image, :math:`v_i \leftarrow m\, v_i + (1 - m)\, z_i`, then normalised again.

    It starts from random directions. The queue of :class:`mi_estimators.memory_bank.MemoryBank` forgets images; this
    forgets none, and each has one entry.

    Args:
        size: number of images.
        dim: width of an entry.
        momentum: m.

    Source: Wu et al. (2018), arXiv 1805.01978, sec. 3.
    """

    entries: Tensor

    def __init__(self, size: int, dim: int, momentum: float = 0.5) -> None:
        super().__init__()
        self.momentum = momentum
        self.gather_distributed = False
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self.register_buffer("entries", F.normalize(torch.randn(size, dim), dim=1))

    def loss(self, z: Tensor, positives: Tensor, scale: float | Tensor) -> Tensor:
        r"""Softmax over the bank, in nats: :math:`\mathrm{mean}_i \log \sum_j e^{s\, z_i v_j} - s\, z_i p_i`.

        Shape:
            - z: unit embeddings ``[K, d]``.
            - positives: ``[K, d]``, what each is told from the bank's entries: its own entry, or a stand-in for it.
            - output: a scalar.
        """
        everyone = pairwise_lse(z, self.entries.to(z.dtype), scale=scale)
        return (everyone - scale * (z * positives.to(z.dtype)).sum(dim=1)).mean()

    @torch.no_grad()
    def update(self, index: Tensor, z: Tensor) -> None:
        """Take in the embeddings of some images, each of which comes once, and those that other processes hold."""
        if self.gather_distributed:
            index, z = gather_with_gradient(index), gather_with_gradient(z)
        old = self.entries[index]
        self.entries[index] = F.normalize(torch.lerp(z.to(old.dtype), old, self.momentum), dim=1)

    def remember(self, index: Tensor, z: Tensor) -> None:
        """Keep embeddings until :meth:`take_in`: the backward pass needs the entries as they were."""
        self._waiting.append((index, z.detach()))

    def take_in(self) -> None:
        """Update with all that is remembered."""
        for index, z in self._waiting:
            self.update(index, z)
        self._waiting.clear()
