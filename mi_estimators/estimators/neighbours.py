"""Nearest neighbours, and numbers of points in a box around each point, in the maximum norm.

A box is an intersection of d intervals, one a coordinate; the points in an interval are a range of ranks; and a set of
n points is n bits. Once the sets of the r lowest points of a coordinate are written out for every r, those in an
interval are the exclusive-or of two of these sets, and those in the box the bitwise and over the coordinates: two reads
and two operations for 64 points, where a tree compares coordinates one by one. Candidates are taken in blocks, so that
memory is O(n d) and the table of a coordinate stays in cache.

Whether a point lies in an interval is decided by the rounded difference of the two numbers, as in a loop over all
pairs: the k-th neighbour itself lies exactly on the border.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch

from mi_estimators.entropy.knn import TREE_DIM, neighbours_by_tree

_CANDIDATES = 2048  # of a block: the table of a coordinate then takes 512 KiB
_TABLE_WORDS = 1 << 23  # of 64 bits, at most, for all coordinates of a block
_QUERIES = 512  # whose words are held at a time
_DISTANCES = 1 << 16  # held at a time

Visit = Callable[[slice, int, np.ndarray], None]


def _upper_ranks(ordered: np.ndarray, radius: np.ndarray, closed: bool) -> np.ndarray:
    """For each of the ordered values the rank up to which the values above it are within its radius."""
    rank = np.arange(len(ordered))
    padded = np.append(ordered, np.inf)

    def inside(index: np.ndarray, of: np.ndarray) -> np.ndarray:
        distance = padded[index] - ordered[of]
        return distance <= radius[of] if closed else distance < radius[of]

    # The sum rounds otherwise than the difference that decides, so the search may miss by the values at the border.
    last = np.maximum(np.searchsorted(ordered, ordered + radius, side="right" if closed else "left"), rank)
    low = np.flatnonzero(inside(last, rank))
    while low.size:
        last[low] += 1
        low = low[inside(last[low], low)]
    high = np.flatnonzero((last > rank) & ~inside(last - 1, rank))
    while high.size:
        last[high] -= 1
        high = high[(last[high] > rank[high]) & ~inside(last[high] - 1, high)]
    return last


def _intervals(values: np.ndarray, radius: np.ndarray, closed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order of the values; and of each, the ranks from and to which the others are within its radius."""
    order = np.argsort(values, kind="stable")
    ordered, radius = values[order], radius[order]
    first, last = np.empty_like(order), np.empty_like(order)
    last[order] = _upper_ranks(ordered, radius, closed)
    first[order] = len(values) - _upper_ranks(-ordered[::-1], radius[::-1], closed)[::-1]
    return order, np.minimum(first, last), last  # an open interval of radius 0 is empty


