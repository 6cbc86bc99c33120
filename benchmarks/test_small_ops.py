"""Small calls, where overhead counts: ``pytest benchmarks --benchmark-enable`` times them, a plain run only calls them.

Compare two commits with ``--benchmark-save=NAME`` on one and ``--benchmark-compare`` on the other.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import mi_estimators as mi

N, D = 128, 128


def _lse(x: Tensor, y: Tensor) -> Tensor:
    row, col = mi.pairwise_lse(x, y, scale=0.1, columns=True)
    return row.sum() + col.sum()


def _kde(x: Tensor, y: Tensor) -> Tensor:
    return mi.kde_entropy(x[:, :8], kernel="gaussian", bandwidth=0.5)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pairwise_lse": _lse,
    "info_nce": mi.info_nce,
    "nt_xent": mi.nt_xent,
    "kde_entropy": _kde,
}


@pytest.fixture
def points() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator, requires_grad=True)
    return x, torch.randn(N, D, generator=generator, requires_grad=True)


@pytest.mark.parametrize("name", OPERATIONS)
def test_forward(benchmark: BenchmarkFixture, points: tuple[Tensor, Tensor], name: str) -> None:
    operation = OPERATIONS[name]
    with torch.no_grad():
        value = benchmark(operation, *points)
    assert torch.isfinite(value)


@pytest.mark.parametrize("name", OPERATIONS)
def test_forward_and_backward(benchmark: BenchmarkFixture, points: tuple[Tensor, Tensor], name: str) -> None:
    operation = OPERATIONS[name]

    def both() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(operation(*points), points, allow_unused=True)

    grads = benchmark(both)
    assert all(bool(torch.isfinite(g).all()) for g in grads if g is not None)
