"""Kernel densities at more points than fit at once, and entropies with a standard error from parts of a large sample.

Queries go through by chunks, so memory is O((chunk + M) d) for M support points; the pass over the pairs is that of
:func:`~mi_estimators.pairwise_lse`. Nothing here carries gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mi_estimators import _checks, _extras
from mi_estimators.entropy.forms import Bandwidth, effective_bandwidth
from mi_estimators.entropy.kde import (
    BandwidthChoice,
    check_choice,
    check_points,
    check_weights,
    log_total_of_others,
    of_sum_one,
    resolve_bandwidth,
    rows_of,
    sum_over_support,
)
from mi_estimators.entropy.kernels import KERNELS
from mi_estimators.ops.pairwise_lse import accumulated, without_autocast

Points: TypeAlias = Tensor | NDArray[Any]
Progress: TypeAlias = bool | Callable[[int, int], None]


@dataclass(frozen=True)
class EntropyEstimate:
    """An estimate of differential entropy, in nats.

    Attributes:
        value: the estimate.
        standard_error: of ``value``, from the spread of the log-densities over the points used. It says how far another
            sample would move the value, not how far smoothing has moved it: the bias is not in it.
        n_used: number of points at which the density was evaluated.
        n_support: number of points that the density was made of (of a split: of both halves).
        bandwidth: the bandwidth, or the number that stands for one of another form: with the same volume, and the
            geometric mean over points and halves.
    """

    value: float
    standard_error: float
    n_used: int
    n_support: int
    bandwidth: float

    def __float__(self) -> float:
        return self.value

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided normal confidence interval of the expectation of ``value``, at 0 < level < 1."""
        if not 0 < level < 1:
            raise ValueError(f"level: want a number between 0 and 1, got {level!r}")
        from scipy.special import ndtri

        margin = float(ndtri((1 + level) / 2)) * self.standard_error
        return self.value - margin, self.value + margin


@contextmanager
def _reporting(progress: Progress, label: str) -> Iterator[Callable[[int, int], None]]:
    if callable(progress):
        yield progress
    elif progress:
        _extras.require("rich", "train")
        from mi_estimators.console import progress_bar

        with progress_bar(label) as report:
            yield report
    else:
        yield lambda done, total: None


def _check_size(name: str, value: int | None) -> None:
    if value is not None:
        _checks.count(name, value)


def _check_matrix(name: str, points: object) -> None:
    if not isinstance(points, (Tensor, np.ndarray)):
        raise TypeError(f"{name}: want a torch.Tensor or a numpy.ndarray, got {_checks.describe(points)}")
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(f"{name}: want 2 dimensions and at least one element along each, got {tuple(points.shape)}")


def _rows(name: str, points: Points, index: slice | Tensor | None, kernel: str, like: Tensor | None = None) -> Tensor:
    """Some rows as a checked tensor, of an array (which may be a map of a file) only those that are wanted."""
    if isinstance(points, Tensor):
        rows = points.detach() if index is None else points.detach()[index]
        if like is not None:
            rows = rows.to(like.device)
    else:
        array = np.asarray(points if index is None else points[index.numpy() if isinstance(index, Tensor) else index])
        rows = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        if like is not None:
            rows = rows.to(like)
    _checks.floating(name, rows)
    if like is not None:
        _checks.alike(name, rows, "support", like)
    _checks.finite(name, rows)
    check_points(name, rows, kernel)
    return rows


class _Density:
    """The density of support points at a bandwidth that is resolved once, evaluated chunk by chunk."""

    def __init__(self, support: Tensor, kernel: str, bandwidth: BandwidthChoice, weights: Tensor | None) -> None:
        (points,) = accumulated(support)
        self.weights = None if weights is None else of_sum_one(weights)
        self.bandwidth: Bandwidth = resolve_bandwidth(bandwidth, points, kernel, self.weights)
        self.terms = sum_over_support(points, KERNELS[kernel], self.bandwidth, self.weights, "exact")
        self.columns = self.terms.rows(points) if self.terms.columns is None else self.terms.columns
        self.effective = effective_bandwidth(self.bandwidth, KERNELS[kernel], *points.shape)
        self.points = points

    def at(self, queries: Tensor) -> Tensor:
        """Log-density at other points."""
        (queries,) = accumulated(queries)
        total = math.log(len(self.points)) if self.weights is None else self.weights.sum().log()
        return self.terms.log_sum(self.terms.rows(queries), self.columns) - total + self.terms.constant

    def at_own(self, start: int, stop: int) -> Tensor:
        """Log-density at support points start to stop, each left out of its own."""
        total: float | Tensor = math.log(len(self.points) - 1)
        if self.weights is not None:
            total = log_total_of_others(self.weights)[start:stop]
        rows = self.terms.rows(self.points[start:stop])
        # Columns are turned so that a row's own one lies on the diagonal, which the pass leaves out at no cost.
        columns = self.columns.roll(-start, dims=0) if start else self.columns
        return self.terms.turned(start).log_sum(rows, columns, exclude_diagonal=True) - total + self.terms.constant