def _popcount(words: np.ndarray) -> np.ndarray:
    """Bits set in each word of 64."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(words)
    return np.unpackbits(words[..., None].view(np.uint8), axis=-1).sum(axis=-1, dtype=np.uint8)


def _visit_boxes(points: np.ndarray, radius: np.ndarray, closed: bool, visit: Visit) -> None:
    """Call ``visit(queries, start, bits)`` for all blocks of queries and of candidates.

    Bit b of row q of ``bits`` says whether candidate ``start + b`` lies in the box around query q. Calls for one block
    of candidates may run at the same time, for different queries.
    """
    n, dim = points.shape
    intervals = [_intervals(column, radius, closed) for column in points.T]
    size = min(_CANDIDATES, math.isqrt(64 * _TABLE_WORDS // dim))
    edges = np.linspace(0, n, -(-n // size) + 1).astype(np.int64)
    blocks = [slice(start, min(start + _QUERIES, n)) for start in range(0, n, _QUERIES)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start, stop in pairwise(edges.tolist()):
            words = -(-(stop - start) // 64)
            coordinates = []
            for order, first, last in intervals:
                here = (order >= start) & (order < stop)
                below = np.concatenate([[0], np.cumsum(here)])
                candidates = order[here] - start
                lowest = np.zeros((len(candidates) + 1, words), dtype=np.uint64)
                lowest[np.arange(1, len(lowest)), candidates >> 6] = np.uint64(1) << (candidates & 63).astype(np.uint64)
                np.bitwise_or.accumulate(lowest, axis=0, out=lowest)
                coordinates.append((lowest, below[first], below[last]))

            def search(queries: slice, start: int = start, words: int = words, coordinates: list = coordinates) -> None:
                bits, more, less = np.empty((3, queries.stop - queries.start, words), dtype=np.uint64)
                bits.fill(~np.uint64(0))
                for lowest, first, last in coordinates:
                    # mode: the default checks the indices and writes by way of a copy.
                    np.take(lowest, last[queries], axis=0, out=more, mode="clip")
                    np.take(lowest, first[queries], axis=0, out=less, mode="clip")
                    more ^= less
                    bits &= more
                visit(queries, start, bits)

            list(pool.map(search, blocks))


def count_within(points: np.ndarray, radius: np.ndarray, *, closed: bool) -> np.ndarray:
    """How many others are closer to each point than its radius (``closed``: or as close) in the maximum norm.

    Args:
        points: ``[n, d]`` float64.
        radius: ``[n]`` float64, >= 0.
        closed: whether a point exactly at the radius counts.

    Returns:
        ``[n]`` int64.
    """
    itself = (radius >= 0) if closed else (radius > 0)
    if points.shape[1] == 1:
        _, first, last = _intervals(points[:, 0], radius, closed)
        return last - first - itself
    counts = -itself.astype(np.int64)

    def add(queries: slice, start: int, bits: np.ndarray) -> None:
        counts[queries] += _popcount(bits).sum(axis=1, dtype=np.int64)

    _visit_boxes(points, radius, closed, add)
    return counts


def _radius_from_some(points: np.ndarray, k: int, count: int) -> np.ndarray:
    """Distance to the k-th nearest of a number of other points, at which there are at least k among all points."""
    n = len(points)
    some = np.linspace(0, n - 1, count).astype(np.int64)
    place = np.full(n, -1)
    place[some] = np.arange(count)
    columns = np.ascontiguousarray(points[some].T)
    radius = np.empty(n)
    rows = max(1, _DISTANCES // count)

    def search(start: int) -> None:
        block = points[start : start + rows]
        distances, step = np.zeros((2, len(block), count))
        for own, others in zip(block.T, columns, strict=True):
            np.subtract(own[:, None], others, out=step)
            np.abs(step, out=step)
            np.maximum(distances, step, out=distances)
        at = place[start : start + rows]
        distances[np.flatnonzero(at >= 0), at[at >= 0]] = np.inf
        radius[start : start + rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(search, range(0, n, rows)))
    return radius


def _nearest_by_boxes(points: np.ndarray, k: int) -> np.ndarray:
    n, dim = points.shape
    # There will be about k n / count points in a box. To find one and to sort it in costs as much as several hundred
    # coordinates of a distance: this count makes both parts equal.
    count = min(n, max(k + 1, math.isqrt(250 * k * n // dim)))
    radius = _radius_from_some(points, k, count)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(queries: slice, start: int, bits: np.ndarray) -> None:
        row, word = np.nonzero(bits)
        pair, bit = np.nonzero(np.unpackbits(bits[row, word][:, None].view(np.uint8), axis=1, bitorder="little"))
        row, candidate = queries.start + row[pair], start + 64 * word[pair] + bit
        other = row != candidate
        row, candidate = row[other], candidate[other]
        found.append((row, candidate, np.abs(points[row] - points[candidate]).max(axis=1)))

    _visit_boxes(points, radius, True, add)
    row, candidate, distance = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((distance, row))
    first = np.searchsorted(row[order], np.arange(n))
    return candidate[order][first[:, None] + np.arange(k)]


def nearest(points: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k nearest other points of each point in the maximum norm, nearest first.

    Args:
        points: ``[n, d]`` float64.
        k: from 1 to n - 1.

    Returns:
        ``[n, k]`` int64.
    """
    if points.shape[1] <= TREE_DIM:
        return neighbours_by_tree(points, k, workers=torch.get_num_threads())
    return _nearest_by_boxes(points, k)


def distances_to(points: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Distances in the maximum norm from each point to those with the given indices.

    Args:
        points: ``[n, d]`` float64.
        indices: ``[n, k]``.

    Returns:
        ``[n, k]`` float64.
    """
    distances = np.zeros(indices.shape)
    for column in points.T:  # one coordinate at a time: [n, k, d] may be large
        np.maximum(distances, np.abs(column[:, None] - column[indices]), out=distances)
    return distances
