"""A queue of past keys, which serve as negatives, or as points of a density, without a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators import _checks
from mi_estimators.distributed import gather_with_gradient


class MemoryBank(nn.Module):
    r"""The last ``size`` keys, first in first out: the queue of MoCo.

    Buffers hold the entries and the place of the oldest, so that they are part of checkpoints and move with ``.to``;
    they also follow the keys to their device. Until ``size`` keys have come in, the rest are random directions, as in
    MoCo and lightly: the number of negatives, and with it the scale of the loss, is the same from the first step on,
    and no shape changes. Such directions are nearly orthogonal to everything, and are gone after ``size`` keys.

    Args:
        size: number of entries.
        dim: width of a key. ``None`` takes it from the first keys; until then a checkpoint holds no entries.
        normalize: scale keys to unit length as they come in.
        gather_distributed: take in the keys of all ranks, in rank order, so that all hold the same entries once the
            random ones are gone. Otherwise each rank holds its own.
        start: ``"random"`` directions, or ``"empty"``, for entries that are points of a density and have to be of the
            data: then only those that have come in are given out, and a third buffer, ``count``, is their number.

    Shape:
        - ``entries``: :math:`(\text{size}, \text{dim})`, float32, or float64 where ``dim`` is taken from float64 keys.

    Raises:
        TypeError, ValueError: ``size`` or ``dim`` not integers > 0; an unknown ``start``.

    Source: He et al. (2020), arXiv 1911.05722, algorithm 1; Wu et al. (2018), arXiv 1805.01978, for the memory bank.
    """

    entries: Tensor
    position: Tensor
    count: Tensor

    def __init__(
        self,
        size: int,
        dim: int | None = None,
        *,
        normalize: bool = True,
        gather_distributed: bool = False,
        start: str = "random",
    ) -> None:
        super().__init__()
        _checks.choice("start", start, ("random", "empty"))
        for name, value in (("size", size), ("dim", 1 if dim is None else dim)):
            _checks.count(name, value)
        self.size = size
        self.normalize = normalize
        self.gather_distributed = gather_distributed
        self.start = start
        self._full = start == "random"
        self.register_buffer("entries", torch.empty(size, 0) if dim is None else self._first_entries(dim))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        if start == "empty":
            self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, keys: Tensor, *, update: bool = True) -> Tensor:
        r"""The entries from before these keys, which are then taken in.

        Args:
            keys: of the present batch.
            update: whether to take them in.

        Shape:
            - keys: :math:`(N, \text{dim})`; Output: :math:`(\text{size}, \text{dim})`, of a bank that started empty
              only as many rows as have come in, a copy without a gradient, in the dtype of ``keys``.

        Raises:
            TypeError, ValueError: as :meth:`update`.
        """
        self._follow(keys)
        # A copy: the entries change before the backward reads them.
        negatives = self._held().to(keys.dtype, copy=True)
        if update:
            self.update(keys)
        return negatives

    @torch.no_grad()
    def update(self, keys: Tensor) -> None:
        r"""Put keys in the place of the oldest entries; of more than ``size`` keys, the last ones.

        Shape:
            - keys: :math:`(N, \text{dim})`.

        Raises:
            TypeError, ValueError: not a floating-point matrix of the width of the entries; NaN or infinite values; with
                ``gather_distributed``, a number of keys that differs between ranks.
        """
        self._follow(keys)
        _checks.finite("keys", keys)
        if self.gather_distributed:
            keys = gather_with_gradient(keys)
        keys = keys.to(self.entries.dtype)
        if self.normalize:
            keys = F.normalize(keys, dim=1)
        keys = keys[-self.size :]
        places = (self.position + torch.arange(keys.shape[0], device=keys.device)) % self.size
        self.entries.index_copy_(0, places, keys)
        self.position.copy_((self.position + keys.shape[0]) % self.size)
        if self.start == "empty":
            self.count.add_(keys.shape[0]).clamp_(max=self.size)

    def _first_entries(self, dim: int) -> Tensor:
        if self.start == "empty":
            return torch.zeros(self.size, dim)
        return F.normalize(torch.randn(self.size, dim), dim=1)

    def _held(self) -> Tensor:
        """The entries that have come in, or that the bank started with."""
        if self._full:  # remembered, as a look at the count makes a GPU wait
            return self.entries
        count = int(self.count)
        self._full = count == self.size
        return self.entries[:count]

    def _follow(self, keys: Tensor) -> None:
        """Take width and device from the keys where they are not set, or differ."""
        _checks.floating("keys", keys)
        if self.entries.shape[1] == 0:
            wide = torch.promote_types(self.entries.dtype, keys.dtype)  # half keys need no wider entries than float32
            self.entries = self._first_entries(keys.shape[1]).to(wide)
        if keys.shape[1] != self.entries.shape[1]:
            raise ValueError(f"keys: want rows of width {self.entries.shape[1]}, got {_checks.describe(keys)}")
        if self.entries.device != keys.device:
            self.to(keys.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}entries")
        if saved is not None and self.entries.shape[1] == 0 and saved.shape[0] == self.size:
            self.entries = self.entries.new_empty(saved.shape)
        self._full = self.start == "random"
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return (
            f"size={self.size}, dim={self.entries.shape[1] or None}, normalize={self.normalize}, "
            f"gather_distributed={self.gather_distributed}, start={self.start!r}"
        )


def bank_of_size(name: str, size: int | Sequence[int], **options: Any) -> MemoryBank | None:
    """The bank of a size, or of a size and a width; none of size 0. ``name``: of the argument, for errors.

    Raises:
        ValueError: not an integer >= 0, or two of them.
    """
    sizes = (size,) if isinstance(size, int) else size
    whole = isinstance(sizes, Sequence) and all(isinstance(n, int) and not isinstance(n, bool) for n in sizes)
    if not whole or len(sizes) not in (1, 2) or min(sizes) < 0:
        raise ValueError(f"{name}: want an integer >= 0, or (size, width), got {size!r}")
    count, *width = sizes
    return MemoryBank(count, *width, **options) if count else None