@torch.no_grad()
def stream_log_density(
    query: Points,
    support: Points,
    *,
    kernel: str = "gaussian",
    bandwidth: BandwidthChoice = "loo",
    weights: Tensor | None = None,
    chunk_size: int = 16384,
    progress: Progress = False,
) -> Tensor:
    r"""Log-density of the support at very many query points, without gradients.

    As :func:`~mi_estimators.entropy.kde_log_density`, a chunk of queries at a time. Queries may be a NumPy array that
    is a map of a file, of which a chunk is read at a time.

    Args:
        query: where the density is wanted.
        support: the samples; results are computed in its dtype and on its device.
        kernel, bandwidth, weights: as for :func:`~mi_estimators.entropy.kde_log_density`.
        chunk_size: queries at a time.
        progress: ``True`` for a bar on standard error (needs Rich, of the extra [train]), or a function that is called
            with the number of queries done and their total.

    Shape:
        - query: :math:`(N, d)`, support: :math:`(M, d)`; Output: :math:`(N,)`, on the device of the support. Nats.

    Raises:
        TypeError, ValueError: as :func:`~mi_estimators.entropy.kde_log_density`, or a chunk size below 1. Values that
            are not finite are found when their chunk is reached.
    """
    _checks.choice("kernel", kernel, KERNELS)
    check_choice(bandwidth, kernel)
    _check_size("chunk_size", chunk_size)
    _check_matrix("query", query)
    _check_matrix("support", support)
    samples = _rows("support", support, None, kernel)
    if query.shape[1] != samples.shape[1]:
        raise ValueError(f"query: want the width of support ({samples.shape[1]}), got {tuple(query.shape)}")
    if isinstance(bandwidth, str) and len(samples) < 2:
        raise ValueError(f"support: want at least 2 points for a rule to choose a bandwidth, got {len(samples)}")
    if weights is not None:
        check_weights(weights, len(samples), samples, left_out=False)
    with without_autocast(samples):
        density = _Density(samples, kernel, bandwidth, weights)
        return _evaluate(density, query, None, kernel, samples, chunk_size, progress)


def _evaluate(
    density: _Density,
    query: Points,
    index: Tensor | None,
    kernel: str,
    like: Tensor,
    chunk_size: int,
    progress: Progress,
    name: str = "query",
) -> Tensor:
    count = query.shape[0] if index is None else len(index)
    result = density.points.new_empty(count)
    with _reporting(progress, "log-density") as report:
        for start in range(0, count, chunk_size):
            stop = min(start + chunk_size, count)
            rows = _rows(name, query, slice(start, stop) if index is None else index[start:stop], kernel, like)
            result[start:stop] = density.at(rows)
            report(stop, count)
    return result


def _evaluate_own(density: _Density, count: int, chunk_size: int, progress: Progress) -> Tensor:
    result = density.points.new_empty(count)
    with _reporting(progress, "log-density") as report:
        for start in range(0, count, chunk_size):
            stop = min(start + chunk_size, count)
            result[start:stop] = density.at_own(start, stop)
            report(stop, count)
    return result


def _mean_and_error(surprises: list[Tensor], weights: list[Tensor | None]) -> tuple[float, float]:
    """Mean over all parts, and its standard error from the spread within each; infinite where that is not known."""
    sums, squares, total = 0.0, 0.0, 0.0
    for surprise, weight in zip(surprises, weights, strict=True):
        part = surprise.to(torch.float64)
        share = torch.ones_like(part) if weight is None else weight.to(part)
        part = part[share > 0]
        share = share[share > 0]
        centre = (share * part).sum() / share.sum()
        spread = float((share * (part - centre)).square().sum())
        sums += float((share * part).sum())
        squares += spread * len(part) / (len(part) - 1) if len(part) > 1 and math.isfinite(spread) else math.inf
        total += float(share.sum())
    return sums / total, math.sqrt(squares) / total


