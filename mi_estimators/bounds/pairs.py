"""The scores of all pairs of a batch, as a matrix or as the embeddings it factors into, and what bounds read of them.

A bound is written once, in terms of a few reductions, and then works on both. Of embeddings the log-sum-exps come from
:func:`~mi_estimators.pairwise_lse`, and what is no log-sum-exp is taken by blocks of rows whose scores are computed
again in the backward pass: memory is O(K d), and nothing is of size K x K.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import accumulated, unchecked_pairwise_lse, without_autocast

_BLOCK_ELEMENTS = 1 << 20  # scores held at a time where they are no log-sum-exp

RowFunction = Callable[[Tensor, Tensor], Tensor]
"""From some rows of scores ``[b, K]`` and the mask of their positives ``[b, K]`` to one number for each row."""


@dataclass(frozen=True)
class Factored:
    """Scores ``s_ij = u_i . v_j`` of K pairs, given by their factors; every bound of scores takes it in their place.

    Attributes:
        u: embeddings of x.
        v: embeddings of y, row i belonging to row i of ``u``.

    Shape:
        - u, v: ``[K, e]``, K >= 2; float64, float32, bfloat16 or float16.

    Raises:
        TypeError: not floating-point tensors, or dtypes that differ.
        ValueError: shapes or devices that differ, fewer than two pairs, values that are not finite.
    """

    u: Tensor
    v: Tensor

    def __post_init__(self) -> None:
        _checks.floating("u", self.u)
        _checks.floating("v", self.v)
        _checks.alike("v", self.v, "u", self.u, same_shape=True)
        _at_least_two("u", self.u)
        _checks.finite("u", self.u)
        _checks.finite("v", self.v)


def _at_least_two(name: str, rows: Tensor) -> None:
    if rows.shape[0] < 2:
        raise ValueError(f"{name}: want K >= 2 pairs, since one pair has no negatives; got K = 1")


class Pairs(ABC):
    """K positives ``s_ii`` and K (K - 1) negatives ``s_ij``."""

    @property
    @abstractmethod
    def size(self) -> int:
        """K."""

    @property
    @abstractmethod
    def transposed(self) -> Pairs:
        """The same pairs with the roles of x and y exchanged."""

    @abstractmethod
    def positives(self) -> Tensor:
        """``s_ii``, ``[K]``."""

    @abstractmethod
    def negative_lse(self, bias: Tensor | None = None) -> Tensor:
        """``log sum_{j != i} exp(s_ij + bias_j)``, ``[K]``."""

    @abstractmethod
    def log_mean_exp_negatives(self, bias: Tensor | None = None) -> Tensor:
        """``log mean_{i != j} exp(s_ij + bias_j)``, ``[]``."""

    @abstractmethod
    def map_rows(self, function: RowFunction) -> Tensor:
        """What a function gives for each row of scores, ``[K]``."""


@dataclass(frozen=True)
class _Dense(Pairs):
    scores: Tensor

    @property
    def size(self) -> int:
        return self.scores.shape[0]

    @property
    def transposed(self) -> Pairs:
        return _Dense(self.scores.T)

    def _diagonal(self) -> Tensor:
        return torch.eye(self.size, dtype=torch.bool, device=self.scores.device)

    def positives(self) -> Tensor:
        return self.scores.diagonal()

    def _negatives(self, bias: Tensor | None) -> Tensor:
        scores = self.scores if bias is None else self.scores + bias
        return scores.masked_fill(self._diagonal(), -math.inf)

    def negative_lse(self, bias: Tensor | None = None) -> Tensor:
        return self._negatives(bias).logsumexp(dim=1)

    def log_mean_exp_negatives(self, bias: Tensor | None = None) -> Tensor:
        return self._negatives(bias).logsumexp(dim=(0, 1)) - math.log(self.size * (self.size - 1))

    def map_rows(self, function: RowFunction) -> Tensor:
        return function(self.scores, self._diagonal())


@dataclass(frozen=True)
class _Streamed(Pairs):
    u: Tensor
    v: Tensor

    @property
    def size(self) -> int:
        return self.u.shape[0]

    @property
    def transposed(self) -> Pairs:
        return _Streamed(self.v, self.u)

    def positives(self) -> Tensor:
        u, v = accumulated(self.u, self.v)
        return (u * v).sum(dim=1)

    def negative_lse(self, bias: Tensor | None = None) -> Tensor:
        with without_autocast(self.u):
            return unchecked_pairwise_lse(self.u, self.v, bias=bias, exclude_diagonal=True)

    def log_mean_exp_negatives(self, bias: Tensor | None = None) -> Tensor:
        return self.negative_lse(bias).logsumexp(dim=0) - math.log(self.size * (self.size - 1))

    def map_rows(self, function: RowFunction) -> Tensor:
        rows = max(1, _BLOCK_ELEMENTS // self.size)
        with without_autocast(self.u):
            u, v = accumulated(self.u, self.v)
            parts = [
                checkpoint(
                    _block_of_rows,
                    function,
                    u[start : start + rows],
                    v,
                    start,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
                for start in range(0, self.size, rows)
            ]
        return torch.cat(parts)


def _block_of_rows(function: RowFunction, u: Tensor, v: Tensor, start: int) -> Tensor:
    rows = torch.arange(start, start + u.shape[0], device=u.device)
    return function(u @ v.T, rows[:, None] == torch.arange(v.shape[0], device=u.device))


def as_pairs(scores: Tensor | Factored) -> Pairs:
    """Check scores, and widen half-precision ones: a mean of K^2 exponentials does not fit 8 or 11 bits."""
    if isinstance(scores, Factored):
        return _Streamed(scores.u, scores.v)
    return _Dense(score_matrix(scores))


def score_matrix(scores: Tensor, name: str = "scores") -> Tensor:
    """Check a matrix of scores, and widen a half-precision one."""
    _checks.floating(name, scores)
    if scores.shape[0] != scores.shape[1]:
        raise ValueError(f"{name}: want a square matrix with the positives on the diagonal, got {tuple(scores.shape)}")
    _at_least_two(name, scores)
    _checks.finite(name, scores)
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def per_pair(name: str, value: Tensor, pairs: Pairs, like: Tensor) -> Tensor:
    """Check for one number per pair, of the dtype and device of the positives."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: want a torch.Tensor, got {_checks.describe(value)}")
    if value.shape != (pairs.size,):
        raise ValueError(f"{name}: want shape ({pairs.size},), got {_checks.describe(value)}")
    return value.to(like)
