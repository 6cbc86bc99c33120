"""What a run would take, from a few steps of it: nothing is written."""

from __future__ import annotations

import dataclasses
import resource
import statistics
import sys
import time
from dataclasses import dataclass

import torch

from mi_estimators.image_sets import load
from mi_estimators.ssl.config import TrainConfig
from mi_estimators.ssl.heldout import evaluate
from mi_estimators.ssl.trainer import Trainer

TIMED = 3


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        device: that it would train on.
        parameters: trained ones.
        step_seconds: of a step, the median of a few.
        evaluation_seconds: of one evaluation on held-out pairs.
        total_seconds: of all steps and evaluations; linear probes and the reading of files are not in it.
        memory_bytes: on a GPU the most that tensors held; on the CPU the most that this process has held, with Python
            and its libraries.
    """

    device: str
    parameters: int
    step_seconds: float
    evaluation_seconds: float
    total_seconds: float
    memory_bytes: int


def dry_run(config: TrainConfig) -> Estimate:
    """Load the data, train a few steps and evaluate once, and estimate the whole run from that.

    Args:
        config: the settings; ``out`` is not looked at.

    Raises:
        ValueError, FileNotFoundError, FloatingPointError: as :func:`mi_estimators.ssl.train`.
    """
    config = dataclasses.replace(config, out=config.out or "none").resolved()
    data = load(config.data, config.data_dir)
    with torch.random.fork_rng():
        trainer = Trainer(config, data)
        on_gpu = trainer.fabric.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(trainer.fabric.device)
        # The first step is not timed: libraries load, memory is taken, clusters are found.
        steps = [_seconds(trainer, number) for number in range(min(1 + TIMED, trainer.steps))]
        start = time.perf_counter()
        evaluate(trainer.method, trainer.data.train, trainer.data.test, trainer.view, trainer.candidates, config.seed)
        evaluation = time.perf_counter() - start
    step = statistics.median(steps[1:] or steps)
    rows = 1 + -(-trainer.steps // config.eval_every)
    return Estimate(
        device=str(trainer.fabric.device),
        parameters=sum(weight.numel() for weight in trainer.method.parameters() if weight.requires_grad),
        step_seconds=step,
        evaluation_seconds=evaluation,
        total_seconds=trainer.steps * step + rows * evaluation,
        memory_bytes=torch.cuda.max_memory_allocated(trainer.fabric.device) if on_gpu else _process_bytes(),
    )


def _seconds(trainer: Trainer, number: int) -> float:
    start = time.perf_counter()
    trainer.step(number)  # reads the loss, so a GPU has finished the forward pass, and the step before
    return time.perf_counter() - start


def _process_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
