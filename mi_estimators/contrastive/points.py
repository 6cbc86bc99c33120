"""Points and temperatures, as the log-sum-exps take them; samples by label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_estimators.ops.pairwise_lse import accumulation_dtype


def inverse(temperature: float | Tensor, like: Tensor) -> Tensor:
    """The scale 1 / temperature, without dimensions, in the dtype that holds sums."""
    dtype = accumulation_dtype(like.dtype)
    if isinstance(temperature, Tensor):
        return 1 / temperature.to(device=like.device, dtype=dtype).reshape(())
    return torch.full((), 1 / temperature, dtype=dtype, device=like.device)


def prepared(points: Tensor, normalize: bool) -> Tensor:
    """The points in the accumulation dtype, of unit length if asked.

    Half types are widened before anything else: the gradients of a positive and of its negatives nearly cancel, and
    would lose all their digits if each were rounded to half first.
    """
    points = points.to(accumulation_dtype(points.dtype))
    return F.normalize(points, dim=1) if normalize else points


@dataclass(frozen=True)
class Classes:
    """Samples by equal id. Nothing has a shape that depends on the ids, so that it can be compiled."""

    index: Tensor  # [N], the class of each sample, from 0
    order: Tensor  # [N], samples class by class
    start: Tensor  # [N], for each place in that order, the place where its class starts

    @staticmethod
    def of(ids: Tensor) -> Classes:
        """The classes of the samples with these ids."""
        order = ids.argsort(stable=True)
        by_class = ids[order]
        opens = torch.cat([torch.ones_like(by_class[:1]), (by_class[1:] != by_class[:-1]).long()])
        index = torch.empty_like(order).scatter(0, order, opens.cumsum(0) - 1)
        places = torch.arange(len(ids), device=ids.device)
        return Classes(index, order, (opens * places).cummax(0).values)

    def sums(self, values: Tensor) -> Tensor:
        """For each sample, the sum of the values over its class, itself included."""
        return torch.zeros_like(values).index_add(0, self.index, values).index_select(0, self.index)

    def successors(self) -> Tensor:
        """For each sample, the next one of its class, from the last back to the first."""
        places = torch.arange(1, len(self.order) + 1, device=self.order.device)
        ends = torch.cat([self.start[1:] == places[:-1], torch.ones_like(places[:1], dtype=torch.bool)])
        following = self.order[torch.where(ends, self.start, places.clamp(max=len(places) - 1))]
        return torch.empty_like(following).scatter(0, self.order, following)
