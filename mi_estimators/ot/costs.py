"""Costs between two sets, as sums over all pairs that a Sinkhorn iteration asks for.

A cost is given by points (then no matrix is ever formed) or as a matrix. The rest of the package asks only for the
methods below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mi_estimators.ops.pairwise_lse import accumulation_dtype, unchecked_pairwise_lse, widened
from mi_estimators.ops.plan_marginals import plan_marginals
from mi_estimators.ops.sinkhorn_iteration import sinkhorn_iteration

COSTS = ("sqeuclidean", "cosine")

BLOCK_ELEMENTS = 1 << 20  # pairs held at a time where blocks are formed: 4 MiB in float32
KEPT_BYTES = {"cpu": 64 << 20}  # of products of points that are kept from iteration to iteration; elsewhere none are
DIRECT_DIM = 8  # up to here the CPU's scores are differences, and cost no more than reading what was kept

# (epsilon, a, b, f, g, damping, relaxation) -> (new f, row_lse, col_lse)
Alternation = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]


class Costs(Protocol):
    """Costs C between n rows and m columns."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors that the costs are computed from."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        ...

    def of(self, *inputs: Tensor) -> Costs:
        """The same costs of other tensors."""
        ...

    def with_itself(self, side: int) -> Costs:
        """The costs between the points of one side and themselves."""
        ...

    def row_lse(self, epsilon: Tensor, bias: Tensor) -> Tensor:
        """log sum_j exp(bias_j - C_ij / epsilon), differentiable in the inputs, epsilon and bias."""
        ...

    def col_lse(self, epsilon: Tensor, bias: Tensor) -> Tensor:
        """log sum_i exp(bias_i - C_ij / epsilon), differentiable likewise."""
        ...

    def both_lse(self, epsilon: Tensor, row_bias: Tensor, col_bias: Tensor, *, absent: bool) -> tuple[Tensor, Tensor]:
        """Both, without gradients: ``row_lse(col_bias)`` and ``col_lse(row_bias)`` in one sweep over the pairs.

        ``absent``: some bias may be -inf.
        """
        ...

    def alternation(self) -> Alternation | None:
        """An alternating iteration in one sweep over the pairs, without gradients; None: there is nothing to gain.

        What it keeps for the next iteration lives as long as it does.
        """
        ...

    def block(self, rows: slice) -> Tensor:
        """The costs of some rows, [rows, m], by operations that autograd differentiates at any order."""
        ...

    def largest(self) -> float:
        """An upper bound of the finite costs."""
        ...


