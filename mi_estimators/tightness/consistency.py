"""Self-consistency: relations that mutual information obeys and an estimator may not.

After Song and Ermon, on Gaussian "images" instead of photographs, so that every value is known too: x has eight rows of
independent standard normal pixels, ``Y_t`` its first t rows under noise, and each row adds the same information.

- *Baseline*: ``I(x; Y_t) / I(x; Y_8)`` is ``t / 8``: nothing is seen of no row, and it grows with t.
- *Data processing*: ``I([x, x]; [Y_t, Y_(t-2)]) / I(x; Y_t)`` is 1: a part of what is seen already adds nothing.
- *Additivity*: ``I([x, x']; [Y_t, Y'_t]) / I(x; Y_t)`` is 2 for two independent images.

Source: Song and Ermon 2020 (arXiv 1910.06222), sec. 5 and 6.2.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_estimators.synthetic import Task
from mi_estimators.tightness.config import TightnessConfig
from mi_estimators.tightness.training import counting, train

ROWS, COLUMNS = 8, 2
"""Of an image."""


def seen_rows(*copies: int, images: int, nats_per_row: float) -> Task:
    """Images, and what is seen of them.

    Args:
        *copies: for every part of y, how many rows of the noisy image it shows: one part for each image, or, with one
            image, several parts of the same noisy image.
        images: number of independent images.
        nats_per_row: information of one row.
    """
    noise = float(np.sqrt(1 / np.expm1(2 * nats_per_row / COLUMNS)))

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, images, ROWS, COLUMNS, generator=generator, dtype=torch.float64)
        y = x + noise * torch.randn(n, images, ROWS, COLUMNS, generator=generator, dtype=torch.float64)
        parts = [y[:, index % images, :rows].flatten(1) for index, rows in enumerate(copies)]
        # x has as many parts as y, as in the paper: a copy where there is one image.
        return torch.cat([x[:, index % images].flatten(1) for index in range(len(copies))], dim=1), torch.cat(parts, 1)

    truth = nats_per_row * (max(copies) if images == 1 else sum(copies))
    name = f"rows-{'-'.join(map(str, copies))}-of-{images}"
    return Task(name, len(copies) * ROWS * COLUMNS, sum(copies) * COLUMNS, truth, sampler)


def run_consistency(
    *,
    bounds: tuple[str, ...] = ("infonce", "nwj", "js", "smile"),
    nats_per_row: float = 0.5,
    steps: int = 2000,
    batch_size: int = 64,
    hidden: int = 128,
    learning_rate: float = 5e-4,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Train bounds on every side of the three relations, with fresh batches and a concatenated critic.

    Args:
        bounds: names in :data:`mi_estimators.bounds.BOUNDS`.
        nats_per_row: information of one row of an image.
        steps: training steps of each estimate; it is the mean over their last quarter.
        batch_size: pairs per step.
        hidden: size of each of the critic's two hidden layers.
        learning_rate: of Adam.
        seed: of data and initial weights.
        threads: estimators trained at the same time.
        progress: called after every step with the number of steps done and the total.

    Returns:
        A dictionary ready for JSON: the arguments, and ``rows``: for each bound and test the ``ratio``, what it
        ``should_be``, and the two estimates and truths that it comes from, in nats.

    Raises:
        TypeError, ValueError: an argument out of range.
    """
    config = TightnessConfig(
        bounds=bounds,
        batch_size=batch_size,
        steps_per_level=steps,
        levels=(1.0,),
        learning_rate=learning_rate,
        hidden=hidden,
        seed=seed,
        threads=threads,
    )
    half = ROWS // 2
    one = {t: seen_rows(t, images=1, nats_per_row=nats_per_row) for t in (2, half, 6, ROWS)}
    copied = seen_rows(half, half - 2, images=1, nats_per_row=nats_per_row)
    two = seen_rows(half, half, images=2, nats_per_row=nats_per_row)
    tests = [(f"baseline, {t} of {ROWS} rows", one[t], one[ROWS], t / ROWS) for t in (2, half, 6)]
    tests += [("data processing", copied, one[half], 1.0), ("additivity", two, one[half], 2.0)]
    tasks = [*one.values(), copied, two]
    report = counting(len(tasks) * len(bounds) * steps, progress)
    values: dict[tuple[str, str], float | None] = {}
    for task in tasks:
        for trained in train(config, [task], report):
            tail = [value for value in trained.values[-max(1, steps // 4) :] if value is not None]
            values[trained.bound, task.name] = statistics.fmean(tail) if tail else None
    rows = []
    for bound in bounds:
        for name, above, below, should_be in tests:
            over, under = values[bound, above.name], values[bound, below.name]
            rows.append(
                {
                    "bound": bound,
                    "test": name,
                    "ratio": None if over is None or not under else over / under,
                    "should_be": should_be,
                    "estimates": [over, under],
                    "truths": [above.mutual_information, below.mutual_information],
                }
            )
    return {
        "nats_per_row": nats_per_row,
        "steps": steps,
        "batch_size": batch_size,
        "hidden": hidden,
        "learning_rate": learning_rate,
        "seed": seed,
        "rows": rows,
    }
