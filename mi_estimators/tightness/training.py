"""Training of many variational estimators on fresh batches of tasks that follow one another, all in one process.

Estimators are independent of each other, so each runs on one thread and as many of them at a time as there are threads:
nothing waits for a barrier inside an operation, and values do not depend on the number of threads. Estimators with
separable critics, whose operations are small, are trained as stacks
(:class:`~mi_estimators.tightness.fast_critics.SeparableStack`), those with concatenated critics one by one with a
backward of their own (:class:`~mi_estimators.tightness.fast_critics.PairCritic`), all others as they are.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mi_estimators._parallel import single_threaded
from mi_estimators.critics import Concatenated, Separable
from mi_estimators.estimators.neural import ascend
from mi_estimators.synthetic import Task
from mi_estimators.tightness.config import PRECISIONS, TightnessConfig
from mi_estimators.tightness.fast_critics import PairCritic, SeparableStack
from mi_estimators.variational import VariationalEstimator, variational


@dataclass
class Trained:
    """One estimator of a staircase and what it gave.

    Attributes:
        bound: name of the bound.
        seed: of its batches and initial weights.
        values: of every step in nats, None where not finite.
        seconds: of each level.
    """

    bound: str
    seed: int
    values: list[float | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class _Stopped(Exception):
    """Another estimator failed, or the user interrupted."""


def counting(total: int, progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    """What :func:`train` reports steps to: adds them up and calls ``progress(done, total)`` for each."""
    done = 0

    def report(count: int) -> None:
        nonlocal done
        for _ in range(count):
            done += 1
            if progress is not None:
                progress(done, total)

    return report


def build(bound: str, task: Task, config: TightnessConfig, seed: int) -> VariationalEstimator:
    """An estimator for the variables of a task, with initial weights drawn from the seed."""
    options: dict[str, Any] = {}
    if config.critic in ("separable", "concatenated", "hybrid"):
        options["hidden"] = (config.hidden,) * config.layers
    if config.critic == "separable":
        options["embedding"] = config.embedding
    generator = torch.Generator().manual_seed(seed)
    return variational(
        bound, task.dim_x, task.dim_y, critic=config.critic, critic_options=options, generator=generator
    ).to(config.device)


def train(config: TightnessConfig, tasks: Sequence[Task], report: Callable[[int], None]) -> list[Trained]:
    """Train every bound and seed on fresh batches of each task in turn; the weights go on from task to task.

    Args:
        config: the settings.
        tasks: one a level, with variables of the same sizes.
        report: called with the number of steps done since the last call, by one thread at a time.

    Raises:
        ValueError: as :func:`mi_estimators.variational.variational`.
    """
    members = [
        Trained(bound, seed) for bound in config.bounds for seed in range(config.seed, config.seed + config.seeds)
    ]
    models = [build(member.bound, tasks[0], config, member.seed) for member in members]
    workers = config.threads or torch.get_num_threads()
    stop, lock = threading.Event(), threading.Lock()

    def step_done(count: int) -> None:
        if stop.is_set():
            raise _Stopped
        with lock:
            report(count)

    stackable = [index for index, model in enumerate(models) if type(getattr(model, "critic", None)) is Separable]
    share = max(1, math.ceil(len(stackable) / workers))
    jobs: list[Callable[[], None]] = []
    shared = (tasks, config, step_done)
    for start in range(0, len(stackable), share):
        part = stackable[start : start + share]
        together = [members[index] for index in part]
        jobs.append(partial(_train_stack, together, [models[index] for index in part], *shared))
    for index, (member, model) in enumerate(zip(members, models, strict=True)):
        if index not in stackable:
            jobs.append(partial(_train_one, member, model, *shared))

    def work(job: Callable[[], None]) -> None:
        torch.set_num_threads(1)
        job()

    with single_threaded(), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        finally:  # on an error or an interrupt nobody trains on
            stop.set()
            for future in futures:
                future.cancel()
    return members


def _train_one(
    member: Trained,
    model: VariationalEstimator,
    tasks: Sequence[Task],
    config: TightnessConfig,
    step_done: Callable[[int], None],
) -> None:
    critic = getattr(model, "critic", None)
    if type(critic) is Concatenated:
        model.critic = PairCritic(critic, PRECISIONS[config.precision])
    data = torch.Generator().manual_seed(member.seed + 1)
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, fused=True) if parameters else None
    diverged = False
    for task in tasks:
        start = time.perf_counter()
        for _ in range(config.steps_per_level):
            number = math.nan
            if not diverged:
                x, y = task.sample(config.batch_size, data, device=config.device)
                try:
                    value, objective = model(x, y)
                except ValueError:
                    if not member.values:
                        raise  # at the first step it is an error of the settings, not of the training
                    diverged = True  # scores that are not finite: there is no way back
                else:
                    number = value.item()
                    if optimizer is not None:
                        ascend(objective, optimizer)
            member.values.append(number if math.isfinite(number) else None)
            step_done(1)
        member.seconds.append(time.perf_counter() - start)


def _record(members: Sequence[Trained], numbers: Sequence[float], step_done: Callable[[int], None]) -> None:
    for member, number in zip(members, numbers, strict=True):
        member.values.append(number if math.isfinite(number) else None)
    step_done(len(members))


class _Given(nn.Module):
    """In the place of a critic: scores that were computed for it."""

    scores: Tensor

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.scores


def _train_stack(
    members: list[Trained],
    models: list[VariationalEstimator],
    tasks: Sequence[Task],
    config: TightnessConfig,
    step_done: Callable[[int], None],
) -> None:
    """Train separable critics of one size together, each under its own bound."""
    stack = SeparableStack([model.critic for model in models])  # type: ignore[misc]
    slots = []
    for model in models:
        model.critic = _Given()
        slots.append(model.critic)
    own = [list(model.parameters()) for model in models]  # of the bound, beside the critic's
    rows = [nn.Parameter(row) for row in stack.weights.unbind()]
    optimizer = torch.optim.Adam([*rows, *itertools.chain(*own)], lr=config.learning_rate, fused=True)
    seeds = sorted({member.seed for member in members})
    order = torch.tensor([seeds.index(member.seed) for member in members])
    data = [torch.Generator().manual_seed(seed + 1) for seed in seeds]
    for task in tasks:
        start = time.perf_counter()
        for _ in range(config.steps_per_level):
            batches = [task.sample(config.batch_size, generator, device=config.device) for generator in data]
            x, y = (torch.stack([batch[side] for batch in batches])[order] for side in (0, 1))
            scores = stack.scores(x, y)
            given = scores.detach().requires_grad_()
            numbers, total = [], given.new_zeros(())
            for index, (model, slot, part) in enumerate(zip(models, slots, given.unbind(), strict=True)):
                slot.scores = part
                try:
                    value, objective = model(x[index], y[index])
                except ValueError:
                    if not members[index].values:
                        raise
                    numbers.append(math.nan)
                else:
                    numbers.append(value.item())
                    total = total + objective
            optimizer.zero_grad()
            if not total.requires_grad:  # every one of them has diverged
                _record(members, numbers, step_done)
                continue
            (-total).backward()
            assert given.grad is not None
            stack.backward(scores, given.grad)
            usable = stack.gradients.isfinite().all(dim=1).tolist()
            for row, gradient, extra, use in zip(rows, stack.gradients.unbind(), own, usable, strict=True):
                use = use and all(bool(p.grad.isfinite().all()) for p in extra if p.grad is not None)
                row.grad = gradient if use else None
                if not use:
                    for parameter in extra:
                        parameter.grad = None
            optimizer.step()
            _record(members, numbers, step_done)
        seconds = (time.perf_counter() - start) / len(members)
        for member in members:
            member.seconds.append(seconds)
