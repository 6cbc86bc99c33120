"""Neural estimates of mutual information: a bound trained on some pairs and reported on others."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mi_estimators import _checks
from mi_estimators.estimators.result import Measurement
from mi_estimators.estimators.scaling import SCALINGS, scaled
from mi_estimators.variational import VariationalEstimator, variational
from mi_estimators.variational.modelled import BarberAgakov

_BLOCKS = 8
"""Number of evaluation blocks from which their spread tells the standard error."""

_VALUES = 20
"""Values of a jackknife over all blocks together, and so about its degrees of freedom."""


def _blocks(n: int, batch_size: int) -> tuple[int, int]:
    """How many equal blocks of at least ``batch_size`` pairs n pairs make, and their size; one where n is less."""
    count = max(1, n // batch_size)
    return count, n // count


def _evaluate(model: VariationalEstimator, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Value and objective on consecutive blocks of pairs, ``[blocks, 2]`` float64."""
    count, size = _blocks(len(x), batch_size)
    model.eval()
    with torch.no_grad():
        rows = [
            torch.stack(model(x[start : start + size], y[start : start + size]))
            for start in range(0, count * size, size)
        ]
    model.train()
    return torch.stack(rows).double().cpu()


def _error(model: VariationalEstimator, x: Tensor, y: Tensor, batch_size: int, values: Tensor) -> tuple[float, int]:
    """Standard error of the mean of a bound over blocks, and its degrees of freedom.

    From the spread of the blocks' values where there are enough of them, else from those within each block of the value
    without a part of its pairs (delete-a-group jackknife: Efron and Tibshirani 1993, ch. 11).
    """
    count, size = _blocks(len(x), batch_size)
    if count >= _BLOCKS:
        return float(values.std()) / math.sqrt(count), count - 1
    groups = min(size, max(4, _VALUES // count))
    variance = 0.0
    for start in range(0, count * size, size):
        rows = torch.arange(start, start + size, device=x.device)
        kept = (rows[(rows - start) % groups != group] for group in range(groups))
        without = torch.cat([_evaluate(model, x[rest], y[rest], len(rest))[:, 0] for rest in kept])
        variance += float(without.var(correction=0)) * (groups - 1) / count**2
    return math.sqrt(variance), count * (groups - 1)


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
    critic: str | nn.Module = "concatenated",
    critic_options: Mapping[str, Any] | None = None,
    bound_options: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    evaluation_batch_size: int = 256,
    learning_rate: float = 1e-3,
    max_steps: int = 3000,
    min_steps: int = 300,
    evaluate_every: int = 100,
    patience: int = 5,
    time_limit: float | None = None,
    validation_fraction: float = 0.2,
    test_fraction: float = 0.2,
    standardize: str | None = "zscore",
    device: torch.device | str = "cpu",
) -> Measurement:
    """Train a bound's networks with Adam, and report the bound on pairs set apart for that.

    The pairs are split at random in three: the networks train on the first part, the weights with the highest objective
    on the second are kept, and the value comes from the third, which had no part in either choice: a lower bound stays
    one. The test pairs are cut into blocks of at least ``evaluation_batch_size``; the value is the mean over blocks,
    the standard error comes from their spread, or of fewer than eight blocks from a jackknife within each.

    Computed in float32 after scaling in float64. Repeats bit for bit from ``seed`` on one machine with one thread
    count, unless ``time_limit`` ends it, and does not touch the global random state.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]`` float64.
        bound: name in :data:`mi_estimators.bounds.BOUNDS`.
        seed: of the split, the initial weights and the batches.
        critic: name in :data:`mi_estimators.critics.CRITICS`.
        critic_options: keyword arguments of the critic; for ``"concatenated"`` without any, two hidden layers of 64.
        bound_options: keyword arguments of the bound: see :func:`mi_estimators.variational.variational`.
        batch_size: pairs per training step.
        evaluation_batch_size: least number of pairs per block of validation and test, or all where there are fewer:
            the K of the reported bound. Its log caps InfoNCE; a larger one lowers the variance of the others, and the
            bias of DV. BA and ER, whose entropy of y comes from the block, always take all.
        learning_rate: of Adam.
        max_steps: number of training steps if validation goes on improving.
        min_steps: number of training steps before early stopping may act.
        evaluate_every: training steps between evaluations on the validation pairs.
        patience: evaluations without improvement after which training stops.
        time_limit: seconds of training after which it stops, with the best weights until then; None for no limit.
        validation_fraction: share of the pairs for early stopping.
        test_fraction: share of the pairs for the reported value.
        standardize: map of every coordinate, learned on the training pairs: ``"zscore"`` (mean and standard deviation),
            ``"rank"`` (normal scores of the ranks: for heavy tails) or None.
        device: where to train.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of range, or there are too few pairs for one batch in each part; the device cannot
            be used; training diverged before it was first evaluated.

    Warns:
        RuntimeWarning: training diverged later on: the value is that of the best weights until then.
    """
    for name, value in (
        ("max_steps", max_steps),
        ("min_steps", min_steps),
        ("evaluate_every", evaluate_every),
        ("patience", patience),
    ):
        _checks.count(name, value)
    _checks.count("batch_size", batch_size, 2)  # one pair has no negatives
    _checks.count("evaluation_batch_size", evaluation_batch_size, 2)
    _checks.positive("learning_rate", learning_rate)
    _checks.positive("validation_fraction", validation_fraction)
    _checks.positive("test_fraction", test_fraction)
    if time_limit is not None:
        _checks.positive("time_limit", time_limit)
    if standardize is not None:
        _checks.choice("standardize", standardize, SCALINGS)
    _checks.usable_device("device", device)
    if validation_fraction + test_fraction >= 1:
        raise ValueError("test_fraction: want validation_fraction + test_fraction < 1, so that training pairs remain")

    generator = torch.Generator().manual_seed(seed)
    parts = _split(len(x), (validation_fraction, test_fraction), generator)
    for name, part, least in zip(("training", "validation", "test"), parts, (batch_size, 2, 3), strict=True):
        if len(part) < least:
            raise ValueError(
                f"x: want at least {least} {name} pairs (batch_size; 2 to validate and 3 to test), "
                f"got {len(part)} of n = {len(x)}"
            )
    columns = [scaled(name, value, parts[0].numpy(), standardize) for name, value in (("x", x), ("y", y))]
    (x_train, y_train), (x_valid, y_valid), (x_test, y_test) = (
        tuple(torch.as_tensor(value[part.numpy()], dtype=torch.float32, device=device) for value in columns)
        for part in parts
    )
    if critic_options is None and critic == "concatenated":
        critic_options = {"hidden": (64, 64)}
    model = variational(
        bound,
        x.shape[1],
        y.shape[1],
        critic=critic,
        critic_options=critic_options,
        bound_options=bound_options,
        generator=generator,
    ).to(device)
    if isinstance(model, BarberAgakov):
        # Its entropy of y is estimated from the block, and costs memory linear in it.
        evaluation_batch_size = max(evaluation_batch_size, len(x))

    def validate() -> tuple[float, float]:
        value, objective = _evaluate(model, x_valid, y_valid, evaluation_batch_size).mean(dim=0).tolist()
        return value, objective

    def permuted(seed: int) -> float:
        order = torch.randperm(len(y_test), generator=torch.Generator().manual_seed(seed))
        return float(_evaluate(model, x_test, y_test[order.to(device)], evaluation_batch_size)[:, 0].mean())

    curve = _train(
        model,
        x_train,
        y_train,
        validate,
        generator,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_steps=max_steps,
        min_steps=min_steps,
        evaluate_every=evaluate_every,
        patience=patience,
        time_limit=math.inf if time_limit is None else time_limit,
    )
    values = _evaluate(model, x_test, y_test, evaluation_batch_size)[:, 0]
    std, freedom = _error(model, x_test, y_test, evaluation_batch_size, values)
    cap = model.bound.cap
    return Measurement(
        value=float(values.mean()),
        std=std,
        degrees_of_freedom=freedom,
        cap=None if cap is None else cap(_blocks(len(x_test), evaluation_batch_size)[1]),
        curve=curve,
        kind=model.bound.kind,
        permuted=permuted,
    )


def _train(
    model: VariationalEstimator,
    x: Tensor,
    y: Tensor,
    validate: Callable[[], tuple[float, float]],
    generator: torch.Generator,
    *,
    batch_size: int,
    learning_rate: float,
    max_steps: int,
    min_steps: int,
    evaluate_every: int,
    patience: int,
    time_limit: float,
) -> tuple[tuple[int, float], ...]:
    """Train, leave the weights with the highest validation objective, and return the curve of validation values.

    Weights that run away make scores or densities that are not finite, which a bound refuses; from there training
    cannot come back.
    """
    parameters = list(model.parameters())
    if not parameters:  # an inner product: nothing to train
        return ()
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    curve: list[tuple[int, float]] = []
    best_objective, best_step, best_weights = -math.inf, 0, copy.deepcopy(model.state_dict())
    order, position = torch.randperm(len(x), generator=generator), 0
    moved = False  # whether the weights have
    start = time.perf_counter()
    for step in range(1, max_steps + 1):
        if position + batch_size > len(x):
            order, position = torch.randperm(len(x), generator=generator), 0
        batch = order[position : position + batch_size].to(x.device)
        position += batch_size
        try:
            ascend(model(x[batch], y[batch]).objective, optimizer)
            moved = True
            last = step == max_steps or time.perf_counter() - start >= time_limit
            evaluated = validate() if step % evaluate_every == 0 or last else None
        except _checks.NotFinite as error:
            if not moved:
                raise  # of the settings or the data, not of the training
            if best_objective == -math.inf:
                raise ValueError(
                    f"learning_rate: training diverged at step {step}, before any weights were evaluated; want less "
                    f"than {learning_rate:g}, or standardize='rank' for data with heavy tails"
                ) from error
            warnings.warn(
                f"training diverged at step {step}; the value is that of the best weights until then, of step "
                f"{best_step}. A learning_rate below {learning_rate:g} may prevent it.",
                RuntimeWarning,
                stacklevel=2,
            )
            break
        if evaluated is not None:
            value, objective = evaluated
            curve.append((step, value))
            if objective > best_objective:
                best_objective, best_step, best_weights = objective, step, copy.deepcopy(model.state_dict())
            elif step >= min_steps and step - best_step >= patience * evaluate_every:
                break
        if last:
            break
    model.load_state_dict(best_weights)
    return tuple(curve)