def row_blocks(costs: Costs) -> Iterator[slice]:
    """Blocks of rows of which no more than BLOCK_ELEMENTS pairs are formed at a time."""
    n, m = costs.shape
    size = max(1, BLOCK_ELEMENTS // m)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


@dataclass(frozen=True)
class PointCosts:
    """Costs of points: |x - y|^2, or 1 - x.y of points of length one (``cosine``). ``y`` is None for x with itself."""

    x: Tensor  # [n, d]
    y: Tensor | None  # [m, d]
    cosine: bool = False

    @property
    def columns(self) -> Tensor:
        """The points of the columns."""
        return self.x if self.y is None else self.y

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors that the costs are computed from."""
        return (self.x,) if self.y is None else (self.x, self.y)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return self.x.shape[0], self.columns.shape[0]

    @property
    def _score(self) -> str:
        return "dot" if self.cosine else "sqeuclidean"

    def of(self, *inputs: Tensor) -> PointCosts:
        """The same costs of other tensors."""
        x, *y = inputs
        return PointCosts(x, y[0] if y else None, self.cosine)

    def with_itself(self, side: int) -> PointCosts:
        """The costs between the points of one side and themselves."""
        return PointCosts((self.x, self.columns)[side], None, self.cosine)

    def _lse(self, x: Tensor, y: Tensor | None, epsilon: Tensor, bias: Tensor) -> Tensor:
        lse: Tensor = unchecked_pairwise_lse(x, y, scale=1 / epsilon, bias=bias, score=self._score)
        return lse - 1 / epsilon if self.cosine else lse

    def row_lse(self, epsilon: Tensor, bias: Tensor) -> Tensor:
        """log sum_j exp(bias_j - C_ij / epsilon)."""
        return self._lse(self.x, self.y, epsilon, bias)

    def col_lse(self, epsilon: Tensor, bias: Tensor) -> Tensor:
        """log sum_i exp(bias_i - C_ij / epsilon)."""
        return self._lse(self.columns, None if self.y is None else self.x, epsilon, bias)

    def both_lse(self, epsilon: Tensor, row_bias: Tensor, col_bias: Tensor, *, absent: bool) -> tuple[Tensor, Tensor]:
        """Both in one sweep."""
        offset = 1 / epsilon if self.cosine else 0.0
        rows, cols = plan_marginals(
            self.x, self.columns, scale=1 / epsilon, log_u=row_bias - offset, log_v=col_bias, score=self._score
        )
        rows, cols = rows - row_bias, cols - col_bias
        if absent:  # where a bias is -inf, the operator leaves the row out, its own sum too
            rows = torch.where(row_bias == -math.inf, self.row_lse(epsilon, col_bias), rows)
            cols = torch.where(col_bias == -math.inf, self.col_lse(epsilon, row_bias), cols)
        return rows, cols

    def alternation(self) -> Alternation:
        """An iteration by its kernel, with the products of the points kept where they are few."""
        x, y, score = self.x, self.columns, self._score
        pair_bytes = 8 if x.dtype == torch.float64 else 4
        products = None
        if x.shape[1] > DIRECT_DIM and len(x) * len(y) * pair_bytes <= KEPT_BYTES.get(x.device.type, 0):
            x, y = widened(x, y, score)
            products = x @ y.T

        def iterate(
            epsilon: Tensor, a: Tensor, b: Tensor, f: Tensor, g: Tensor, damping: Tensor, relaxation: float
        ) -> tuple[Tensor, Tensor, Tensor]:
            scale = 1 / epsilon
            offset = scale if self.cosine else 0.0
            row_lse, phi, col_lse = sinkhorn_iteration(
                x,
                y,
                scale=scale,
                a=a,
                b=b,
                phi=f * scale,
                psi=g * scale - offset,
                damping=damping,
                products=products,
                relaxation=relaxation,
                score=score,
            )
            return epsilon * phi, row_lse, col_lse - offset

        return iterate

    def block(self, rows: slice) -> Tensor:
        """The costs of some rows."""
        dtype = accumulation_dtype(self.x.dtype)
        x, y = self.x[rows].to(dtype), self.columns.to(dtype)
        if self.cosine:
            return 1 - x @ y.T
        centre = y.detach().mean(dim=0)  # changes no distance, and keeps digits that large norms would take
        x, y = x - centre, y - centre
        # Not kept from passing below 0: that would take the curvature from pairs of equal points.
        return x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * (x @ y.T)

    def largest(self) -> float:
        """An upper bound of the finite costs."""
        if self.cosine:
            return 2.0
        low = torch.minimum(self.x.amin(dim=0), self.columns.amin(dim=0))
        high = torch.maximum(self.x.amax(dim=0), self.columns.amax(dim=0))
        return float((high.double() - low.double()).square().sum())


@dataclass(frozen=True)
class MatrixCosts:
    """Costs given one by one, [n, m]; an infinite one forbids its pair."""

    matrix: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors that the costs are computed from."""
        return (self.matrix,)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return self.matrix.shape[0], self.matrix.shape[1]

    def of(self, *inputs: Tensor) -> MatrixCosts:
        """The same costs of other tensors."""
        return MatrixCosts(*inputs)

    def with_itself(self, side: int) -> MatrixCosts:
        """Costs of a set with itself do not follow from those between two."""
        raise TypeError("cost: want points, got a matrix of costs between two sets")

    def _lse(self, epsilon: Tensor, bias: Tensor, dim: int) -> Tensor:
        matrix = self.matrix.to(accumulation_dtype(self.matrix.dtype))
        forbidden = matrix == math.inf
        logits = bias - matrix.masked_fill(forbidden, 0) / epsilon
        logits = logits.masked_fill(forbidden, -math.inf)
        alive = (logits > -math.inf).any(dim, keepdim=True)  # else torch's gradient is NaN
        return torch.where(alive, logits, 0).logsumexp(dim).masked_fill(~alive.squeeze(dim), -math.inf)

    def row_lse(self, epsilon: Tensor, bias: Tensor) -> Tensor:
        """log sum_j exp(bias_j - C_ij / epsilon)."""
        return self._lse(epsilon, bias, 1)

    def col_lse(self, epsilon: Tensor, bias: Tensor) -> Tensor:
        """log sum_i exp(bias_i - C_ij / epsilon)."""
        return self._lse(epsilon, bias[:, None], 0)

    def both_lse(self, epsilon: Tensor, row_bias: Tensor, col_bias: Tensor, *, absent: bool) -> tuple[Tensor, Tensor]:
        """Both, one after the other."""
        return self.row_lse(epsilon, col_bias), self.col_lse(epsilon, row_bias)

    def alternation(self) -> None:
        """None: the costs are in memory."""

    def block(self, rows: slice) -> Tensor:
        """The costs of some rows."""
        return self.matrix[rows].to(accumulation_dtype(self.matrix.dtype))

    def largest(self) -> float:
        """An upper bound of the finite costs."""
        return float(self.matrix[torch.isfinite(self.matrix)].max())
