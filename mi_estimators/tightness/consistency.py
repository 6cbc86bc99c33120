"""Self-consistency: relations that mutual information obeys and an estimator may not.

After Song and Ermon. x is an image, and ``Y_t`` shows its first t rows:

- *Baseline*: ``I(x; Y_t) / I(x; Y)``, with all rows in ``Y``: nothing is seen of no row, and it grows with t.
- *Data processing*: ``I([x, x]; [Y_t, Y_s]) / I(x; Y_t)`` with s < t is 1: a part of what is seen already adds nothing.
- *Additivity*: ``I([x, x']; [Y_t, Y'_t]) / I(x; Y_t)`` is 2 for two independent images.

As in the paper with the pictures of an image set, of which neither the mutual information nor the ratio of the baseline
is known. Or with Gaussian "images", eight rows of independent standard normal pixels, where y shows its rows under
noise: every row adds the same information, so every value is known, and the baseline is ``t / 8``.

Source: Song and Ermon 2020 (arXiv 1910.06222), sec. 5 and 6.2.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.image_sets import DATASETS, load
from mi_estimators.synthetic import Task
from mi_estimators.tightness.config import TightnessConfig
from mi_estimators.tightness.training import counting, train

GAUSSIAN = "gaussian"
"""The images that are drawn, and need no files."""


@dataclass(frozen=True)
class Images:
    """Where images come from, and what is seen of them.

    Attributes:
        rows: of an image.
        columns: of an image, times its channels.
        draw: ``(shape, generator) -> (image, seen)``, both ``[*shape, rows, columns]`` in float64.
        nats_per_row: information of one row, None where it is not known.
    """

    rows: int
    columns: int
    draw: Callable[[tuple[int, ...], torch.Generator], tuple[Tensor, Tensor]]
    nats_per_row: float | None


def gaussian_images(nats_per_row: float, rows: int = 8, columns: int = 2) -> Images:
    """Independent standard normal pixels, seen under noise such that a row tells ``nats_per_row``."""
    _checks.positive("nats_per_row", nats_per_row)
    noise = math.sqrt(1 / math.expm1(2 * nats_per_row / columns))

    def draw(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        image = torch.randn(*shape, rows, columns, generator=generator, dtype=torch.float64)
        return image, image + noise * torch.randn(image.shape, generator=generator, dtype=torch.float64)

    return Images(rows, columns, draw, nats_per_row)


def pictures(name: str, data_dir: str | Path | None) -> Images:
    """Training pictures of an image set with pixels in [0, 1], drawn with replacement and seen as they are.

    Raises:
        FileNotFoundError, ValueError: as :func:`mi_estimators.image_sets.load`; pictures of fewer than eight rows.
    """
    stored = load(name, data_dir).train
    pool = stored.pixels().transpose(1, 2).flatten(2)  # [N, rows, channels * columns]
    if pool.shape[1] < 8:
        raise ValueError(f"images: want pictures of at least 8 rows, those of {name} have {pool.shape[1]}")

    def draw(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = pool[torch.randint(len(pool), shape, generator=generator)].double()
        return drawn, drawn

    return Images(pool.shape[1], pool.shape[2], draw, None)


def seen_rows(images: Images, *parts: int, copies: int = 1) -> Task:
    """Images, and what is seen of them.

    Args:
        images: where they come from.
        *parts: for every part of y, how many rows it shows: one part for each image, or, with one image, several parts
            of what is seen of it.
        copies: number of independent images.
    """

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        image, seen = images.draw((n, copies), generator)
        # x has as many parts as y, as in the paper: a copy where there is one image.
        x = [image[:, index % copies].flatten(1) for index in range(len(parts))]
        y = [seen[:, index % copies, :rows].flatten(1) for index, rows in enumerate(parts)]
        return torch.cat(x, dim=1), torch.cat(y, dim=1)

    rows = max(parts) if copies == 1 else sum(parts)
    truth = math.nan if images.nats_per_row is None else images.nats_per_row * rows
    name = f"rows-{'-'.join(map(str, parts))}-of-{copies}"
    return Task(name, len(parts) * images.rows * images.columns, sum(parts) * images.columns, truth, sampler)


def run_consistency(
    *,
    bounds: tuple[str, ...] = ("infonce", "nwj", "js", "smile"),
    images: str | None = None,
    data_dir: Path | None = None,
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
        images: "gaussian", or an image set: "mnist", "fashion-mnist", "cifar-10", "cifar-100", "digits"; None takes
            "mnist" where there is a ``data_dir``, "gaussian" otherwise.
        data_dir: folder of the official files of an image set.
        nats_per_row: information of one row of a Gaussian image.
        steps: training steps of each estimate; it is the mean over their last quarter.
        batch_size: pairs per step.
        hidden: size of each of the critic's two hidden layers.
        learning_rate: of Adam.
        seed: of data and initial weights.
        threads: estimators trained at the same time.
        progress: called after every step with the number of steps done and the total.

    Returns:
        A dictionary ready for JSON: the arguments, and ``rows``: for each bound and test the ``ratio``, what it
        ``should_be``, and the two estimates and truths that it comes from, in nats; None where it is not known.

    Raises:
        FileNotFoundError: a file of the image set is not in ``data_dir``.
        TypeError, ValueError: an argument out of range, a damaged file.
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
    chosen = images or ("mnist" if data_dir is not None else GAUSSIAN)
    _checks.choice("images", chosen, (GAUSSIAN, *DATASETS))
    if chosen == GAUSSIAN:
        if data_dir is not None:
            raise ValueError(f"data_dir: Gaussian images are drawn and take no folder, got {str(data_dir)!r}")
        source = gaussian_images(nats_per_row)
    else:
        source = pictures(chosen, data_dir)
    quarter, half = source.rows // 4, source.rows // 2
    shown = (quarter, half, half + quarter, source.rows)
    one = {t: seen_rows(source, t) for t in shown}
    copied = seen_rows(source, half, half - quarter)
    two = seen_rows(source, half, half, copies=2)
    known = source.nats_per_row is not None
    tests: list[tuple[str, Task, Task, float | None]] = [
        (f"baseline, {t} of {source.rows} rows", one[t], one[source.rows], t / source.rows if known else None)
        for t in shown[:-1]
    ]
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
                    "truths": [task.mutual_information if known else None for task in (above, below)],
                }
            )
    return {
        "images": chosen,
        "nats_per_row": source.nats_per_row,
        "steps": steps,
        "batch_size": batch_size,
        "hidden": hidden,
        "learning_rate": learning_rate,
        "seed": seed,
        "rows": rows,
    }
