"""Negatives that are not i.i.d.: the "bounds" of a batch whose pairs share a hidden variable exceed the truth.

``(x, y) = z + e`` in the plane with z ~ N(0, [[1, -0.5], [-0.5, 1]]) and e ~ N(0, [[1, 0.9], [0.9, 1]]). With i.i.d.
negatives every pair has a z of its own, as the derivations of the bounds ask for; with the others z is drawn once for a
batch, as if its pairs came from one image. The distribution of a pair is the same: correlation 0.2, so
``I(x; y) = -log(1 - 0.04) / 2 = 0.0204`` nats. But off the diagonal of the scores the correlation is 0 with i.i.d.
negatives and -0.25 with the others. What NWJ then measures is the divergence between those and the pairs, up to 0.108
nats; InfoNCE, whose negatives tell of the z that they share, can give more.

Source: Tschannen et al. 2020 (arXiv 1907.13625), sec. 3.4 and fig. 4; there 20,000 steps at a learning rate of 1e-4.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_estimators.synthetic import Task
from mi_estimators.tightness.config import TightnessConfig
from mi_estimators.tightness.training import counting, train

TRUTH = -math.log1p(-0.04) / 2
"""I(x; y) in nats."""

_HIDDEN = torch.as_tensor(np.linalg.cholesky(np.array([[1, -0.5], [-0.5, 1]])))
_NOISE = torch.as_tensor(np.linalg.cholesky(np.array([[1, 0.9], [0.9, 1]])))


def task(*, iid: bool) -> Task:
    """The pairs of a batch, each with a hidden variable of its own (``iid``) or all with one."""

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        hidden = torch.randn(n if iid else 1, 2, generator=generator, dtype=torch.float64) @ _HIDDEN.T
        both = hidden + torch.randn(n, 2, generator=generator, dtype=torch.float64) @ _NOISE.T
        return both[:, :1], both[:, 1:]

    return Task("iid" if iid else "shared", 1, 1, TRUTH, sampler)


def run_negatives(
    *,
    bounds: tuple[str, ...] = ("infonce", "nwj"),
    steps: int = 3000,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    seeds: int = 3,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Train bounds with both kinds of negatives, on fresh batches.

    The critic is concatenated, with five hidden layers of 10 ReLU units.

    Args:
        bounds: names in :data:`mi_estimators.bounds.BOUNDS`.
        steps: training steps.
        learning_rate: of Adam.
        batch_size: pairs per step.
        seeds: repetitions.
        threads: estimators trained at the same time.
        progress: called after every step with the number of steps done and the total.

    Returns:
        A dictionary ready for JSON: ``truth``, the arguments, and ``rows``: for each bound and kind of negatives the
        ``mean`` over the last quarter of the steps of all seeds, its ``standard_error`` (every step has a fresh batch),
        and ``exceeds``: whether the mean lies above the truth by more than three of them.

    Raises:
        TypeError, ValueError: an argument out of range.
    """
    config = TightnessConfig(
        bounds=bounds,
        batch_size=batch_size,
        steps_per_level=steps,
        levels=(TRUTH,),
        learning_rate=learning_rate,
        hidden=10,
        layers=5,
        seeds=seeds,
        threads=threads,
    )
    report = counting(2 * len(bounds) * seeds * steps, progress)
    rows = []
    for iid in (True, False):
        trained = train(config, [task(iid=iid)], report)
        for bound in bounds:
            tails = (member.values[-max(1, steps // 4) :] for member in trained if member.bound == bound)
            values = [value for tail in tails for value in tail if value is not None]
            mean = statistics.fmean(values) if values else None
            error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
            rows.append(
                {
                    "bound": bound,
                    "negatives": "iid" if iid else "shared",
                    "mean": mean,
                    "standard_error": error,
                    "exceeds": mean is not None and mean > TRUTH + 3 * (error or 0.0),
                }
            )
    return {
        "truth": TRUTH,
        "steps": steps,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "seeds": seeds,
        "rows": rows,
    }
