"""Neural estimates of mutual information: a critic trained on some pairs, a bound reported on others."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mi_estimators import _checks
from mi_estimators.bounds import BOUNDS, Bound
from mi_estimators.critics import CRITICS
from mi_estimators.estimators.result import Measurement


def _positive_integers(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: want an integer, got {value!r}")
        if value < 1:
            raise ValueError(f"{name}: want at least 1, got {value}")


def _blocks(n: int, batch_size: int) -> tuple[int, int]:
    """How many equal blocks of at least ``batch_size`` pairs n pairs make, and their size; one where n is less."""
    count = max(1, n // batch_size)
    return count, n // count


def _evaluate(critic: nn.Module, bound: Bound, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Value and objective of the bound on consecutive blocks of pairs, ``[blocks, 2]`` float64."""
    count, size = _blocks(len(x), batch_size)
    with torch.no_grad():
        rows = [
            torch.stack(bound.value_and_objective(critic(x[start : start + size], y[start : start + size])))
            for start in range(0, count * size, size)
        ]
    return torch.stack(rows).double().cpu()


def ascend(objective: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step of the optimizer up the objective.

    A batch on which an exponential overflows has no usable gradient; stepping on it would spoil the weights for good.
    It is passed over.
    """
    optimizer.zero_grad()
    (-objective).backward()
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
        optimizer.step()


def _split(n: int, fractions: tuple[float, float], generator: torch.Generator) -> list[Tensor]:
    """Random indices of the training, validation and test pairs."""
    sizes = [int(n * fraction) for fraction in fractions]
    order = torch.randperm(n, generator=generator)
    return list(order.split([n - sum(sizes), *sizes]))


def estimate(
    x: np.ndarray,
    y: np.ndarray,
    *,
    bound: str,
    seed: int = 0,
    critic: str = "concatenated",
    critic_options: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    evaluation_batch_size: int = 128,
    learning_rate: float = 1e-3,
    max_steps: int = 3000,
    min_steps: int = 300,
    evaluate_every: int = 50,
    patience: int = 10,
    validation_fraction: float = 0.2,
    test_fraction: float = 0.2,
    standardize: bool = True,
    device: torch.device | str = "cpu",
) -> Measurement:
    """Train a critic with Adam to maximise a bound, and report the bound on pairs set apart for that.

    The pairs are split at random in three: the critic trains on the first part, the weights with the highest objective
    on the second are kept, and the value comes from the third, which had no part in either choice: a lower bound stays
    one. The test pairs are cut into blocks of at least ``evaluation_batch_size``; the value is the mean over blocks,
    the standard error comes from their spread. Computed in float32 after standardising in float64. Repeats bit for bit
    from ``seed`` on one machine with one thread count, and does not touch the global random state.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]`` float64.
        bound: name in :data:`mi_estimators.bounds.BOUNDS`.
        seed: of the split, the initial weights and the batches.
        critic: name in :data:`mi_estimators.critics.CRITICS`.
        critic_options: keyword arguments of the critic; for ``"concatenated"`` without any, two hidden layers of 64.
        batch_size: pairs per training step.
        evaluation_batch_size: least number of pairs per evaluation block; its log is what caps InfoNCE.
        learning_rate: of Adam.
        max_steps: number of training steps if validation goes on improving.
        min_steps: number of training steps before early stopping may act.
        evaluate_every: training steps between evaluations on the validation pairs.
        patience: evaluations without improvement after which training stops.
        validation_fraction: share of the pairs for early stopping.
        test_fraction: share of the pairs for the reported value.
        standardize: scale every coordinate by the mean and standard deviation of the training pairs.
        device: where to train.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of range, or there are too few pairs for one batch in each part.
    """
    _checks.choice("critic", critic, CRITICS)
    _positive_integers(
        max_steps=max_steps,
        min_steps=min_steps,
        evaluate_every=evaluate_every,
        patience=patience,
        batch_size=batch_size,
        evaluation_batch_size=evaluation_batch_size,
    )
    _checks.positive("learning_rate", learning_rate)
    _checks.positive("validation_fraction", validation_fraction)
    _checks.positive("test_fraction", test_fraction)
    for name, size in (("batch_size", batch_size), ("evaluation_batch_size", evaluation_batch_size)):
        if size < 2:
            raise ValueError(f"{name}: want at least 2, since one pair has no negatives; got {size}")
    if validation_fraction + test_fraction >= 1:
        raise ValueError("test_fraction: want validation_fraction + test_fraction < 1, so that training pairs remain")

    generator = torch.Generator().manual_seed(seed)
    parts = _split(len(x), (validation_fraction, test_fraction), generator)
    for name, part, least in zip(("training", "validation", "test"), parts, (batch_size, 2, 2), strict=True):
        if len(part) < least:
            raise ValueError(
                f"x: want at least {least} {name} pairs (batch_size, or 2 to evaluate on), "
                f"got {len(part)} of n = {len(x)}"
            )
    x, y = (
        _standardized(name, value, parts[0].numpy()) if standardize else value for name, value in (("x", x), ("y", y))
    )
    (x_train, y_train), (x_valid, y_valid), (x_test, y_test) = (
        tuple(torch.as_tensor(value[part.numpy()], dtype=torch.float32, device=device) for value in (x, y))
        for part in parts
    )

    chosen = BOUNDS[bound]
    options = critic_options if critic_options is not None else {"hidden": (64, 64)} if critic == "concatenated" else {}
    network = CRITICS[critic](x.shape[1], y.shape[1], generator=generator, **options).to(device)
    parameters = list(network.parameters())
    if not parameters:  # an inner product: nothing to train
        max_steps = 0
    else:
        optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True)

    curve: list[tuple[int, float]] = []
    best_objective, best_step, best_weights = -math.inf, 0, copy.deepcopy(network.state_dict())
    order, position = torch.randperm(len(x_train), generator=generator), 0
    for step in range(1, max_steps + 1):
        if position + batch_size > len(x_train):
            order, position = torch.randperm(len(x_train), generator=generator), 0
        batch = order[position : position + batch_size].to(device)
        position += batch_size
        _, objective = chosen.value_and_objective(network(x_train[batch], y_train[batch]))
        ascend(objective, optimizer)
        if step % evaluate_every == 0 or step == max_steps:
            value, objective = _evaluate(network, chosen, x_valid, y_valid, evaluation_batch_size).mean(dim=0).tolist()
            curve.append((step, value))
            if objective > best_objective:
                best_objective, best_step, best_weights = objective, step, copy.deepcopy(network.state_dict())
            elif step >= min_steps and step - best_step >= patience * evaluate_every:
                break

    network.load_state_dict(best_weights)
    values = _evaluate(network, chosen, x_test, y_test, evaluation_batch_size)[:, 0]
    count, size = _blocks(len(x_test), evaluation_batch_size)
    return Measurement(
        value=float(values.mean()),
        std=float(values.std()) / math.sqrt(count) if count > 1 else None,
        degrees_of_freedom=count - 1,
        cap=None if chosen.cap is None else chosen.cap(size),
        curve=tuple(curve),
    )


def _standardized(name: str, value: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance per column, as measured on the training rows."""
    mean, std = value[train].mean(axis=0), value[train].std(axis=0)
    if not (std > 0).all():
        raise ValueError(f"{name}: column {int(np.argmin(std))} is constant over the training pairs")
    return (value - mean) / std
