"""Intervals and tests by running an estimator again: over seeds, on resampled pairs, on independent data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from mi_estimators.estimators.result import Measurement, student_quantile

Measure = Callable[[np.ndarray, np.ndarray, int], Measurement]
"""``(x [n, dim_x], y [n, dim_y], seed) -> Measurement``."""

INTERVALS = {
    "standard_error": "the expectation of the value over new pairs of the same number, as far as the estimator's own "
    "standard error is right: that of a closed form is asymptotic; that of nearest neighbours takes its terms as "
    "independent, and is short by a third or so; that of a trained critic takes the critic as given, and comes from "
    "held-out pairs",
    "seeds": "the mean over all seeds for these very pairs: splits, initial weights and batches, but no new data",
    "bootstrap": "the expectation of the value over new pairs of the same number, from pairs drawn with replacement; "
    "only for estimators that repeated pairs do not spoil",
    "subsample": "the expectation of the value over new independent pairs of the same number, from random disjoint "
    "parts, if the variance is inversely proportional to the number of pairs",
    "blocks": "as subsample, from consecutive blocks in the order given: also for a series whose dependence is short "
    "beside a block",
}
"""The ways to make a confidence interval, and what each covers. The bias of the estimator is covered by none."""

NULLS = {
    "held_out": "the y of the test pairs permuted, the trained critic kept: exact, and no further training",
    "permute": "all y permuted, the whole estimate made again",
    "shift": "y shifted in a circle against x, the whole estimate made again: for series, whose order a permutation "
    "would destroy",
}
"""The ways to make data on which x and y are independent."""

# Streams of the random numbers, so that one use of a seed does not repeat another's.
_BOOTSTRAP, _SUBSAMPLE, _NULL = 1, 2, 3


def seeds(seed: int, count: int) -> list[int]:
    """``seed`` itself, then numbers derived from it."""
    return [seed, *(int(s) for s in np.random.SeedSequence(seed).generate_state(count - 1, np.uint32))]


def combined(runs: Sequence[Measurement]) -> Measurement:
    """The mean over seeds. Its standard error adds the spread over seeds to that of one run.

    The runs share their data, so the error of one run is not divided by their number.
    """
    if len(runs) == 1:
        return runs[0]
    values = np.array([run.value for run in runs])
    own = [run.std**2 for run in runs if run.std is not None]
    first = runs[0]
    return Measurement(
        value=float(values.mean()),
        std=math.sqrt(sum(own) / len(own) + values.var(ddof=1) / len(runs)) if own else None,
        degrees_of_freedom=first.degrees_of_freedom,
        cap=first.cap,
        kind=first.kind,
        curve=first.curve,
        permuted=first.permuted,
    )


def seed_error(values: Sequence[float]) -> tuple[float, float]:
    """Standard error of a mean over seeds, and its degrees of freedom."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)), len(values) - 1


def bootstrap(measure: Measure, x: np.ndarray, y: np.ndarray, *, seed: int, n_resamples: int) -> list[float]:
    """Values on pairs drawn with replacement, as many as there are.

    Source:
        Efron and Tibshirani 1993, ch. 6.
    """
    generator = np.random.default_rng([seed, _BOOTSTRAP])
    draws = (generator.integers(len(x), size=len(x)) for _ in range(n_resamples))
    return [measure(x[rows], y[rows], seed).value for rows in draws]


def parts(
    measure: Measure, x: np.ndarray, y: np.ndarray, *, seed: int, n_blocks: int, n_partitions: int | None
) -> np.ndarray:
    """Values on disjoint parts of equal size, ``[partitions, n_blocks]``.

    Args:
        measure: the estimator.
        x: ``[n, dim_x]``.
        y: ``[n, dim_y]``.
        seed: of the estimator and of the partitions.
        n_blocks: number of parts, >= 2.
        n_partitions: number of random partitions; None for the one into consecutive blocks.

    Raises:
        ValueError: the parts are too small for the estimator.
    """
    size = len(x) // n_blocks
    generator = np.random.default_rng([seed, _SUBSAMPLE])
    orders = (
        [np.arange(len(x))] if n_partitions is None else [generator.permutation(len(x)) for _ in range(n_partitions)]
    )
    try:
        return np.array(
            [
                [measure(x[rows], y[rows], seed).value for rows in order[: n_blocks * size].reshape(n_blocks, size)]
                for order in orders
            ]
        )
    except ValueError as error:
        raise ValueError(f"n_blocks: {n_blocks} parts of {size} pairs each are too small: {error}") from error


def parts_error(values: np.ndarray) -> tuple[float, float]:
    """Standard error at the full number of pairs from values on parts, and its degrees of freedom.

    The variance on a part of n / m pairs is m times that on n pairs, if it falls as 1 / n. Random partitions add up:
    over many of them the variance between parts tends to that of all the terms.

    Source:
        Holmes and Nemenman 2019 (arXiv 1903.09280), sec. III; Politis, Romano and Wolf 1999, ch. 2.
    """
    n_partitions, n_blocks = values.shape
    return math.sqrt(float(values.var(axis=1, ddof=1).mean()) / n_blocks), n_partitions * (n_blocks - 1)


def independent(
    measure: Measure, measured: Measurement, x: np.ndarray, y: np.ndarray, *, kind: str, count: int, seed: int
) -> list[float]:
    """Values under independence, by one of :data:`NULLS`.

    Raises:
        ValueError: there are no held-out pairs, or fewer shifts than asked for.
    """
    generator = np.random.default_rng([seed, _NULL])
    if kind == "held_out":
        if measured.permuted is None:
            raise ValueError(f"null: this estimator holds no pairs out; want one of {sorted(NULLS.keys() - {kind})}")
        return [measured.permuted(int(s)) for s in generator.integers(2**32, size=count)]
    if kind == "permute":
        orders = (generator.permutation(len(y)) for _ in range(count))
        return [measure(x, y[order], seed).value for order in orders]
    if count > len(y) - 1:
        raise ValueError(f"n_permutations: {len(y)} pairs have {len(y) - 1} circular shifts, got {count}")
    shifts = 1 + generator.choice(len(y) - 1, size=count, replace=False)
    return [measure(x, np.roll(y, shift, axis=0), seed).value for shift in shifts]


def p_value(value: float, null: Sequence[float]) -> float:
    """Share of values at least as large, the observed one among them, so that it is never 0.

    Source:
        Phipson and Smyth 2010 (arXiv 1603.05766), sec. 3.
    """
    return (1 + sum(not drawn < value for drawn in null)) / (1 + len(null))


def interval(value: float, std: float, degrees_of_freedom: float, level: float) -> tuple[float, float]:
    """Two-sided Student interval."""
    margin = student_quantile((1 + level) / 2, degrees_of_freedom) * std
    return value - margin, value + margin