@torch.no_grad()
def estimate_kde_entropy(
    x: Points,
    support: Points | None = None,
    *,
    kernel: str = "gaussian",
    bandwidth: BandwidthChoice = "loo",
    weights: Tensor | None = None,
    reduction: str = "joe",
    max_queries: int | None = None,
    max_support: int | None = None,
    chunk_size: int = 16384,
    progress: Progress = False,
    seed: int = 0,
) -> EntropyEstimate:
    r"""Entropy of a large sample with a standard error, without gradients.

    ==================  ==============================  ==========================================================
    call                the density is made of          and evaluated at
    ==================  ==============================  ==========================================================
    ``"joe"``           points of ``x``                 the same points, each left out of its own
    ``"split"``         each half of ``x`` in turn      the points of the other half
    with ``support``    points of ``support``           points of ``x``: the cross-entropy of the two samples
    ==================  ==============================  ==========================================================

    The last two evaluate at points that neither the density nor its bandwidth has seen, so that the value is on average
    no smaller than the entropy. All points are used unless ``max_support`` or ``max_queries`` say how many: the pairs,
    and so the time, are their product. A subset is drawn at random. With fewer queries only the standard error grows;
    with fewer support points the bias does.

    Args:
        x: the sample; a NumPy array may be a map of a file, of which only the points in use are read.
        support: a second sample that the density is made of.
        kernel: see :func:`~mi_estimators.entropy.kde_log_density`.
        bandwidth: see :func:`~mi_estimators.entropy.kde_log_density`. A rule sees the support points in use.
        weights: of the points that the density is made of; with ``support=None`` of the mean over points as well.
        reduction: ``"joe"`` or ``"split"``.
        max_queries: evaluate at so many points at most (of a split: of each half).
        max_support: make the density of so many points at most (of a split: of each half).
        chunk_size: points at a time.
        progress: see :func:`stream_log_density`.
        seed: of the halves and subsets.

    Shape:
        - x: :math:`(N, d)`, support: :math:`(M, d)`, weights: :math:`(M,)`, or :math:`(N,)` without support.

    Raises:
        TypeError, ValueError: as :func:`~mi_estimators.entropy.kde_entropy`; sizes below 1; a split of two samples.

    Source: the standard error is that of a mean of :math:`-\log \hat f(x_i)`, whose first-order variance is
    :math:`\mathrm{Var} \log f / N` also where each point is left out (Hall and Morton 1993, section 2).
    """
    _checks.choice("kernel", kernel, KERNELS)
    _checks.choice("reduction", reduction, ("joe", "split"))
    check_choice(bandwidth, kernel)
    for name, size in (("max_queries", max_queries), ("max_support", max_support), ("chunk_size", chunk_size)):
        _check_size(name, size)
    _check_matrix("x", x)
    if support is not None:
        _check_matrix("support", support)
        if reduction == "split":
            raise ValueError("reduction: want 'joe' with a support of its own, got 'split', which splits x")
        if x.shape[1] != support.shape[1]:
            raise ValueError(f"x: want the width of support ({support.shape[1]}), got {tuple(x.shape)}")
    made_of, made_of_name = (x, "x") if support is None else (support, "support")
    count = made_of.shape[0]
    if weights is not None:
        _checks.floating("weights", weights, ndim=1)
        check_weights(weights, count, weights, left_out=support is None and reduction == "joe")
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int, most: int | None) -> Tensor:
        order = torch.randperm(size, generator=generator)
        return order if most is None else order[:most]

    if support is not None:
        directions = [(draw(count, max_support), draw(x.shape[0], max_queries))]
    elif reduction == "split":
        order = draw(count, None)
        halves = order[: count // 2], order[count // 2 :]
        if count < 4:
            raise ValueError(f"x: want at least 4 points to split, got {count}")
        directions = [(a[:max_support], b[:max_queries]) for a, b in (halves, halves[::-1])]
    else:
        inside = draw(count, max_support)
        directions = [(inside, inside[:max_queries])]

    surprises, shares, widths, used = [], [], [], 0
    for inside, outside in directions:
        if len(inside) < 2 and (isinstance(bandwidth, str) or (support is None and reduction == "joe")):
            raise ValueError(f"{made_of_name}: want at least 2 points to make a density of, got {len(inside)}")
        samples = _rows(made_of_name, made_of, inside, kernel)
        own_weights = None if weights is None else weights[inside.to(weights.device)].to(samples.device)
        if own_weights is not None:
            check_weights(own_weights, len(inside), samples, left_out=support is None and reduction == "joe")
        with without_autocast(samples):
            density = _Density(samples, kernel, rows_of(bandwidth, inside, count), own_weights)
            if support is None and reduction == "joe":
                log_density = _evaluate_own(density, len(outside), chunk_size, progress)
            else:
                log_density = _evaluate(density, x, outside, kernel, samples, chunk_size, progress, "x")
        surprises.append(-log_density)
        shares.append(None if weights is None or support is not None else weights[outside.to(weights.device)])
        widths.append(math.log(density.effective))
        used += len(outside)
    value, error = _mean_and_error(surprises, shares)
    n_support = sum(len(inside) for inside, _ in directions)
    return EntropyEstimate(value, error, used, n_support, math.exp(sum(widths) / len(widths)))
